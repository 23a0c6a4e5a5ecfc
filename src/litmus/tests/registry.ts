/**
 * The litmus tests there are, by number.
 *
 * @module
 */
import type { LitmusTest } from '../litmus.js';
import { deferredTest } from './deferred.js';
import { LIFETIME_TESTS } from './list-lifetime.js';
import { REFUSAL_TESTS } from './list-refusal.js';
import { lockOrderTest } from './lock-order.js';
import { MEMREMAP_TESTS } from './memremap.js';
import { DESIGN_TESTS } from './mirror-designs.js';
import { RELEASE_TESTS } from './mirror-release.js';
import { readTrylockTest } from './read-trylock.js';
import { RETRY_TESTS } from './retry.js';
import { secondaryTlbTest } from './secondary-tlb.js';
import { syncPointTest } from './sync-point.js';

const ALL: readonly LitmusTest[] = [
  ...RELEASE_TESTS,
  ...RETRY_TESTS,
  ...MEMREMAP_TESTS,
  ...DESIGN_TESTS,
  ...REFUSAL_TESTS,
  lockOrderTest,
  deferredTest,
  syncPointTest,
  readTrylockTest,
  ...LIFETIME_TESTS,
  secondaryTlbTest,
];

export const LITMUS_TESTS: readonly LitmusTest[] = [...ALL].sort(
  (one, other) => numberOf(one) - numberOf(other),
);

function numberOf({ id }: LitmusTest): number {
  return Number(id.replace('LT-', ''));
}
