/**
 * Random numbers that cost a nanosecond and allocate nothing.
 *
 * @module
 */

/** The state after `state`; never 0 if `state` is not. Marsaglia's 32-bit xorshift. */
export function xorshift(state: number): number {
  let x = state;
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  return x;
}

/** A first state for a member: depends on both, and is not 0. */
export function seedFor(seed: number, member: number): number {
  const mixed = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(member + 1, 0xc2b2ae35);
  return mixed === 0 ? 1 : mixed | 0;
}

/** A number below `bound` out of a state. */
export function pick(state: number, bound: number): number {
  return (state & 0x7fffffff) % bound;
}

/** Another number out of a state: no part of it tells anything of a few bits of the state. */
export function scramble(state: number): number {
  let x = state ^ (state >>> 16);
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return x ^ (x >>> 16);
}
