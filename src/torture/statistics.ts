/**
 * What a run says of its members: totals, the busiest and the laziest, fairness, percentiles.
 *
 * @module
 */
import { glance } from '../memory/turn-token.js';
import { BUCKETS, latenciesIn } from '../workloads/histogram.js';
import {
  memberAt,
  TM_COUNTS,
  TM_GAP_MAX,
  TM_HOLD_MAX,
  TM_HOLDS,
  TM_LIVELY,
  TM_WAIT_MAX,
  TM_WAITS,
} from './block.js';
import type { MemberResult, RoleResult } from './result.js';

/**
 * Jain's index of fairness: 1 if all have the same, 1/n if one of n has everything. 1 if nobody has anything.
 */
export function jainIndex(values: readonly number[]): number {
  const sum = values.reduce((total, value) => total + value, 0);
  const squares = values.reduce((total, value) => total + value * value, 0);
  return squares === 0 ? 1 : (sum * sum) / (values.length * squares);
}

/** What each member has done so far. */
export function memberResults(
  block: Int32Array,
  roles: readonly string[],
  operations: number,
): MemberResult[] {
  return roles.map((role, index) => {
    const at = memberAt(index);
    const counts = Array.from({ length: operations }, (_, i) => glance(block, at + TM_COUNTS + i));
    return {
      name: memberName(roles, index),
      role,
      operations: counts,
      lively: glance(block, at + TM_LIVELY),
      longestGapUs: glance(block, at + TM_GAP_MAX),
    };
  });
}

/** `writer 2`: the role, and its place among those of that role. */
export function memberName(roles: readonly string[], index: number): string {
  const role = roles[index] ?? '';
  return `${role} ${roles.slice(0, index).filter((other) => other === role).length}`;
}

/** What the members of each role have done so far. */
export function roleResults(
  block: Int32Array,
  roles: readonly string[],
  members: readonly MemberResult[],
): RoleResult[] {
  return [...new Set(roles)].map((role) => {
    const places = roles.flatMap((other, index) => (other === role ? [index] : []));
    const own = members.filter((one) => one.role === role);
    const totals = own.map((one) => one.operations.reduce((sum, count) => sum + count, 0));
    return {
      role,
      members: places.length,
      total: totals.reduce((sum, total) => sum + total, 0),
      max: Math.max(...totals),
      min: Math.min(...totals),
      jainIndex: jainIndex(totals),
      longestStarvationUs: Math.max(...own.map((one) => one.longestGapUs)),
      wait: latenciesAt(block, places, TM_WAITS, TM_WAIT_MAX),
      hold: latenciesAt(block, places, TM_HOLDS, TM_HOLD_MAX),
    };
  });
}

function latenciesAt(
  block: Int32Array,
  places: readonly number[],
  buckets: number,
  max: number,
): RoleResult['wait'] {
  const counts = Array.from({ length: BUCKETS }, (_, bucket) =>
    places.reduce((sum, index) => sum + glance(block, memberAt(index) + buckets + bucket), 0),
  );
  const maxUs = Math.max(...places.map((index) => glance(block, memberAt(index) + max)));
  return latenciesIn(counts, maxUs * 1000);
}
