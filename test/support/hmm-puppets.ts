/**
 * Puppets of a machine with memory, and one address space for them; see puppets.ts.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readOnce, write, writeAddress } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { bootSvmStats } from '../../src/drivers/svm/stats.js';
import { HmmPfn, HmmRange } from '../../src/hmm/types.js';
import { attachCpu } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { allocWords, kzalloc } from '../../src/machine/slab.js';
import { member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { MmStruct } from '../../src/mm/types.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../src/notifier/mmu-notifier-range.js';
import {
  type MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../src/notifier/types.js';
import { initMutex } from '../../src/sync/mutex.js';
import { SVM_DRIVER_MODULE } from '../../src/workloads/built-ins.js';
import * as brokenDrivers from '../programs/broken-drivers.js';
import * as hmmSteps from '../programs/hmm-steps.js';
import { TinyDriver } from '../programs/hmm-steps.js';
import { MIB, pageVa } from './address-space.js';
import { programUrl } from './crew.js';
import { Puppets } from './puppets.js';

const TINY_LOCK = lockClass('tiny->lock');

export class HmmPuppets extends Puppets {
  /** A CPU on the test's thread that knows the ops tables. */
  readonly here: Cpu;
  mm: MmStruct;

  constructor(count: number) {
    const opsModules = [SVM_DRIVER_MODULE, programUrl('hmm-steps'), programUrl('broken-drivers')];
    super(count, { cpus: count + 1, ramBytes: 16 * MIB }, { opsModules });
    bootMm(this.boot);
    bootSvmStats(this.boot);
    this.here = attachCpu(this.handle, count);
    for (const cpu of [this.boot, this.here])
      registerOps(cpu, [driverModule, hmmSteps, brokenDrivers]);
    this.mm = this.newSpace();
  }

  /** From now on, an address space nobody has used yet. */
  newSpace(): MmStruct {
    this.mm = mmAlloc(this.here);
    useMm(this.here, this.mm);
    return this.mm;
  }

  /** Those pages, for the steps that want to know where. */
  range(page: number, pages: number): MmuNotifierRange {
    const range = kzalloc(this.here, MmuNotifierRange);
    const [start, end] = [pageVa(page), pageVa(page + pages)];
    mmuNotifierRangeInit(this.here, range, MMU_NOTIFY_CLEAR, this.mm, start, end);
    return range;
  }

  /** A driver of those pages; its interval is registered if `insert` says so. */
  tiny(page: number, pages: number, insert = true): TinyDriver {
    const { here, mm } = this;
    const driver = kzalloc(here, TinyDriver);
    initMutex(here, member(driver, TinyDriver.lock), TINY_LOCK);
    writeAddress(here, driver, TinyDriver.start, pageVa(page));
    writeAddress(here, driver, TinyDriver.length, pages * PAGE_SIZE);
    if (insert) assert.equal(hmmSteps.insertTiny(here, driver, mm), 0);
    return driver;
  }

  /** What hmmRangeFault is to look at, for the interval. */
  hmmRange(interval: MmuIntervalNotifier, page: number, pages: number, wanted: number): HmmRange {
    const { here } = this;
    const range = kzalloc(here, HmmRange);
    writeAddress(here, range, HmmRange.start, pageVa(page));
    writeAddress(here, range, HmmRange.end, pageVa(page + pages));
    write(here, range, HmmRange.notifier, interval);
    write(here, range, HmmRange.pfns, allocWords(here, pages * HmmPfn.words));
    write(here, range, HmmRange.defaultFlags, wanted);
    return range;
  }

  /** S and A. */
  get state(): [number, number] {
    const subscriptions = read(this.boot, this.mm, MmStruct.subscriptions);
    return [
      readOnce(this.boot, subscriptions, MmuNotifierSubscriptions.invalidateSeq),
      readOnce(this.boot, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges),
    ];
  }

  /** INV-21. */
  assertIdle(): void {
    const [seq, active] = this.state;
    assert.equal(active, 0);
    assert.equal(seq & 1, 0);
    const subscriptions = read(this.boot, this.mm, MmStruct.subscriptions);
    const deferred = member(subscriptions, MmuNotifierSubscriptions.deferred);
    assert.ok(listEmpty(this.boot, deferred));
  }
}
