/**
 * The main thread's side of a run: phases, stutter, shuffle, onoff.
 *
 * Protocol   safety phase: every now and then, by the options,
 *              rest     all members stand still for a moment: a wake-up that was lost shows, for nobody
 *                       comes any more who would make up for it (rest.ts). The longer it takes until all
 *                       stand, the rarer
 *              stutter  all members stand still, for a while
 *              shuffle  all stand still, leave, and enter one place further on
 *              onoff    one leaves, and enters again a while later
 *            liveness phase: none of it, and no fault and no delay is made. It lasts until every member has done
 *            something, and for a while; who gets nowhere is the watchdog's. Then all leave.
 *            Whoever serves the others takes no part in any of it.
 *
 * @module
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { pick, scramble, seedFor, xorshift } from '../base/xorshift.js';
import { openGate } from '../memory/rendezvous.js';
import { glance, leaveWord } from '../memory/turn-token.js';
import {
  B_OFFLINE,
  B_PAUSE,
  B_PAUSED,
  B_PHASE,
  B_RESUME,
  B_SHIFT,
  memberAt,
  PAUSE_MOVE,
  PAUSE_NONE,
  PAUSE_STAND,
  PHASE_OVER,
  TM_LIVELY,
} from './block.js';
import { PHASE_LIVENESS } from './target.js';

/** How a run goes on. Unit: milliseconds; 0 = not at all. */
export interface Timing {
  readonly durationMs: number;
  readonly stutterMs: number;
  readonly shuffleMs: number;
  readonly onoffMs: number;
}

/** Share of the time that is the liveness phase, and its bounds. Unit: milliseconds. */
const LIVENESS_SHARE = 0.1;
const LIVENESS_MIN_MS = 50;
const LIVENESS_MAX_MS = 5000;
/** How often the main thread looks. Unit: milliseconds. */
const POLL_MS = 20;
/** How often all come to rest for a moment, so that a wake-up that was lost is not made up for by the next. */
const REST_EVERY_MS = 100;
/** … but most of the time they run: so many times as long as it took until the last one stood. */
const REST_RARER = 10;
/** They run so many times as long as they stand still. Deviation: in Linux both take as long. */
const STUTTER_SHARE = 10;
/** A CPU stays offline no longer than this: others may wait for what it would do. Unit: milliseconds. */
const OFFLINE_MAX_MS = 500;

/** Leads a crew through a run. */
export class Conductor {
  readonly #block: Int32Array;
  /** Workers that take part: who serves the others does not. */
  readonly #plain: readonly number[];
  readonly #timing: Timing;
  readonly #hasFailed: () => boolean;
  readonly #isInterrupted: () => boolean;
  /** Called now and then while all come to rest. */
  readonly #onRest: () => void;
  #random: number;
  #shift = 0;
  stutters = 0;
  shuffles = 0;
  offlines = 0;
  safetyMs = 0;
  livenessMs = 0;

  constructor(
    block: Int32Array,
    plain: readonly number[],
    timing: Timing,
    seed: number,
    hasFailed: () => boolean,
    isInterrupted: () => boolean,
    onRest: () => void,
  ) {
    this.#block = block;
    this.#plain = plain;
    this.#timing = timing;
    this.#hasFailed = hasFailed;
    this.#isInterrupted = isInterrupted;
    this.#onRest = onRest;
    this.#random = seedFor(seed, 0x7fff);
  }

  /** From the start to the word that all are to leave. */
  async run(): Promise<void> {
    const startedAt = performance.now();
    const lively = this.#livenessMs();
    await this.#safety(startedAt, this.#timing.durationMs - lively);
    if (!this.#isOver()) await this.#standStill(PAUSE_STAND, 0);
    this.safetyMs = performance.now() - startedAt;
    if (!this.#isOver()) await this.#liveness(lively);
    this.livenessMs = performance.now() - startedAt - this.safetyMs;
    if (!this.#hasFailed()) leaveWord(this.#block, B_PHASE, PHASE_OVER);
  }

  /** The run is to end now. */
  #isOver(): boolean {
    return this.#hasFailed() || this.#isInterrupted();
  }

  #livenessMs(): number {
    const { durationMs } = this.#timing;
    const wanted = durationMs * LIVENESS_SHARE;
    return Math.min(LIVENESS_MAX_MS, Math.max(LIVENESS_MIN_MS, wanted), durationMs / 2);
  }

  async #safety(startedAt: number, forMs: number): Promise<void> {
    const { stutterMs, shuffleMs, onoffMs } = this.#timing;
    const next = { stutter: stutterMs, shuffle: shuffleMs, onoff: onoffMs, rest: REST_EVERY_MS };
    for (;;) {
      const now = performance.now() - startedAt;
      if (now >= forMs || this.#isOver()) break;
      if (stutterMs > 0 && now >= next.stutter) {
        await this.#standStill(PAUSE_STAND, Math.min(stutterMs / STUTTER_SHARE, forMs - now));
        this.stutters++;
        next.stutter = performance.now() - startedAt + stutterMs;
      } else if (shuffleMs > 0 && now >= next.shuffle) {
        await this.#standStill(PAUSE_MOVE, 0);
        this.shuffles++;
        next.shuffle = now + shuffleMs;
      } else if (onoffMs > 0 && now >= next.onoff) {
        this.#random = xorshift(this.#random);
        const worker = this.#plain[pick(scramble(this.#random), this.#plain.length)] ?? 0;
        leaveWord(this.#block, B_OFFLINE, worker + 1);
        await this.#sleep(Math.min(onoffMs / 2, OFFLINE_MAX_MS, forMs - now));
        leaveWord(this.#block, B_OFFLINE, 0);
        this.offlines++;
        next.onoff = now + onoffMs;
      } else if (now >= next.rest) {
        await this.#standStill(PAUSE_STAND, 0);
        const then = performance.now() - startedAt;
        next.rest = then + Math.max(REST_EVERY_MS, REST_RARER * (then - now));
      } else {
        await sleep(Math.min(POLL_MS, Math.max(1, forMs - now)));
      }
    }
  }

  async #liveness(forMs: number): Promise<void> {
    leaveWord(this.#block, B_PHASE, PHASE_LIVENESS);
    const startedAt = performance.now();
    const allMoved = (): boolean =>
      this.#plain.every((worker) => glance(this.#block, memberAt(worker) + TM_LIVELY) > 0);
    while (!this.#isOver()) {
      if (performance.now() - startedAt >= forMs && allMoved()) return;
      await sleep(POLL_MS);
    }
  }

  /** Lets all members stand still for so long. */
  async #standStill(how: number, forMs: number): Promise<void> {
    const block = this.#block;
    leaveWord(block, B_PAUSE, how);
    while (glance(block, B_PAUSED) < this.#plain.length && !this.#isOver()) {
      await sleep(1);
      this.#onRest();
    }
    await this.#sleep(forMs);
    if (how === PAUSE_MOVE) leaveWord(block, B_SHIFT, ++this.#shift);
    leaveWord(block, B_PAUSED, 0);
    leaveWord(block, B_PAUSE, PAUSE_NONE);
    openGate(block, B_RESUME);
  }

  async #sleep(ms: number): Promise<void> {
    const until = performance.now() + ms;
    while (!this.#isOver()) {
      const left = until - performance.now();
      if (left <= 0) return;
      await sleep(Math.min(POLL_MS, left));
    }
  }
}
