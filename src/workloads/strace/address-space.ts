/**
 * An address space as the log shows it: which pages are mapped, and where the break is.
 *
 * What an exec maps by itself (program, loader, stack) is not in the log. It shows when a call succeeds
 * that would have failed on a hole: the pages it touched must have been mapped, and if nothing in the
 * log ever mapped or unmapped them, the exec did. Such pages are learned into `image`, which a fork's
 * copy shares with the original, since both descend from one exec.
 *
 * @module
 */
import { PAGE_SIZE, pageAlignDown, pageAlignUp } from '../../base/units.js';
import {
  MADV_DOFORK,
  MADV_DONTFORK,
  MAP_HUGE_MASK,
  MAP_HUGE_SHIFT,
  MAP_HUGETLB,
  MREMAP_DONTUNMAP,
} from '../../mm/uapi.js';
import type { Action, ActionWith } from './operations.js';
import { PageRanges, type Range } from './page-ranges.js';

/** A break that no call has told yet. */
export const UNKNOWN_BREAK = -1;

const HUGE_PAGE_SIZE = 2 ** 21;

export class AddressSpace {
  readonly mapped: PageRanges;
  /** What the exec behind it mapped, as far as has been learned. Shared with copies. */
  readonly image: PageRanges;
  /** Pages that the log has mapped or unmapped since the exec: nothing is to be learned of these. */
  readonly #touched: PageRanges;
  /** Pages that a fork leaves out (MADV_DONTFORK). */
  readonly #unforked: PageRanges;
  startBrk = UNKNOWN_BREAK;
  brk = UNKNOWN_BREAK;

  private constructor(
    image: PageRanges,
    mapped: PageRanges,
    touched: PageRanges,
    unforked: PageRanges,
  ) {
    this.image = image;
    this.mapped = mapped;
    this.#touched = touched;
    this.#unforked = unforked;
  }

  /** As an exec leaves it. What is learned later is added to `image`. */
  static afterExec(image: PageRanges): AddressSpace {
    return new AddressSpace(image, image.copy(), new PageRanges(), new PageRanges());
  }

  /** The same pages once more, to try out what a call would do; nothing is learned from a trial. */
  trial(): AddressSpace {
    return this.#copy(this.image.copy());
  }

  /** What a fork's child gets. */
  forked(): AddressSpace {
    const child = this.#copy(this.image);
    for (const { start, end } of this.#unforked.ranges()) child.unmap(start, end);
    return child;
  }

  map(start: number, end: number): void {
    this.mapped.add(start, end);
    this.#touched.add(start, end);
    this.#unforked.remove(start, end);
  }

  unmap(start: number, end: number): void {
    this.mapped.remove(start, end);
    this.#touched.add(start, end);
    this.#unforked.remove(start, end);
  }

  /** Notes that a call which is left out may have changed the range: nothing is to be learned of it. */
  lose(start: number, end: number): void {
    this.#touched.add(start, end);
  }

  /** True if every page is mapped, or can have been all along for all that the log shows. */
  canBeMapped(start: number, end: number): boolean {
    if (this.mapped.covers(start, end)) return true;
    return this.mapped
      .missing(start, end)
      .every((gap) => !this.#touched.intersects(gap.start, gap.end));
  }

  /** Notes that every page of the range is mapped; `canBeMapped` holds for it. */
  learn(start: number, end: number): void {
    if (this.mapped.covers(start, end)) return;
    for (const gap of this.mapped.missing(start, end)) {
      this.image.add(gap.start, gap.end);
      this.mapped.add(gap.start, gap.end);
    }
  }

  advise(action: ActionWith<'madvise'>): void {
    const { start, end } = pagesOf(action);
    if (action.advice === MADV_DONTFORK) this.#unforked.add(start, end);
    else if (action.advice === MADV_DOFORK) this.#unforked.remove(start, end);
  }

  #copy(image: PageRanges): AddressSpace {
    const copy = new AddressSpace(
      image,
      this.mapped.copy(),
      this.#touched.copy(),
      this.#unforked.copy(),
    );
    copy.startBrk = this.startBrk;
    copy.brk = this.brk;
    return copy;
  }
}

/** Whole pages that an address and a length touch. */
export function pagesOf(action: { readonly address: number; readonly length: number }): Range {
  return {
    start: pageAlignDown(action.address),
    end: pageAlignUp(action.address + action.length),
  };
}

/** What a mapping covers; huge ones are rounded up to huge pages. */
export function mappedPages(action: ActionWith<'mmap'>): Range {
  const { address, length, flags } = action;
  if ((flags & MAP_HUGETLB) === 0) return { start: address, end: pageAlignUp(address + length) };
  const logarithm = (flags >>> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
  const size = logarithm === 0 ? HUGE_PAGE_SIZE : 2 ** logarithm;
  return { start: address, end: address + Math.ceil(length / size) * size };
}

/** What an mremap takes away and what it gives: the old and the new place. */
export function remappedPages(action: ActionWith<'mremap'>): { from: Range; to: Range } {
  const { address, oldLength, newLength, newAddress } = action;
  return {
    from: { start: address, end: address + pageAlignUp(oldLength) },
    to: { start: newAddress, end: newAddress + pageAlignUp(newLength) },
  };
}

/** The pages that an mremap which succeeded proves to have been mapped. */
export function remapSource(action: ActionWith<'mremap'>): Range {
  const { from, to } = remappedPages(action);
  const shrinksInPlace = to.start === from.start && to.end <= from.end;
  // taking a tail off looks at no page but the first; so does copying a shared mapping (length 0)
  const isWhole = !shrinksInPlace && from.end > from.start;
  return isWhole ? from : { start: from.start, end: from.start + PAGE_SIZE };
}

/** Does what a call that succeeded did. */
export function applyAction(space: AddressSpace, action: Action, outcome: number): void {
  if (!(outcome >= 0)) return;
  switch (action.kind) {
    case 'mmap': {
      const { start, end } = mappedPages(action);
      space.map(start, end);
      return;
    }
    case 'munmap': {
      const { start, end } = pagesOf(action);
      space.unmap(start, end);
      return;
    }
    case 'mremap':
      applyMremap(space, action);
      return;
    case 'brk':
      applyBrk(space, action.address, outcome);
      return;
    case 'madvise':
      learnPages(space, action);
      space.advise(action);
      return;
    case 'mprotect':
    case 'mlock':
    case 'mlock2':
    case 'munlock':
    case 'msync':
    case 'mincore':
      learnPages(space, action);
      return;
    default: // the others leave the pages as they are
  }
}

function learnPages(
  space: AddressSpace,
  action: { readonly address: number; readonly length: number },
): void {
  if (action.length === 0) return;
  const { start, end } = pagesOf(action);
  space.learn(start, end);
}

function applyMremap(space: AddressSpace, action: ActionWith<'mremap'>): void {
  const { from, to } = remappedPages(action);
  const source = remapSource(action);
  space.learn(source.start, source.end);
  if (to.start === from.start) {
    space.unmap(to.end, from.end);
    space.map(from.end, to.end);
    return;
  }
  if ((action.flags & MREMAP_DONTUNMAP) === 0) space.unmap(from.start, from.end);
  space.map(to.start, to.end);
}

function applyBrk(space: AddressSpace, requested: number, outcome: number): void {
  if (space.brk === UNKNOWN_BREAK) {
    space.startBrk = outcome;
    space.brk = outcome;
  } else if (outcome === requested) {
    const oldEnd = pageAlignUp(space.brk);
    const newEnd = pageAlignUp(requested);
    space.map(oldEnd, newEnd);
    space.unmap(newEnd, oldEnd);
    space.brk = requested;
  }
}
