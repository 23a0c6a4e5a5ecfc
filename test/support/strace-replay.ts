/**
 * Replays a plan on the most naive model of address spaces there is, in an order chosen at random.
 *
 * Shares no code with the planner: addresses are cut at every boundary that occurs in the plan, and an
 * address space is one flag for each piece.
 *
 * @module
 */
import assert from 'node:assert/strict';

import type { Operation, OperationKind } from '../../src/workloads/strace/operations.js';
import type { StracePlan } from '../../src/workloads/strace/plan.js';

const PAGE = 4096;
const EEXIST = 17;
const EFAULT = 14;
const ENOMEM = 12;
const MAP_FIXED = 0x10;
const MAP_FIXED_NOREPLACE = 0x100000;
const MREMAP_MAYMOVE = 1;
const MREMAP_DONTUNMAP = 4;

interface Pages {
  readonly mapped: Uint8Array;
  startBrk: number;
  brk: number;
}

function up(value: number): number {
  return Math.ceil(value / PAGE) * PAGE;
}

/** Chooses one of `count`. */
export type Choose = (count: number) => number;

export class NaiveReplay {
  readonly #plan: StracePlan;
  readonly #bounds: number[];
  readonly #pages = new Map<number, Pages>();
  /** The mm of each task, as it follows from what was done so far. */
  readonly #mmOf = new Map<number, number>();

  constructor(plan: StracePlan) {
    this.#plan = plan;
    const bounds = new Set<number>();
    for (const { operations } of plan.tasks) {
      for (const operation of operations)
        for (const bound of boundsOf(operation)) bounds.add(bound);
    }
    for (const { image, startBrk } of plan.mms) {
      bounds.add(up(startBrk));
      for (const { start, end } of image) bounds.add(start).add(end);
    }
    this.#bounds = [...bounds].sort((a, b) => a - b);
  }

  /** Performs every operation once. Fails on a wrong outcome, and if all slots wait for each other. */
  run(choose: Choose): void {
    const { tasks, slots } = this.#plan;
    const done = tasks.map(() => 0);
    const queues = slots.map((list) => list.flatMap((task) => tasks[task]!.operations));
    const next = slots.map(() => 0);
    const total = queues.reduce((sum, queue) => sum + queue.length, 0);
    for (let step = 0; step < total; step++) {
      const ready = slots.flatMap((_, slot) => {
        const operation = queues[slot]![next[slot]!];
        const isReady = operation?.waits.every(({ task, count }) => done[task]! >= count);
        return isReady === true ? [slot] : [];
      });
      assert.ok(ready.length > 0, `all slots wait after ${step} of ${total} operations`);
      const slot = ready[choose(ready.length)]!;
      const operation = queues[slot]![next[slot]!]!;
      next[slot]!++;
      assert.equal(operation.number, done[operation.task]);
      this.#check(operation);
      done[operation.task]!++;
    }
  }

  #check(operation: Operation): void {
    const { task, line, action } = operation;
    const mm = this.#mmOf.get(task) ?? -1;
    assert.equal(operation.mm, mm, `line ${line}: the address space that task ${task} is in`);
    const outcome = this.#perform(operation, mm);
    assert.equal(outcome, operation.expected, `line ${line}: ${JSON.stringify(action)}`);
  }

  #perform(operation: Operation, mm: number): number {
    const { action, task } = operation;
    if (action.kind === 'exec') {
      const pages = this.#newPages(action.startBrk);
      for (const { start, end } of this.#plan.mms[action.newMm]!.image) {
        this.#fill(pages, start, end, 1);
      }
      this.#pages.set(action.newMm, pages);
      this.#mmOf.set(task, action.newMm);
      return 0;
    }
    if (action.kind === 'exit') return 0;
    const pages = this.#pages.get(mm);
    assert.ok(pages !== undefined, `mm ${mm} does not exist yet`);
    if (action.kind === 'thread' || action.kind === 'vfork') this.#mmOf.set(action.childTask, mm);
    if (action.kind === 'fork') {
      this.#pages.set(action.childMm, { ...pages, mapped: pages.mapped.slice() });
      this.#mmOf.set(action.childTask, action.childMm);
    }
    return this.#call(pages, operation);
  }

  #call(pages: Pages, { action, expected }: Operation): number {
    switch (action.kind) {
      case 'mmap': {
        const end = up(action.address + action.length);
        const replaces = (action.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) === MAP_FIXED;
        if (!replaces && this.#has(pages, action.address, end, 1)) return -EEXIST;
        this.#fill(pages, action.address, end, 1);
        return action.address;
      }
      case 'munmap':
        this.#fill(pages, action.address, up(action.address + action.length), 0);
        return 0;
      case 'mprotect':
      case 'madvise':
      case 'mlock':
      case 'mlock2':
      case 'munlock':
      case 'msync':
      case 'mincore':
        return this.#has(pages, action.address, up(action.address + action.length), 0)
          ? -ENOMEM
          : 0;
      case 'mremap':
        return this.#mremap(pages, action, expected);
      case 'brk':
        return this.#brk(pages, action.address);
      default:
        return expected; // births, mlockall, munlockall
    }
  }

  #mremap(
    pages: Pages,
    action: { address: number; oldLength: number; newLength: number; flags: number },
    expected: number,
  ): number {
    const { address, flags } = action;
    const oldEnd = address + up(action.oldLength);
    const newEnd = address + up(action.newLength);
    if (this.#has(pages, address, newEnd < oldEnd ? address + PAGE : oldEnd, 0)) return -EFAULT;
    const hasRoom = newEnd <= oldEnd || !this.#has(pages, oldEnd, newEnd, 1);
    if (expected < 0) return hasRoom || (flags & MREMAP_MAYMOVE) !== 0 ? address : -ENOMEM;
    if (expected === address) {
      if (!hasRoom) return -ENOMEM;
      this.#fill(pages, newEnd, oldEnd, 0);
      this.#fill(pages, oldEnd, newEnd, 1);
      return address;
    }
    const movedEnd = expected + up(action.newLength);
    if ((flags & 2) === 0 && this.#has(pages, expected, movedEnd, 1)) return -EEXIST;
    if ((flags & MREMAP_DONTUNMAP) === 0) this.#fill(pages, address, oldEnd, 0);
    this.#fill(pages, expected, movedEnd, 1);
    return expected;
  }

  #brk(pages: Pages, requested: number): number {
    if (requested < pages.startBrk) return pages.brk;
    const oldEnd = up(pages.brk);
    const newEnd = up(requested);
    if (newEnd > oldEnd && this.#has(pages, oldEnd, newEnd + PAGE, 1)) return pages.brk;
    this.#fill(pages, oldEnd, newEnd, 1);
    this.#fill(pages, newEnd, oldEnd, 0);
    pages.brk = requested;
    return requested;
  }

  #newPages(brk: number): Pages {
    return { mapped: new Uint8Array(this.#bounds.length), startBrk: brk, brk };
  }

  #fill(pages: Pages, start: number, end: number, value: number): void {
    if (start < end) pages.mapped.fill(value, this.#index(start), this.#index(end));
  }

  /** True if a part of the range has this value. */
  #has(pages: Pages, start: number, end: number, value: number): boolean {
    if (start >= end) return false;
    return pages.mapped.subarray(this.#index(start), this.#index(end)).includes(value);
  }

  #index(bound: number): number {
    let low = 0;
    let high = this.#bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#bounds[middle]! < bound) low = middle + 1;
      else high = middle;
    }
    assert.equal(this.#bounds[low], bound, 'a boundary that the plan does not have');
    return low;
  }
}

const HAS_LENGTH: ReadonlySet<OperationKind> = new Set<OperationKind>([
  'mmap',
  'munmap',
  'mprotect',
  'madvise',
  'mlock',
  'mlock2',
  'munlock',
  'msync',
  'mincore',
]);

function boundsOf({ action, expected }: Operation): number[] {
  if (action.kind === 'brk') {
    return [up(action.address), up(action.address) + PAGE, up(expected), up(expected) + PAGE];
  }
  if (action.kind === 'mremap') {
    const { address, oldLength, newLength } = action;
    const moved = Math.max(expected, 0);
    const ends = [oldLength, newLength].flatMap((length) => [
      address + up(length),
      moved + up(length),
    ]);
    return [address, address + PAGE, moved, ...ends];
  }
  if (!HAS_LENGTH.has(action.kind) || !('length' in action)) return [];
  return [action.address, up(action.address + action.length)];
}
