/**
 * A hash of a name, equal on every worker.
 *
 * @module
 */

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** FNV-1a over UTF-16 units, as a positive 31-bit integer that is never 0. */
export function hashName(name: string, seed = FNV_OFFSET): number {
  let hash = seed;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), FNV_PRIME);
  const positive = hash & 0x7fffffff;
  return positive === 0 ? 1 : positive;
}
