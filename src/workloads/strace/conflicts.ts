/**
 * Which two calls may change places without anybody noticing, and which may not.
 *
 * Calls that overlapped in the log have no order there. If they touch the same pages and one of them
 * changes what is mapped, their order decides what they answer, so a replay must keep to one.
 *
 * @module
 */
import { PAGE_SIZE, pageAlignUp } from '../../base/units.js';
import { MADV_DOFORK, MADV_DONTFORK, MREMAP_DONTUNMAP } from '../../mm/uapi.js';
import {
  type AddressSpace,
  mappedPages,
  pagesOf,
  remappedPages,
  UNKNOWN_BREAK,
} from './address-space.js';
import type { Action } from './operations.js';
import type { Range } from './page-ranges.js';

/** What of an address space a call depends on or changes. */
export interface Footprint {
  readonly kind: Action['kind'];
  /** It may change what is mapped, where the break is, or what a fork copies. */
  readonly changes: boolean;
  readonly pages: readonly Range[];
}

/** The footprint of a call that is about to run in `space`. */
export function footprintOf(space: AddressSpace, action: Action, outcome: number): Footprint {
  return {
    kind: action.kind,
    changes: outcome >= 0 && changesPages(action),
    pages: touchedPages(space, action, outcome),
  };
}

/** True if the order of the two decides what they do. */
export function conflict(a: Footprint, b: Footprint): boolean {
  if (!a.changes && !b.changes) return false;
  if (a.kind === 'fork') return b.changes;
  if (b.kind === 'fork') return a.changes;
  if (a.kind === 'brk' && b.kind === 'brk') return true;
  return overlap(a.pages, b.pages);
}

/** True if a range of the one has an address in common with a range of the other. */
export function overlap(a: readonly Range[], b: readonly Range[]): boolean {
  return a.some((x) => b.some((y) => x.start < y.end && y.start < x.end));
}

/** Pages that a call maps, and pages that it takes away; not those of a break. */
export interface PageChange {
  readonly maps: readonly Range[];
  readonly unmaps: readonly Range[];
}

export function pageChangeOf(action: Action): PageChange {
  if (action.kind === 'mmap') return { maps: [mappedPages(action)], unmaps: [] };
  if (action.kind === 'munmap') return { maps: [], unmaps: [pagesOf(action)] };
  if (action.kind !== 'mremap') return { maps: [], unmaps: [] };
  const { from, to } = remappedPages(action);
  const keepsOld = (action.flags & MREMAP_DONTUNMAP) !== 0;
  if (to.start !== from.start) return { maps: [to], unmaps: keepsOld ? [] : [from] };
  return to.end < from.end
    ? { maps: [], unmaps: [{ start: to.end, end: from.end }] }
    : { maps: [{ start: from.end, end: to.end }], unmaps: [] };
}

function changesPages(action: Action): boolean {
  switch (action.kind) {
    case 'mmap':
    case 'munmap':
    case 'mremap':
      return true;
    case 'brk':
      return action.address !== 0;
    case 'madvise':
      return action.advice === MADV_DONTFORK || action.advice === MADV_DOFORK;
    default:
      return false;
  }
}

function touchedPages(space: AddressSpace, action: Action, outcome: number): Range[] {
  switch (action.kind) {
    case 'mmap':
      return [mappedPages(action)];
    case 'mremap': {
      const { from, to } = remappedPages(action);
      const inPlace = { start: from.start, end: from.start + (to.end - to.start) };
      return outcome >= 0 ? [from, inPlace, to] : [from, inPlace];
    }
    case 'brk': {
      if (action.address === 0 || space.brk === UNKNOWN_BREAK) return [];
      const top = Math.max(space.brk, action.address);
      return [{ start: space.startBrk, end: pageAlignUp(top) + PAGE_SIZE }];
    }
    case 'munmap':
    case 'mprotect':
    case 'madvise':
    case 'mlock':
    case 'mlock2':
    case 'munlock':
    case 'msync':
    case 'mincore':
      return [pagesOf(action)];
    default:
      return [];
  }
}
