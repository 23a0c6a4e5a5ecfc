/**
 * What an address space should do, without page tables: each page of a process is an object that says what
 * it may be used for and what it holds.
 *
 * The model knows nothing of VMAs. Where Linux lets a program see their borders, which is in mremap alone,
 * the runner asks the real one.
 *
 * @module
 */
import * as errno from '../../src/base/errno.js';
import * as uapi from '../../src/mm/uapi.js';

/** Memory that several pages of several processes can show: a file, or shared anonymous memory. */
export interface Backing {
  readonly pages: number;
  readonly contents: Map<number, number>;
  /** What a page that nobody has written holds. */
  readonly untouched: (index: number) => number;
}

/** What one page of one process is. */
export interface ModelPage {
  /** Letters of its rights. */
  prot: string;
  locked: boolean;
  /** What fork does with it: `copy`, `skip` or `wipe`. */
  atFork: string;
  readonly shared: boolean;
  readonly backing: Backing | undefined;
  readonly index: number;
  /** Its own contents, if it is private and has some. */
  own: number | undefined;
}

export type Process = Map<number, ModelPage>;

/** A page of a file that ends before it cannot be used. */
export function isBehindEnd(page: ModelPage): boolean {
  return page.backing !== undefined && page.index >= page.backing.pages;
}

/** What a page holds. */
export function valueOf(page: ModelPage): number {
  const { backing, index, own } = page;
  if (own !== undefined) return own;
  if (backing === undefined) return 0;
  return backing.contents.get(index) ?? backing.untouched(index);
}

/** A store: 0 or -EFAULT. */
export function modelStore(process: Process, at: number, value: number): number {
  const page = process.get(at);
  if (page?.prot.includes('w') !== true || isBehindEnd(page)) return -errno.EFAULT;
  if (page.shared && page.backing) page.backing.contents.set(page.index, value);
  else page.own = value;
  return 0;
}

/** A load: the value, or -EFAULT under another name. */
export function modelLoad(process: Process, at: number): number | 'EFAULT' {
  const page = process.get(at);
  if (page === undefined || page.prot === '' || isBehindEnd(page)) return 'EFAULT';
  return valueOf(page);
}

/** Makes present what it holds, as a write would if that is allowed: a private page stops following a file. */
function populate(page: ModelPage): boolean {
  if (page.prot === '' || isBehindEnd(page)) return false;
  if (!page.shared && page.prot.includes('w')) page.own = valueOf(page);
  return true;
}

/** The pages of a range that are mapped, lowest first. */
function mappedIn(process: Process, at: number, pages: number): [number, ModelPage][] {
  const found: [number, ModelPage][] = [];
  for (let page = at; page < at + pages; page++) {
    const entry = process.get(page);
    if (entry !== undefined) found.push([page, entry]);
  }
  return found;
}

/** How many pages from the start are mapped without a hole. */
function pagesBeforeHole(process: Process, at: number, pages: number): number {
  let count = 0;
  while (count < pages && process.has(at + count)) count++;
  return count;
}

export interface MapRequest {
  readonly prot: string;
  readonly backing: Backing | undefined;
  readonly shared: boolean;
  readonly offset: number;
  readonly locked: boolean;
  readonly populate: boolean;
}

/** mmap in the place of what is there. */
export function modelMap(process: Process, at: number, pages: number, request: MapRequest): void {
  const { prot, shared, backing, offset, locked } = request;
  for (let i = 0; i < pages; i++) {
    const index = offset + i;
    const page = { prot, locked, atFork: 'copy', shared, backing, index, own: undefined };
    process.set(at + i, page);
  }
  if (!locked && !request.populate) return;
  // one mapping: it is given up at its first page that cannot be
  for (let i = 0; i < pages && populate(process.get(at + i)!); i++);
}

export function modelUnmap(process: Process, at: number, pages: number): void {
  for (let page = at; page < at + pages; page++) process.delete(page);
}

/** mprotect: 0, or -ENOMEM at a hole, after what comes before it. */
export function modelProtect(process: Process, at: number, pages: number, prot: string): number {
  const count = pagesBeforeHole(process, at, pages);
  for (let i = 0; i < count; i++) {
    const page = process.get(at + i)!;
    const gainsWrite = prot.includes('w') && !page.prot.includes('w');
    page.prot = prot;
    if (gainsWrite && page.locked && !page.shared) populate(page);
  }
  return count < pages ? -errno.ENOMEM : 0;
}

/** madvise, for the advice that has an effect: 0 or -errno. */
export function modelAdvise(process: Process, at: number, pages: number, advice: number): number {
  if (advice === uapi.MADV_POPULATE_READ || advice === uapi.MADV_POPULATE_WRITE) {
    return modelPopulate(process, at, pages, advice === uapi.MADV_POPULATE_WRITE);
  }
  for (const [, page] of mappedIn(process, at, pages)) {
    const error = advisePage(page, advice);
    if (error !== 0) return error;
  }
  return mappedIn(process, at, pages).length < pages ? -errno.ENOMEM : 0;
}

function advisePage(page: ModelPage, advice: number): number {
  switch (advice) {
    case uapi.MADV_DONTNEED:
      if (page.locked) return -errno.EINVAL;
      page.own = undefined;
      return 0;
    case uapi.MADV_FREE:
      return page.locked || page.backing !== undefined ? -errno.EINVAL : 0;
    case uapi.MADV_DONTFORK:
      page.atFork =
        page.atFork === 'wipe' ? 'wipe+skip' : page.atFork === 'copy' ? 'skip' : page.atFork;
      return 0;
    case uapi.MADV_DOFORK:
      page.atFork = page.atFork.startsWith('wipe') ? 'wipe' : 'copy';
      return 0;
    case uapi.MADV_WIPEONFORK:
      if (page.backing !== undefined) return -errno.EINVAL;
      page.atFork = page.atFork.endsWith('skip') ? 'wipe+skip' : 'wipe';
      return 0;
    default:
      return 0;
  }
}

function modelPopulate(process: Process, at: number, pages: number, isWrite: boolean): number {
  for (let i = 0; i < pages; i++) {
    const page = process.get(at + i);
    if (page === undefined) return -errno.ENOMEM;
    if (!page.prot.includes(isWrite ? 'w' : 'r')) return -errno.EINVAL;
    if (isBehindEnd(page)) return -errno.EFAULT;
    if (isWrite && !page.shared) page.own = valueOf(page);
  }
  return 0;
}

/** mlock and munlock: 0 or -ENOMEM. */
export function modelLock(process: Process, at: number, pages: number, locks: boolean): number {
  const count = pagesBeforeHole(process, at, pages);
  for (let i = 0; i < count; i++) process.get(at + i)!.locked = locks;
  if (count < pages) return -errno.ENOMEM;
  if (!locks) return 0;
  for (let i = 0; i < pages; i++) if (!populate(process.get(at + i)!)) return -errno.ENOMEM;
  return 0;
}

/** Moves pages that are known to be one mapping; what it grows by goes on where that ended. */
export function modelMove(
  process: Process,
  at: number,
  pages: number,
  to: number,
  newPages: number,
  leavesMapping: boolean,
): void {
  const moved = mappedIn(process, at, Math.min(pages, newPages)).map(([, page]) => page);
  const last = moved.at(-1)!;
  modelUnmap(process, to, newPages);
  for (let i = 0; i < Math.max(pages, newPages); i++) {
    const page = moved[i];
    if (i < newPages) process.set(to + i, page ?? grownPage(last, i - moved.length + 1));
    if (i >= pages) continue;
    if (leavesMapping && page) process.set(at + i, { ...page, own: undefined, locked: false });
    else if (at + i < to || at + i >= to + newPages) process.delete(at + i);
  }
  populateGrowth(process, to + moved.length, newPages - moved.length);
}

/** Makes a mapping longer in place. */
export function modelGrow(process: Process, at: number, pages: number, newPages: number): void {
  const last = process.get(at + pages - 1)!;
  for (let i = pages; i < newPages; i++) process.set(at + i, grownPage(last, i - pages + 1));
  populateGrowth(process, at + pages, newPages - pages);
}

function grownPage(last: ModelPage, by: number): ModelPage {
  return { ...last, index: last.index + by, own: undefined };
}

function populateGrowth(process: Process, at: number, pages: number): void {
  for (let i = 0; i < pages; i++) {
    const page = process.get(at + i)!;
    if (page.locked && !populate(page)) return;
  }
}

/** A copy of a process. */
export function modelFork(process: Process): Process {
  const child: Process = new Map();
  for (const [at, page] of process) {
    if (page.atFork.endsWith('skip')) continue;
    const own = page.atFork === 'wipe' ? undefined : page.own;
    child.set(at, { ...page, own, locked: false });
  }
  return child;
}
