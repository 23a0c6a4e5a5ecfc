/**
 * An explanation, printed in full.
 *
 * @module
 */
import { decisivePairs } from './describe.js';
import type { CriticalPair, ExplainedStep, Explanation } from './explanation.js';
import { shortPlace } from './sites.js';

/** The whole of it, as text. */
export function renderExplanation(told: Explanation): string {
  const { failure, preemptions, tasks, mutants } = told;
  const count = tasks.reduce((sum, { operations }) => sum + operations.length, 0);
  const mutated = mutants.length === 0 ? '' : ` with ${mutants.join(', ')}`;
  const size = [
    plural(count, 'operation'),
    plural(told.steps.length, 'step'),
    plural(preemptions, 'preemption'),
  ].join(', ');
  return [
    `${told.program}${mutated}: ${failure.kind}: ${failure.message}`,
    `  ${told.title}`,
    `  ${size}`,
    '',
    ...sentenceLines(told),
    told.diagram,
    '',
    ...(told.criticalPairs.length > 0 ? ['* in the other order, it does not fail'] : []),
    told.replay,
    '',
  ].join('\n');
}

function sentenceLines({ criticalPairs: pairs, steps }: Explanation): string[] {
  if (pairs.length === 0) return ['no two operations decide it alone', ''];
  const lines = decisivePairs(pairs).flatMap((pair, i) => [
    `${i === 0 ? 'fails iff' : '      and'} ${pair.sentence}`,
    `          ${placesOf(pair, steps)}`,
  ]);
  return [...lines, ''];
}

function placesOf({ first, second }: CriticalPair, steps: readonly ExplainedStep[]): string {
  return [steps[first], steps[second]]
    .map((step) => {
      if (step === undefined) return 'not yet done at the end';
      const { site } = step;
      const place = site === undefined ? '' : ` in ${site.function} at ${shortPlace(site)}`;
      return `step ${step.step}${place}`;
    })
    .join(', ');
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
