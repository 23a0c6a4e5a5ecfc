/**
 * Ranges of physical addresses that drivers use: requested before use, and released after it.
 *
 * Kernel     kernel/resource.c
 * Protocol   requestRegion looks for the deepest range that is not busy and has room, and puts a busy one in
 *            it. requestFreeMemRegion looks for addresses that nobody has, from the top of physical space
 *            down in steps of the size: device memory that no CPU can address gets its frames so.
 * Invariant  I1  Two busy ranges never overlap, unless one was requested inside the other by who has that.
 *            I2  Looking for a free range and taking it is one step: nobody else gets it in between.
 * Ordering   DeviceCore.resourceLock.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';
import { BUSTED_FREE_REGION, isMutant } from '#mutants';

import { ENOMEM, ERANGE } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { warn } from '../machine/warn.js';
import { NULL } from '../memory/layout.js';
import {
  initResource,
  iomemResource,
  IORES_DESC_DEVICE_PRIVATE_MEMORY,
  IORES_DESC_NONE,
  IORESOURCE_BUSY,
  IORESOURCE_MEM,
  linkResource,
  lockResources,
  REGION_DISJOINT,
  regionIntersectsLocked,
  releaseResource,
  unlinkResource,
  unlockResources,
} from './resource.js';
import { Resource } from './types.js';

/** Struct pages come and go for this much physical memory at once. Unit: bytes. @kernel PA_SECTION_SIZE */
export const SECTION_BYTES = 64 * 1024;

/** A busy range of `size` bytes, or NULL if it is in use or memory is out. @kernel request_mem_region */
export function requestMemRegion(cpu: Cpu, start: number, size: number): Resource {
  const region = kzalloc(cpu, Resource);
  if (region === NULL) return NULL;
  lockResources(cpu);
  const isFree = requestLocked(cpu, region, start, size);
  unlockResources(cpu);
  if (isFree) return region;
  kfree(cpu, Resource, region);
  return NULL;
}

/** Gives a busy range back: exactly as it was requested. @kernel release_mem_region */
export function releaseMemRegion(cpu: Cpu, start: number, size: number): void {
  lockResources(cpu);
  const region = findBusy(cpu, iomemResource(cpu), start, start + size - 1);
  if (region !== NULL) unlinkResource(cpu, region);
  unlockResources(cpu);
  if (region === NULL) {
    warn(cpu, `trying to free nonexistent resource <${hex(start)}-${hex(start + size - 1)}>`);
  }
  kfree(cpu, Resource, region);
}

/** Gives a busy range back that the caller has. */
export function freeRegion(cpu: Cpu, region: Resource): void {
  releaseResource(cpu, region);
  kfree(cpu, Resource, region);
}

/**
 * The highest range of `size` bytes (made a multiple of SECTION_BYTES) that nobody has, found in steps of that
 * size; -ERANGE if there is none, -ENOMEM. It is for memory that only a device can address.
 * @kernel request_free_mem_region
 */
export function requestFreeMemRegion(cpu: Cpu, size: number): Resource {
  const region = kzalloc(cpu, Resource);
  if (region === NULL) return -ENOMEM as Resource;
  const error = claimFreeRegion(cpu, region, size);
  if (error === 0) return region;
  kfree(cpu, Resource, region);
  return error as Resource;
}

/** Into a range that the caller has: 0 or -ERANGE. */
function claimFreeRegion(cpu: Cpu, region: Resource, size: number): number {
  const step = Math.ceil(size / SECTION_BYTES) * SECTION_BYTES;
  const iomem = iomemResource(cpu);
  const first = readAddress(cpu, iomem, Resource.start);
  lockResources(cpu);
  let start = readAddress(cpu, iomem, Resource.end) + 1 - step;
  while (start >= first && !isUnused(cpu, start, step)) start -= step;
  if (isMutant(cpu, BUSTED_FREE_REGION)) breakStep(cpu); // I2
  const found = start >= first && requestLocked(cpu, region, start, step);
  if (found) write(cpu, region, Resource.desc, IORES_DESC_DEVICE_PRIVATE_MEMORY);
  unlockResources(cpu);
  return found ? 0 : -ERANGE;
}

/** The mistake: somebody else may take what was found. */
function breakStep(cpu: Cpu): void {
  unlockResources(cpu);
  lockResources(cpu);
}

function isUnused(cpu: Cpu, start: number, size: number): boolean {
  const kind = regionIntersectsLocked(cpu, iomemResource(cpu), start, size, 0, IORES_DESC_NONE);
  return kind === REGION_DISJOINT;
}

/** Puts a busy range where there is room for it; false if there is none. resourceLock must be held. */
function requestLocked(cpu: Cpu, region: Resource, start: number, size: number): boolean {
  let parent = iomemResource(cpu);
  const flags = IORESOURCE_MEM | IORESOURCE_BUSY;
  for (;;) {
    const desc = read(cpu, parent, Resource.desc);
    initResource(cpu, region, start, start + size - 1, flags, desc);
    const conflict = linkResource(cpu, parent, region);
    if (conflict === NULL) return true;
    if (conflict === parent) return false;
    if ((read(cpu, conflict, Resource.flags) & IORESOURCE_BUSY) !== 0) return false; // I1
    parent = conflict;
  }
}

/** The busy range with these bounds; NULL if there is none. resourceLock must be held. */
function findBusy(cpu: Cpu, root: Resource, start: number, end: number): Resource {
  let at = read(cpu, root, Resource.child);
  while (at !== NULL) {
    const from = readAddress(cpu, at, Resource.start);
    const to = readAddress(cpu, at, Resource.end);
    if (from > start || to < end) {
      at = read(cpu, at, Resource.sibling);
    } else if ((read(cpu, at, Resource.flags) & IORESOURCE_BUSY) === 0) {
      at = read(cpu, at, Resource.child);
    } else {
      return from === start && to === end ? at : NULL;
    }
  }
  return NULL;
}

const hex = (address: number): string => address.toString(16).padStart(8, '0');
