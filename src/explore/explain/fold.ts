/**
 * Which steps of a long run are shown: of a failure that takes hundreds, most have no part in it.
 *
 * Protocol   There are several choices, each with less than the one before; whoever draws takes the first that
 *            is short enough.
 *              0  what other tasks can notice, of tasks that have a part in the failure
 *              1  of these tasks, what touches the words that decide, but for looks that find the same again
 *              2  the steps that decide, the steps that the failure names, and where tasks end
 *            A task has a part if it makes one of the last.
 * Invariant  I1  The steps of 2 are in every choice.
 *
 * @module
 */
import { decisivePairs } from './describe.js';
import type { ExplainedStep, Explanation } from './explanation.js';

/** What it needs of an explanation. */
export type Folded = Pick<
  Explanation,
  'steps' | 'criticalPairs' | 'failure' | 'tasks' | 'switches'
>;

/** The steps that are shown, by their numbers; the first choice has most. */
export function stepChoices(told: Folded): ReadonlySet<number>[] {
  const needed = neededSteps(told);
  const words = wordsOf(told.steps.filter(({ step }) => needed.has(step)));
  const parts = new Set(told.steps.filter(({ step }) => needed.has(step)).map(({ task }) => task));
  const ofParts = told.steps.filter(({ task }) => parts.has(task));
  const touching = withoutRepeats(ofParts.filter((step) => touches(step, words)));
  return [
    withNeeded(
      ofParts.filter((step) => step.conflicts && isData(step)),
      needed,
    ),
    withNeeded(touching, needed),
    needed,
  ];
}

/** Without looks at a word in which the task finds what it has found, or left, there. */
function withoutRepeats(steps: readonly ExplainedStep[]): ExplainedStep[] {
  const known = new Map<string, string | undefined>();
  return steps.filter(({ task, word, action, before, after }) => {
    const key = `${task} ${word}`;
    const isRepeat = action === 'read' && before !== undefined && known.get(key) === before;
    known.set(key, after ?? before);
    return !isRepeat;
  });
}

const withNeeded = (
  steps: readonly ExplainedStep[],
  needed: ReadonlySet<number>,
): ReadonlySet<number> => new Set([...steps.map(({ step }) => step), ...needed]);

/** Reads, stores, and what becomes of memory; locks and sleeping are only the way there. */
function isData({ action }: ExplainedStep): boolean {
  return ['read', 'write', 'update', 'alloc', 'free'].includes(action);
}

/** The steps that decide, those that the failure names, and the last of each task that has not finished. */
function neededSteps({ steps, criticalPairs, failure, tasks }: Folded): Set<number> {
  const needed = new Set(
    decisivePairs(criticalPairs).flatMap(({ first, second }) => [first, second]),
  );
  for (const [, number] of failure.message.matchAll(/\bstep (\d+)\b/g)) needed.add(Number(number));
  for (const [task, { end }] of tasks.entries()) {
    const last = steps.findLast((step) => step.task === task);
    if (last !== undefined && !DULL_END.test(end)) needed.add(last.step);
  }
  return needed;
}

/** Who is there at the end has no part in the failure. */
const DULL_END = /^(?:finished$|has nothing to do|waits for next (?:work item|kthread))/;

function wordsOf(steps: readonly ExplainedStep[]): ReadonlySet<number> {
  return new Set(steps.filter(({ words }) => words === 1).map(({ word }) => word));
}

function touches({ word, words }: ExplainedStep, wanted: ReadonlySet<number>): boolean {
  for (let at = word; at < word + words; at++) if (wanted.has(at)) return true;
  return false;
}

/** The innermost function that all of the steps are in; '' if there is none. */
export function commonFunction(steps: readonly ExplainedStep[]): string {
  const stacks = steps.map(({ site, callers }) =>
    [...(site === undefined ? [] : [site]), ...callers].reverse(),
  );
  const [first = [], ...others] = stacks;
  let common = '';
  for (const [depth, { file, function: name }] of first.entries()) {
    const isShared = others.every(
      (stack) => stack[depth]?.file === file && stack[depth].function === name,
    );
    if (!isShared) break;
    if (name !== '') common = name;
  }
  return common;
}
