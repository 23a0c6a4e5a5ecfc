/**
 * An address space whose notifiers note what they are told, on the test's own thread.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readAddress, write } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { kzalloc } from '../../src/machine/slab.js';
import { member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  mmuIntervalCheckRetry,
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../../src/notifier/mmu-notifier.js';
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_NAMES,
  mmuNotifierRangeBlockable,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import {
  MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../src/notifier/types.js';
import { bootSpace, pageVa } from './address-space.js';

export interface Told {
  readonly interval: MmuIntervalNotifier;
  readonly event: string;
  readonly seq: number;
  readonly pages: readonly [number, number];
  readonly blockable: boolean;
}

/** What the callback below was told, and whom it refuses: one test runs at a time. */
let told: Told[] = [];
const refusing = new Set<MmuIntervalNotifier>();

export const listener = defineOps({
  opsName: 'listener',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    const start = (readAddress(cpu, range, MmuNotifierRange.start) - pageVa(0)) / PAGE_SIZE;
    const end = (readAddress(cpu, range, MmuNotifierRange.end) - pageVa(0)) / PAGE_SIZE;
    const event = MMU_NOTIFY_NAMES[read(cpu, range, MmuNotifierRange.event)] ?? '?';
    const blockable = mmuNotifierRangeBlockable(cpu, range);
    told.push({ interval, event, seq: curSeq, pages: [start, end], blockable });
    if (refusing.has(interval)) return false;
    mmuIntervalSetSeq(cpu, interval, curSeq);
    return true;
  },
});

/** One address space and its notifiers. */
export class World {
  readonly cpu: Cpu;
  readonly mm: MmStruct;

  constructor(ramBytes?: number) {
    ({ cpu: this.cpu, mm: this.mm } = bootSpace([{ listener }], 1, ramBytes));
    told = [];
    refusing.clear();
  }

  /** What the callbacks were told since the last time somebody asked. */
  takeTold(): Told[] {
    return told.splice(0);
  }

  /** Who was told something since then. */
  whoWasTold(): MmuIntervalNotifier[] {
    return this.takeTold().map(({ interval }) => interval);
  }

  /** From now on, these and no others refuse ranges that may not block. */
  refuse(...intervals: readonly MmuIntervalNotifier[]): void {
    refusing.clear();
    for (const interval of intervals) refusing.add(interval);
  }

  insert(page: number, pages: number): MmuIntervalNotifier {
    const interval = kzalloc(this.cpu, MmuIntervalNotifier);
    assert.equal(this.insertAt(interval, pageVa(page), pages * PAGE_SIZE), 0);
    return interval;
  }

  insertAt(interval: MmuIntervalNotifier, start: number, length: number): number {
    return mmuIntervalNotifierInsert(this.cpu, interval, this.mm, start, length, listener);
  }

  remove(interval: MmuIntervalNotifier): void {
    mmuIntervalNotifierRemove(this.cpu, interval);
  }

  range(page: number, pages: number): MmuNotifierRange {
    const { cpu, mm } = this;
    const range = kzalloc(cpu, MmuNotifierRange);
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, pageVa(page), pageVa(page + pages));
    return range;
  }

  start(page: number, pages: number): MmuNotifierRange {
    const range = this.range(page, pages);
    mmuNotifierInvalidateRangeStart(this.cpu, range);
    return range;
  }

  end(range: MmuNotifierRange): void {
    mmuNotifierInvalidateRangeEnd(this.cpu, range);
  }

  get subscriptions(): MmuNotifierSubscriptions {
    return read(this.cpu, this.mm, MmStruct.subscriptions);
  }

  /** S and A. */
  get state(): [number, number] {
    return [
      read(this.cpu, this.subscriptions, MmuNotifierSubscriptions.invalidateSeq),
      read(this.cpu, this.subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges),
    ];
  }

  set sequence(value: number) {
    write(this.cpu, this.subscriptions, MmuNotifierSubscriptions.invalidateSeq, value);
  }

  seqOf(interval: MmuIntervalNotifier): number {
    return read(this.cpu, interval, MmuIntervalNotifier.invalidateSeq);
  }

  inTree(interval: MmuIntervalNotifier): boolean {
    return read(this.cpu, interval, MmuIntervalNotifier.inTree) !== 0;
  }

  retry(interval: MmuIntervalNotifier, seq: number): boolean {
    const { cpu } = this;
    const retry = mmuIntervalReadRetry(cpu, interval, seq);
    assert.equal(mmuIntervalCheckRetry(cpu, interval, seq), retry);
    return retry;
  }

  /** INV-21. */
  assertIdle(): void {
    const [seq, active] = this.state;
    assert.equal(active, 0);
    assert.equal(seq & 1, 0);
    const deferred = member(this.subscriptions, MmuNotifierSubscriptions.deferred);
    assert.ok(listEmpty(this.cpu, deferred));
  }
}
