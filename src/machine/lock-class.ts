/**
 * Names of lock classes, so that a report can say `mmap_lock` and not a word index.
 *
 * All locks that play the same part share a class (the mmap_lock of every mm). A lock in shared memory
 * carries its class as a number: a hash of the name, so that every worker computes the same one without
 * talking to the others.
 *
 * @module
 */
import { bug } from '../base/bug.js';
import { hashName } from '../base/hash.js';

/** The number of a lock class; a lock keeps it in its `lockClass` word. */
export type LockClass = number & { readonly lockClass: unique symbol };

const names = new Map<number, string>();

/** Names a class. Call it once, at module level; the same name always gives the same class. */
export function lockClass(name: string): LockClass {
  const hash = hashName(name);
  const known = names.get(hash);
  if (known !== undefined && known !== name) bug(`lock classes ${known} and ${name} collide`);
  names.set(hash, name);
  return hash as LockClass;
}

/** The name of a class, or its number if no module that is loaded here declares it. */
export function lockClassName(value: number): string {
  return names.get(value) ?? `class ${value}`;
}
