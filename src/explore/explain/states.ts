/**
 * What the machine's memory had in it between the steps of a run.
 *
 * Protocol   A run leaves a trace of what was done and not of what was found. So it is made again, to end
 *            after no step, after one, after two …: what is there then is looked at, and set back. Both
 *            engines can do that, and neither pays for it when nobody asks.
 *
 * @module
 */
import { type CpuSnapshot, snapshotCpus } from '../../debug/wait-graph.js';
import { memoryWords } from '../../memory/snapshot.js';
import { type Deviation, setPlan } from '../plan.js';
import type { Subject } from './subject.js';
import type { Step } from './trace.js';

/** What a step found and left in its first words, and what the CPUs held then. */
export interface StepState {
  /** Its first word and the one after, before and after it. */
  readonly before: readonly [number, number];
  readonly after: readonly [number, number];
  /** All CPUs after it. */
  readonly cpus: readonly CpuSnapshot[];
}

/** Runs of more steps are told without values: the time grows with the square. */
const STEPS_MAX = 3000;

/** The state of each step; empty if there are too many. */
export function statesOf(
  subject: Subject,
  deviations: readonly Deviation[],
  steps: readonly Step[],
): StepState[] {
  if (steps.length > STEPS_MAX) return [];
  const { engine } = subject;
  const { cpu } = engine.world.machine;
  const memory = memoryWords(cpu);
  const wordsAt = (at: number): [number, number] => [memory[at] ?? 0, memory[at + 1] ?? 0];
  const befores: [number, number][] = [];
  const states: StepState[] = [];
  for (let made = 0; made <= steps.length; made++) {
    setPlan(engine.control, { deviations, stepLimit: made });
    engine.run();
    const next = steps[made];
    const last = steps[made - 1];
    if (next !== undefined) befores.push(wordsAt(next.at));
    if (last !== undefined) {
      states.push({
        before: befores[last.step]!,
        after: wordsAt(last.at),
        cpus: snapshotCpus(cpu),
      });
    }
    engine.restore();
  }
  return states;
}
