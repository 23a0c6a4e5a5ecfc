/**
 * Exploration for test suites, imported as `faultline/testing`: a test that fails with a line to replay it.
 *
 *   import { explore } from 'faultline/testing';
 *
 *   test('the lock excludes', () => explore(new URL('./my-lock.mjs', import.meta.url), { seconds: 5 }));
 *
 * It needs no particular test runner: it returns a promise, which a failing schedule rejects.
 *
 * @module
 */
import { type ExploreOptions, exploreProgram, type ExploreReport } from 'faultline';

/** How `explore` explores, and what it insists on. */
export interface ExploreTestOptions extends ExploreOptions {
  /** True: it is a failure, too, if the limits end the exploration before it has exhausted the program. */
  readonly exhaustive?: boolean;
  /** Outcomes that must have been seen. */
  readonly outcomes?: readonly string[];
}

/** A schedule that fails, or an exploration that did not see what it should. */
export class ExplorationFailed extends Error {
  override readonly name = 'ExplorationFailed';
  readonly report: ExploreReport;

  constructor(message: string, report: ExploreReport) {
    super(message);
    this.report = report;
  }
}

/**
 * Explores a program: one that ships with faultline, by its name, or the one that the module at a URL exports
 * as `program`. Resolves to what was seen.
 * @throws ExplorationFailed with the explanation of the first failing schedule and the command that replays it
 */
export async function explore(
  program: string | URL,
  options: ExploreTestOptions = {},
): Promise<ExploreReport> {
  const ref = typeof program === 'string' ? { name: program } : { url: program.href };
  const report = await exploreProgram(ref, options);
  const [failure] = report.failures;
  if (failure !== undefined) {
    const lines = [
      `${report.program} fails (${failure.kind}): ${failure.message}`,
      ...failure.criticalPairs,
      failure.diagram,
      `replay: ${failure.replay}`,
    ];
    throw new ExplorationFailed(lines.join('\n'), report);
  }
  if (options.exhaustive === true && !report.exhausted) {
    const message = `${report.program} was not exhausted in ${report.schedules} schedules`;
    throw new ExplorationFailed(message, report);
  }
  const seen = new Set(report.outcomes.filter(({ count }) => count > 0).map(({ name }) => name));
  const missing = (options.outcomes ?? []).filter((name) => !seen.has(name));
  if (missing.length > 0) {
    const message = `${report.program} never ended as: ${missing.join(', ')}`;
    throw new ExplorationFailed(message, report);
  }
  return report;
}
