/**
 * What an explanation consists of. All of it can be structured-cloned and written as JSON.
 *
 * @module
 */
import type { Site } from './sites.js';
import type { Failure } from './subject.js';

/** One step of the failing run. */
export interface ExplainedStep {
  readonly step: number;
  readonly task: number;
  /** Which operation of its task; of those that are left. */
  readonly operation: number;
  /** `read`, `write`, `update`, `lock`, `unlock`, `sleep`, `wake up`, `wake`, `spin`, `free`, `alloc` … */
  readonly action: string;
  /** First word that it touches, and how many. */
  readonly word: number;
  readonly words: number;
  /** `mmu_interval_notifier.invalidateSeq of world.interval`; of a lock its class. */
  readonly name: string;
  /** `interval.invalidateSeq` */
  readonly shortName: string;
  /** What it found and what it left; undefined if it is of many words, or there are too many steps. */
  readonly before: string | undefined;
  readonly after: string | undefined;
  /** Where it was made, and by whom that was called; the innermost first. */
  readonly site: Site | undefined;
  readonly callers: readonly Site[];
  /** Another task touches the words too, and one of them changes them. */
  readonly conflicts: boolean;
  /** It is part of a critical pair. */
  readonly critical: boolean;
  /** The sleep ended because its time was up. */
  readonly timedOut: boolean;
  /** Tasks that could not have gone then, and had something left to do: a mask. */
  readonly waiting: number;
  /** Locks that its CPU holds after it, by their classes. */
  readonly held: readonly string[];
}

/** Another task goes on. */
export interface Switch {
  /** The step that comes after it. */
  readonly step: number;
  readonly from: number;
  readonly to: number;
  /** `preempted`, `finished`, `waits for driver->lock, held by CPU1`, `sleeps` … */
  readonly reason: string;
}

/** Two steps whose order decides. The second may be one that was never made: its task waits for it at the end. */
export interface CriticalPair {
  readonly first: number;
  readonly second: number;
  /** The word that both touch. */
  readonly name: string;
  /** `CPU1 reads mmu_interval_notifier.invalidateSeq of world.interval before CPU0 writes it` */
  readonly sentence: string;
  /** Two takings of one lock. */
  readonly isLock: boolean;
  /** Somebody's sleep, or the end of it: how tasks wait, and seldom what they wait for. */
  readonly isSleep: boolean;
}

/** One column of the diagram. */
export interface ExplainedTask {
  readonly name: string;
  /** Names of the operations that are left. */
  readonly operations: readonly string[];
  /** Where it is at the end: `finished`, `waits for driver->lock, held by CPU1; holds mmap_lock` … */
  readonly end: string;
}

/** A failure, explained. */
export interface Explanation {
  readonly program: string;
  readonly title: string;
  readonly mutants: readonly string[];
  readonly failure: Failure;
  /** The schedule as a string, and the line that replays it. */
  readonly schedule: string;
  readonly replay: string;
  readonly preemptions: number;
  readonly tasks: readonly ExplainedTask[];
  readonly criticalPairs: readonly CriticalPair[];
  /** `fails iff …`; undefined if no swap of one pair makes the failure vanish. */
  readonly sentence: string | undefined;
  readonly steps: readonly ExplainedStep[];
  readonly switches: readonly Switch[];
  readonly diagram: string;
}
