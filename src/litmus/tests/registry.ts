/**
 * The litmus tests there are, by number.
 *
 * @module
 */
import type { LitmusTest } from '../litmus.js';
import { deferredTest } from './deferred.js';
import { RELEASE_TESTS } from './mirror-release.js';
import { readTrylockTest } from './read-trylock.js';
import { RETRY_TESTS } from './retry.js';
import { syncPointTest } from './sync-point.js';

const ALL: readonly LitmusTest[] = [
  ...RELEASE_TESTS,
  ...RETRY_TESTS,
  deferredTest,
  syncPointTest,
  readTrylockTest,
];

export const LITMUS_TESTS: readonly LitmusTest[] = [...ALL].sort(
  (one, other) => numberOf(one) - numberOf(other),
);

function numberOf({ id }: LitmusTest): number {
  return Number(id.replace('LT-', ''));
}
