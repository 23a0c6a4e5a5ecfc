/**
 * Search by preemptions (Musuvathi and Qadeer's iterative context bounding, PLDI 2007): all schedules
 * without a preemption, then all with one, with two, and so on. Most bugs need few.
 *
 * Protocol   A schedule is a list of deviations from "whoever moved last goes on". A run shows, after its
 *            last deviation, where else one could deviate: where the task that moved last could go on too
 *            that is a preemption, and waits for its turn; else it is run with the same bound. So every
 *            schedule is run exactly once.
 *
 * Items are kept as pairs of words, each with the item it adds a deviation to.
 *
 * @module
 */
import { lowestBit } from '../../base/bits.js';
import {
  C_END,
  C_STEP,
  END_STEPS,
  RULE_FIRST,
  stepTask,
  TR_ENABLED,
  TRACE_AT,
  TRACE_WORDS,
} from '../control.js';
import type { Deviation, Plan } from '../plan.js';
import { limitOf, type Strategy, type StrategyFacts, type StrategyOptions } from './strategy.js';

/** Schedules that may wait for their turn; 8 bytes each. */
const ITEMS_MAX = 1 << 25;
const ITEM_WORDS = 2;
/** The item without deviations. */
const ROOT = -1;

export class BoundedSearch implements Strategy {
  /** Item to add to, and step << 4 | task. */
  #items = new Int32Array(ITEM_WORDS << 12);
  #count = 0;
  /** Items still to run with this bound, and with the next. */
  #stack: number[] = [ROOT];
  #later: number[] = [];
  #running = ROOT;
  #bound = 0;
  /** The highest bound of which every schedule has been run; -1: none. */
  #complete = -1;
  #cutOff = 0;
  #dropped = 0;
  #exhausted = false;
  readonly #preemptionsMax: number;
  readonly #limit: Pick<Plan, 'stepLimit'>;

  constructor(options: StrategyOptions) {
    this.#preemptionsMax = options.preemptionsMax ?? Infinity;
    this.#limit = limitOf(options);
  }

  next(): Plan | undefined {
    let item = this.#stack.pop();
    if (item === undefined) {
      if (this.#dropped === 0 && this.#cutOff === 0) this.#complete = this.#bound;
      if (this.#later.length === 0) {
        this.#exhausted = this.#dropped === 0 && this.#cutOff === 0;
        return undefined;
      }
      if (this.#bound >= this.#preemptionsMax) return undefined;
      this.#bound++;
      this.#stack = this.#later.reverse(); // those found first come first
      this.#later = [];
      item = this.#stack.pop()!;
    }
    this.#running = item;
    return { rule: RULE_FIRST, deviations: this.#deviations(item), ...this.#limit };
  }

  #deviations(item: number): Deviation[] {
    const deviations: Deviation[] = [];
    for (let at = item; at !== ROOT; at = this.#items[at * ITEM_WORDS]!) {
      const packed = this.#items[at * ITEM_WORDS + 1]!;
      deviations.push({ step: packed >> 4, task: packed & 15 });
    }
    return deviations.reverse();
  }

  observe(control: Int32Array): void {
    if (control[C_END] === END_STEPS) this.#cutOff++;
    const item = this.#running;
    const steps = control[C_STEP]!;
    const from = item === ROOT ? 0 : (this.#items[item * ITEM_WORDS + 1]! >> 4) + 1;
    let last = from === 0 ? -1 : stepTask(control[TRACE_AT + (from - 1) * TRACE_WORDS]!);
    for (let step = from; step < steps; step++) {
      const trace = TRACE_AT + step * TRACE_WORDS;
      const task = stepTask(control[trace]!);
      const enabled = control[trace + TR_ENABLED]!;
      const preempts = last >= 0 && ((enabled >> last) & 1) !== 0;
      for (let others = enabled & ~(1 << task); others !== 0; others &= others - 1) {
        this.#add(item, (step << 4) | lowestBit(others), preempts);
      }
      last = task;
    }
  }

  #add(item: number, packed: number, preempts: boolean): void {
    if (this.#count === ITEMS_MAX) {
      this.#dropped++;
      return;
    }
    const made = this.#count++;
    if (made * ITEM_WORDS === this.#items.length) {
      const grown = new Int32Array(2 * this.#items.length);
      grown.set(this.#items);
      this.#items = grown;
    }
    this.#items[made * ITEM_WORDS] = item;
    this.#items[made * ITEM_WORDS + 1] = packed;
    (preempts ? this.#later : this.#stack).push(made);
  }

  facts(): StrategyFacts {
    const notes: string[] = [];
    if (!this.#exhausted) {
      const waiting = this.#stack.length + this.#later.length;
      notes.push(
        `with ${this.#bound} preemptions; ${waiting} schedules that are known are not run`,
      );
    }
    if (this.#cutOff > 0) notes.push(`${this.#cutOff} schedules were cut off: too many steps`);
    if (this.#dropped > 0) notes.push(`${this.#dropped} schedules found no room to wait`);
    return {
      strategy: 'bounded',
      exhausted: this.#exhausted,
      ...(this.#complete >= 0 ? { preemptionBound: this.#complete } : {}),
      notes,
    };
  }
}
