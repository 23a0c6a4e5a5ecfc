/**
 * Dynamic partial-order reduction: one schedule of each class of schedules that differ only in the order of
 * steps that commute, so that every deadlock and every final state is found.
 *
 * Protocol   (source sets: Abdulla, Aronis, Jonsson, Sagonas, POPL 2014; locks as in Flanagan, Godefroid,
 *            POPL 2005) Depth first. Each run is searched for races (dependence.ts); for each, at the state
 *            before the step that came first, some task that can begin the run with the other order is to
 *            go, if none of them is already. A task that was tried at a state sleeps in the runs for the
 *            others until a step depends on what it would do; who sleeps need not go, and where only
 *            sleepers could, the run ends.
 *
 *            A task that dies ends the run for all, so its last step is taken to depend on everything: all
 *            others are tried before it.
 * Invariant  I1  At a state that is left for good, for each schedule from there on that has not been run,
 *                an equivalent one has.
 * Deviation  Schedules that are cut off after too many steps leave their rest unseen: not `exhausted` then.
 *
 * @module
 */
import { lowestBit } from '../../base/bits.js';
import { C_END, END_DIED, END_SEEN, END_STEPS, RULE_SLEEP_SETS } from '../control.js';
import type { Plan } from '../plan.js';
import { Dependence, type RaceListener } from './dependence.js';
import { limitOf, type Strategy, type StrategyFacts, type StrategyOptions } from './strategy.js';
import { ScheduleTree } from './tree.js';

export class PartialOrderReduction implements Strategy, RaceListener {
  readonly #tree = new ScheduleTree();
  readonly #dependence: Dependence;
  readonly #limit: Pick<Plan, 'stepLimit'>;
  #begun = false;
  #done = false;
  #cutOff = 0;
  #seenBefore = 0;

  constructor(options: StrategyOptions) {
    this.#dependence = new Dependence(options.tasks, options.memoryWords, this);
    this.#limit = limitOf(options);
  }

  next(): Plan | undefined {
    if (!this.#begun) {
      this.#begun = true;
      return { rule: RULE_SLEEP_SETS, ...this.#limit };
    }
    const plan = this.#tree.branchOff(RULE_SLEEP_SETS);
    if (plan === undefined) this.#done = true;
    return plan && { ...plan, ...this.#limit };
  }

  observe(control: Int32Array): void {
    const tree = this.#tree;
    tree.add(control);
    this.#dependence.findRaces(control, tree.branch);
    const end = control[C_END]!;
    const last = tree.steps - 1;
    if (end === END_DIED && last >= 0) tree.wanted[last] = tree.enabled[last]!;
    if (end === END_STEPS) this.#cutOff++;
    if (end === END_SEEN) this.#seenBefore++;
  }

  /** One of `first` is to go at the step; if nobody of them can, anybody who can. */
  onRace(step: number, first: number): void {
    const tree = this.#tree;
    if (first === 0) {
      tree.wanted[step] = tree.enabled[step]!;
    } else if ((first & (tree.wanted[step]! | tree.sleeping[step]!)) === 0) {
      tree.wanted[step]! |= 1 << lowestBit(first);
    }
  }

  facts(): StrategyFacts {
    const notes: string[] = [];
    if (this.#seenBefore > 0) notes.push(`${this.#seenBefore} runs ended where others had been`);
    if (this.#cutOff > 0) notes.push(`${this.#cutOff} schedules were cut off: too many steps`);
    return { strategy: 'dpor', exhausted: this.#done && this.#cutOff === 0, notes };
  }
}
