/**
 * Which operations of different tasks do not commute: whose order can make a difference.
 *
 * @module
 */
import {
  OP_ACQUIRE,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_NAMES,
  OP_PARK,
  OP_READ,
  OP_READ_ONCE,
  OP_RELEASE,
  OP_RESUME,
  OP_RMW,
  OP_UNPARK,
  OP_WRITE,
  OP_WRITE_ONCE,
} from '../memory/turnstile.js';

/**
 * True if the order of the two operations, by different tasks, can make a difference. Whether a spin loop
 * goes on also depends on stores to the words it watches.
 */
export function dependent(
  kind: number,
  at: number,
  count: number,
  otherKind: number,
  otherAt: number,
  otherCount: number,
): boolean {
  if (at >= otherAt + otherCount || otherAt >= at + count) return false;
  return conflicts(kind, otherKind);
}

/** True if two operations of these kinds on one word do not commute. */
export function conflicts(kind: number, otherKind: number): boolean {
  return ((CONFLICTS[kind]! >> otherKind) & 1) !== 0;
}

const LOADS = (1 << OP_READ) | (1 << OP_READ_ONCE) | (1 << OP_ACQUIRE);
const STORES =
  (1 << OP_WRITE) | (1 << OP_WRITE_ONCE) | (1 << OP_RELEASE) | (1 << OP_RMW) | (1 << OP_LOCK);
const SLEEPS = (1 << OP_PARK) | (1 << OP_RESUME) | (1 << OP_UNPARK);
const NOTES = (1 << OP_FREE) | (1 << OP_ALLOC);

/** For each kind of operation, the kinds that do not commute with it on the same word, as a mask. */
const CONFLICTS: readonly number[] = OP_NAMES.map((_, kind) => {
  const bit = 1 << kind;
  if ((bit & LOADS) !== 0) return STORES | NOTES;
  if ((bit & STORES) !== 0) return LOADS | STORES | NOTES | (1 << OP_PARK);
  if ((bit & NOTES) !== 0) return LOADS | STORES | NOTES | SLEEPS;
  // a sleep begins by a load, and sleepers are woken in the order in which they came
  if (kind === OP_PARK) return STORES | NOTES | (1 << OP_PARK) | (1 << OP_UNPARK);
  if (kind === OP_UNPARK) return NOTES | SLEEPS;
  if (kind === OP_RESUME) return NOTES | (1 << OP_UNPARK);
  return 0;
});
