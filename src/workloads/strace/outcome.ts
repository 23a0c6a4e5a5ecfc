/**
 * What the kernel must have answered, as far as mapped pages and arguments decide it.
 *
 * A call whose logged answer is another one was decided by something that the log does not show (a
 * limit, a file's mode, a kernel's configuration, an unlogged unmapping), so a replay could not get
 * that answer either.
 *
 * Of two answers that both fit, the logged one is given: pages that nothing in the log ever touched
 * count as mapped if the call succeeded, and as a hole if it failed.
 *
 * @module
 */
import { EEXIST, EFAULT, EINVAL, ENOMEM } from '../../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignUp, TASK_SIZE } from '../../base/units.js';
import {
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_TYPE,
  MCL_CURRENT,
  MCL_FUTURE,
  MCL_ONFAULT,
  MLOCK_ONFAULT,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  MS_ASYNC,
  MS_INVALIDATE,
  MS_SYNC,
} from '../../mm/uapi.js';
import {
  type AddressSpace,
  mappedPages,
  pagesOf,
  remappedPages,
  remapSource,
  UNKNOWN_BREAK,
} from './address-space.js';
import type { Action, ActionWith } from './operations.js';

/** The answer to `action` in `space`, if that is decided here; `logged` is the log's. */
export function answerOf(space: AddressSpace, action: Action, logged: number): number {
  switch (action.kind) {
    case 'mmap':
      return logged >= 0 ? placeMmap(space, action) : refuseMmap(space, action);
    case 'munmap':
      return answerMunmap(action);
    case 'mremap':
      return answerMremap(space, action, logged);
    case 'brk':
      return answerBrk(space, action.address, logged);
    case 'mprotect':
    case 'madvise':
    case 'mincore':
      return isPageAligned(action.address) ? answerPages(space, action, logged) : -EINVAL;
    case 'mlock':
    case 'munlock':
      return answerPages(space, action, logged);
    case 'mlock2': {
      const isValid = (action.flags & ~MLOCK_ONFAULT) === 0;
      return isValid ? answerPages(space, action, logged) : -EINVAL;
    }
    case 'msync':
      return answerMsync(space, action, logged);
    case 'mlockall':
      return isMlockallValid(action.flags) ? 0 : -EINVAL;
    case 'munlockall':
      return 0;
    default: // births are not refused by the address space
      return logged;
  }
}

/** Calls that fail on a hole with ENOMEM, and do nothing if there is nothing to do. */
function answerPages(
  space: AddressSpace,
  action: { readonly address: number; readonly length: number },
  logged: number,
): number {
  if (action.length === 0) return 0;
  const { start, end } = pagesOf(action);
  if (end > TASK_SIZE) return -ENOMEM;
  return isMapped(space, start, end, logged) ? 0 : -ENOMEM;
}

function isMapped(space: AddressSpace, start: number, end: number, logged: number): boolean {
  return logged >= 0 ? space.canBeMapped(start, end) : space.mapped.covers(start, end);
}

/** Where a mapping that succeeded came to lie, or why it cannot have. */
function placeMmap(space: AddressSpace, action: ActionWith<'mmap'>): number {
  const { start, end } = mappedPages(action);
  if (!isPageAligned(start) || action.length === 0) return -EINVAL;
  if (end > TASK_SIZE) return -ENOMEM;
  const replaces = (action.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) === MAP_FIXED;
  return !replaces && space.mapped.intersects(start, end) ? -EEXIST : start;
}

/** Why an anonymous mapping that failed had to, or 0. */
function refuseMmap(space: AddressSpace, action: ActionWith<'mmap'>): number {
  const { start, end } = mappedPages(action);
  if (!isPageAligned(action.offset) || action.length === 0) return -EINVAL;
  const isFixed = (action.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
  if (action.length > TASK_SIZE || (isFixed && end > TASK_SIZE)) return -ENOMEM;
  if (isFixed && !isPageAligned(start)) return -EINVAL;
  const mustBeFree = (action.flags & MAP_FIXED_NOREPLACE) !== 0;
  if (mustBeFree && space.mapped.intersects(start, end)) return -EEXIST;
  const type = action.flags & MAP_TYPE;
  return type === MAP_SHARED || type === MAP_PRIVATE ? 0 : -EINVAL;
}

function answerMunmap(action: ActionWith<'munmap'>): number {
  const { address, length } = action;
  const isValid =
    isPageAligned(address) && length > 0 && pageAlignUp(address + length) <= TASK_SIZE;
  return isValid ? 0 : -EINVAL;
}

function answerMremap(space: AddressSpace, action: ActionWith<'mremap'>, logged: number): number {
  const { from, to } = remappedPages(action);
  if (!areMremapArgumentsValid(action)) return -EINVAL;
  const source = remapSource(action);
  if (!isMapped(space, source.start, source.end, logged)) return -EFAULT;
  const grows = action.newLength > action.oldLength;
  if (logged >= 0 && to.start !== from.start) {
    const mustBeFree = (action.flags & MREMAP_FIXED) === 0;
    return mustBeFree && space.mapped.intersects(to.start, to.end) ? -EEXIST : to.start;
  }
  const newEnd = from.start + (to.end - to.start);
  const hasRoom = newEnd <= TASK_SIZE && !space.mapped.intersects(from.end, newEnd);
  const mustStay = logged >= 0 || (action.flags & MREMAP_MAYMOVE) === 0;
  return grows && mustStay && !hasRoom ? -ENOMEM : from.start;
}

function areMremapArgumentsValid(action: ActionWith<'mremap'>): boolean {
  const { address, oldLength, newLength, flags, newAddress } = action;
  const canMove = (flags & MREMAP_MAYMOVE) !== 0;
  const isFixed = (flags & MREMAP_FIXED) !== 0;
  const keepsOld = (flags & MREMAP_DONTUNMAP) !== 0;
  if ((flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) !== 0) return false;
  if ((isFixed || keepsOld) && !canMove) return false;
  if (!isPageAligned(address) || newLength === 0) return false;
  if (keepsOld && oldLength !== newLength) return false;
  if (!isFixed) return true;
  const { from, to } = remappedPages(action);
  const overlaps = to.start < from.end && from.start < to.end;
  return isPageAligned(newAddress) && to.end <= TASK_SIZE && !overlaps;
}

/** brk never fails: what it cannot do it answers with the break as it is. */
function answerBrk(space: AddressSpace, requested: number, logged: number): number {
  if (space.brk === UNKNOWN_BREAK) return logged;
  if (requested < space.startBrk) return space.brk;
  const oldEnd = pageAlignUp(space.brk);
  const newEnd = pageAlignUp(requested);
  if (newEnd <= oldEnd) return requested;
  // one page is always kept free above the heap
  const hasRoom = newEnd <= TASK_SIZE && !space.mapped.intersects(oldEnd, newEnd + PAGE_SIZE);
  return hasRoom ? requested : space.brk;
}

function answerMsync(space: AddressSpace, action: ActionWith<'msync'>, logged: number): number {
  const { address, flags } = action;
  const isKnown = (flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) === 0;
  const isBoth = (flags & MS_ASYNC) !== 0 && (flags & MS_SYNC) !== 0;
  if (!isKnown || isBoth || !isPageAligned(address)) return -EINVAL;
  return answerPages(space, action, logged);
}

function isMlockallValid(flags: number): boolean {
  const isKnown = (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) === 0;
  return isKnown && flags !== 0 && flags !== MCL_ONFAULT;
}
