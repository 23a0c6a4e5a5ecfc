/**
 * Physical addresses: a tree of ranges, each inside its parent and beside its siblings.
 *
 * Kernel     kernel/resource.c
 * Protocol   The root is all physical addresses (iomemResource). Memory and the ranges of devices are
 *            inserted; a driver requests what it uses, which marks it busy: the request goes down into
 *            ranges that are not busy, and is refused where one is, or where it would lie across an edge.
 * Invariant  I1  Children lie inside their parent, do not overlap, and are in the order of their addresses.
 * Ordering   DeviceCore.resourceLock protects the tree; a range that is in it keeps its addresses.
 * Deviation  One tree, of memory; no I/O ports, no names. Physical addresses have 32 bits.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { EBUSY, EINVAL } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { member, NULL } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { deviceCore } from './core.js';
import { DeviceCore, Resource } from './types.js';

/** Resource.flags: a range of memory addresses. */
export const IORESOURCE_MEM = 1 << 0;
/** … it is the machine's memory. */
export const IORESOURCE_SYSRAM = 1 << 2;
/** … a driver uses it. */
export const IORESOURCE_BUSY = 1 << 3;
export const IORESOURCE_SYSTEM_RAM = IORESOURCE_MEM | IORESOURCE_SYSRAM;

/** Resource.desc: nothing special; as an argument, anything. */
export const IORES_DESC_NONE = 0;
export const IORES_DESC_PERSISTENT_MEMORY = 1;
export const IORES_DESC_DEVICE_PRIVATE_MEMORY = 2;

/** regionIntersects: nothing of that kind is there. */
export const REGION_DISJOINT = 0;
/** … something is, and nothing else. */
export const REGION_INTERSECTS = 1;
/** … and something else. */
export const REGION_MIXED = 2;

/** All physical addresses. @kernel iomem_resource */
export function iomemResource(cpu: Cpu): Resource {
  return member(deviceCore(cpu), DeviceCore.iomem);
}

/** Locks the tree; no sleeping until unlockResources. */
export function lockResources(cpu: Cpu): void {
  spinLock(cpu, member(deviceCore(cpu), DeviceCore.resourceLock));
}

/** … and gives it back. */
export function unlockResources(cpu: Cpu): void {
  spinUnlock(cpu, member(deviceCore(cpu), DeviceCore.resourceLock));
}

/** Sets a range that is not in the tree yet. Bounds in bytes, `end` inclusive. */
export function initResource(
  cpu: Cpu,
  resource: Resource,
  start: number,
  end: number,
  flags: number,
  desc: number,
): void {
  writeAddress(cpu, resource, Resource.start, start);
  writeAddress(cpu, resource, Resource.end, end);
  write(cpu, resource, Resource.flags, flags);
  write(cpu, resource, Resource.desc, desc);
}

/** @kernel resource_size */
export function resourceSize(cpu: Cpu, resource: Resource): number {
  return readAddress(cpu, resource, Resource.end) - readAddress(cpu, resource, Resource.start) + 1;
}

/**
 * Puts a range under `root`, as deep as it fits; ranges that lie inside it become its children. -EBUSY if it
 * would lie across the edge of one. @kernel insert_resource
 */
export function insertResource(cpu: Cpu, root: Resource, resource: Resource): number {
  lockResources(cpu);
  let parent = root;
  let conflict = linkResource(cpu, parent, resource);
  while (conflict !== NULL && conflict !== parent && containsResource(cpu, conflict, resource)) {
    if (isSameRange(cpu, conflict, resource)) break;
    parent = conflict;
    conflict = linkResource(cpu, parent, resource);
  }
  const error = conflict === NULL || adoptChildren(cpu, parent, resource) ? 0 : -EBUSY;
  unlockResources(cpu);
  return error;
}

/** Puts a range right under `root`; -EBUSY if something is there. @kernel request_resource */
export function requestResource(cpu: Cpu, root: Resource, resource: Resource): number {
  lockResources(cpu);
  const conflict = linkResource(cpu, root, resource);
  unlockResources(cpu);
  return conflict === NULL ? 0 : -EBUSY;
}

/** Takes a range out of the tree, with all below it; -EINVAL if it is not in it. @kernel release_resource */
export function releaseResource(cpu: Cpu, resource: Resource): number {
  lockResources(cpu);
  const found = unlinkResource(cpu, resource);
  unlockResources(cpu);
  return found ? 0 : -EINVAL;
}

/**
 * Gives a new range the lowest address, from `min` on and a multiple of `align`, that has room for `size`
 * bytes under `root`; -EBUSY if there is none up to the end of `root`. @kernel allocate_resource
 */
export function allocateResource(
  cpu: Cpu,
  root: Resource,
  resource: Resource,
  size: number,
  min: number,
  align: number,
): number {
  const end = readAddress(cpu, root, Resource.end);
  lockResources(cpu);
  let start = alignUp(min, align);
  let child = read(cpu, root, Resource.child);
  while (child !== NULL && readAddress(cpu, child, Resource.start) < start + size) {
    const after = readAddress(cpu, child, Resource.end) + 1;
    if (after > start) start = alignUp(after, align);
    child = read(cpu, child, Resource.sibling);
  }
  const fits = start + size - 1 <= end;
  if (fits) {
    writeAddress(cpu, resource, Resource.start, start);
    writeAddress(cpu, resource, Resource.end, start + size - 1);
  }
  const error = fits && linkResource(cpu, root, resource) === NULL ? 0 : -EBUSY;
  unlockResources(cpu);
  return error;
}

function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}

/**
 * What of a kind lies in [start, start + size): flags that all must be set, and a desc. Holes are nothing.
 * @kernel region_intersects
 */
export function regionIntersects(
  cpu: Cpu,
  start: number,
  size: number,
  flags: number,
  desc: number,
): number {
  lockResources(cpu);
  const result = regionIntersectsLocked(cpu, iomemResource(cpu), start, size, flags, desc);
  unlockResources(cpu);
  return result;
}

/** As regionIntersects, below `parent`. resourceLock must be held. */
export function regionIntersectsLocked(
  cpu: Cpu,
  parent: Resource,
  start: number,
  size: number,
  flags: number,
  desc: number,
): number {
  let matching = false;
  let others = false;
  let child = read(cpu, parent, Resource.child);
  for (; child !== NULL; child = read(cpu, child, Resource.sibling)) {
    const from = Math.max(start, readAddress(cpu, child, Resource.start));
    const to = Math.min(start + size - 1, readAddress(cpu, child, Resource.end));
    if (from > to) continue;
    if (isOfKind(cpu, child, flags, desc)) {
      matching = true;
      continue;
    }
    // what lies inside a range of another kind counts as far as it covers that
    const inside = coveredBy(cpu, child, from, flags, desc);
    if (inside > from) matching = true;
    if (inside <= to) others = true;
  }
  if (!matching) return REGION_DISJOINT;
  return others ? REGION_MIXED : REGION_INTERSECTS;
}

function isOfKind(cpu: Cpu, resource: Resource, flags: number, desc: number): boolean {
  if ((read(cpu, resource, Resource.flags) & flags) !== flags) return false;
  return desc === IORES_DESC_NONE || read(cpu, resource, Resource.desc) === desc;
}

/** Up to where, from `from` on, children of `parent` that are of the kind lie without a gap. */
function coveredBy(cpu: Cpu, parent: Resource, from: number, flags: number, desc: number): number {
  let reached = from;
  let child = read(cpu, parent, Resource.child);
  for (; child !== NULL; child = read(cpu, child, Resource.sibling)) {
    if (readAddress(cpu, child, Resource.start) > reached) break;
    if (isOfKind(cpu, child, flags, desc)) {
      reached = Math.max(reached, readAddress(cpu, child, Resource.end) + 1);
    } else {
      reached = Math.max(reached, coveredBy(cpu, child, reached, flags, desc));
    }
  }
  return reached;
}

// --- the tree; all of these need resourceLock ---

/**
 * Puts a range among the children of `parent`. NULL if it is there now; else what is in its way: `parent` if
 * the range does not lie inside, or the first child that it meets. @kernel __request_resource
 */
export function linkResource(cpu: Cpu, parent: Resource, resource: Resource): Resource {
  if (!containsResource(cpu, parent, resource)) return parent;
  const start = readAddress(cpu, resource, Resource.start);
  const end = readAddress(cpu, resource, Resource.end);
  let before = NULL as Resource;
  let after = read(cpu, parent, Resource.child);
  while (after !== NULL && readAddress(cpu, after, Resource.start) <= end) {
    if (readAddress(cpu, after, Resource.end) >= start) return after;
    before = after;
    after = read(cpu, after, Resource.sibling);
  }
  write(cpu, resource, Resource.parent, parent);
  write(cpu, resource, Resource.sibling, after);
  if (before === NULL) write(cpu, parent, Resource.child, resource);
  else write(cpu, before, Resource.sibling, resource);
  return NULL;
}

/** False if the range is not among the children of its parent. */
export function unlinkResource(cpu: Cpu, resource: Resource): boolean {
  const parent = read(cpu, resource, Resource.parent);
  if (parent === NULL) return false;
  const next = read(cpu, resource, Resource.sibling);
  const first = read(cpu, parent, Resource.child);
  if (first === resource) {
    write(cpu, parent, Resource.child, next);
  } else {
    let before = first;
    while (before !== NULL && read(cpu, before, Resource.sibling) !== resource) {
      before = read(cpu, before, Resource.sibling);
    }
    if (before === NULL) return false;
    write(cpu, before, Resource.sibling, next);
  }
  write(cpu, resource, Resource.parent, NULL);
  write(cpu, resource, Resource.sibling, NULL);
  return true;
}

/** Puts a range over those children of `parent` that lie inside it; false if one lies across an edge. */
function adoptChildren(cpu: Cpu, parent: Resource, resource: Resource): boolean {
  if (!containsResource(cpu, parent, resource)) return false;
  const end = readAddress(cpu, resource, Resource.end);
  const start = readAddress(cpu, resource, Resource.start);
  let before = NULL as Resource;
  let first = read(cpu, parent, Resource.child);
  while (first !== NULL && readAddress(cpu, first, Resource.end) < start) {
    before = first;
    first = read(cpu, first, Resource.sibling);
  }
  let last = NULL as Resource;
  let after = first;
  while (after !== NULL && readAddress(cpu, after, Resource.start) <= end) {
    if (!containsResource(cpu, resource, after)) return false;
    last = after;
    after = read(cpu, after, Resource.sibling);
  }
  for (let child = first; child !== after; child = read(cpu, child, Resource.sibling)) {
    write(cpu, child, Resource.parent, resource);
  }
  write(cpu, resource, Resource.child, first);
  if (last !== NULL) write(cpu, last, Resource.sibling, NULL);
  write(cpu, resource, Resource.parent, parent);
  write(cpu, resource, Resource.sibling, after);
  if (before === NULL) write(cpu, parent, Resource.child, resource);
  else write(cpu, before, Resource.sibling, resource);
  return true;
}

/** True if all of `inner` lies inside `outer`. @kernel resource_contains */
function containsResource(cpu: Cpu, outer: Resource, inner: Resource): boolean {
  return (
    readAddress(cpu, outer, Resource.start) <= readAddress(cpu, inner, Resource.start) &&
    readAddress(cpu, outer, Resource.end) >= readAddress(cpu, inner, Resource.end)
  );
}

function isSameRange(cpu: Cpu, one: Resource, other: Resource): boolean {
  return containsResource(cpu, one, other) && containsResource(cpu, other, one);
}
