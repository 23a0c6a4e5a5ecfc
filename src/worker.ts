/**
 * The file a Piscina worker runs. The names lead to the bundles of the build that the worker's conditions choose.
 *
 * @module
 */
import type { ExploreOutcome, ExploreWorkerTask } from './explore/explore-worker.js';

export { runCrewMember as default } from '#kernel';

/** Runs one task of an exploration; a crew's worker needs nothing of what that loads. */
export async function runExploreMember(task: ExploreWorkerTask): Promise<ExploreOutcome> {
  const faultline = await import('faultline');
  return faultline.runExploreMember(task);
}
