/**
 * Devices, and the contexts that tie one to an address space.
 *
 * Protocol   open:   make the context, register its interval over all addresses, put it on the device's list.
 *            close:  take it off the list; under its lock mark it dead and clear the device's entries; fence;
 *                    unregister the interval; drop the opener's reference.
 *            Whoever works on a context holds a reference; faults in the ring do. The last reference frees
 *            the device's page table and lets the mm_struct go.
 * Invariant  I1  Nothing is mapped in a context after `close` has marked it dead.
 *            I2  The mm_struct outlives the context; its memory need not.
 * Ordering   contextsLock protects the list, so that who finds a context there can take a reference.
 *
 * @module
 */
import { read, write } from '#memory';

import { USER_VA_END } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { opsAt, opsIndex } from '../../machine/ops-table.js';
import { allocWords, freeWords, kfree, kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { initTlbContext, tlbShootdown } from '../../machine/tlb.js';
import { WAIT_DEVICE_FENCE } from '../../machine/wait-kind.js';
import { containerOf, member, NULL } from '../../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listNext } from '../../memory/list.js';
import { allocTable, freeTable } from '../../mm/page-table.js';
import type { MmStruct } from '../../mm/types.js';
import { mmdrop, mmgrab } from '../../notifier/mm-count.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
} from '../../notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_RELEASE,
  mmuNotifierRangeInit,
  VA_MAX,
} from '../../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../notifier/types.js';
import { freeMirror } from '../../protocols/protocol.js';
import { initMutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { refcountDecAndTest, refcountInc, refcountSet } from '../../sync/refcount.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import type { SvmDriver } from './driver.js';
import { initFaultBuffer } from './fault-buffer.js';
import { deviceClearRange, deviceFreeTables } from './page-table.js';
import { SvmContext, SvmDevice } from './types.js';

const CONTEXTS_LOCK = lockClass('svm_device->contexts_lock');
const CONTEXT_LOCK = lockClass('svm_context->lock');
const TABLE_LOCK = lockClass('svm_context->table_lock');

/** A device with that driver, whose serviced faults look at `windowPages` pages; NULL if memory is out. */
export function createSvmDevice(
  cpu: Cpu,
  id: number,
  driver: SvmDriver,
  windowPages: number,
): SvmDevice {
  const device = allocWords(cpu, SvmDevice.words) as SvmDevice;
  if (device === NULL) return NULL;
  write(cpu, device, SvmDevice.id, id);
  write(cpu, device, SvmDevice.driver, opsIndex(cpu, driver));
  write(cpu, device, SvmDevice.windowPages, windowPages);
  initSpinlock(cpu, member(device, SvmDevice.contextsLock), CONTEXTS_LOCK);
  initListHead(cpu, member(device, SvmDevice.contexts));
  initFaultBuffer(cpu, member(device, SvmDevice.faultBuffer));
  return device;
}

/** Frees a device without contexts. */
export function destroySvmDevice(cpu: Cpu, device: SvmDevice): void {
  freeWords(cpu, device, SvmDevice.words);
}

/** The driver of a device, on this worker. */
export function driverOf(cpu: Cpu, device: SvmDevice): SvmDriver {
  return opsAt(cpu, read(cpu, device, SvmDevice.driver)) as SvmDriver;
}

/** Ties the device to an address space; NULL if memory is out or the mm is dead. No lock held. Sleeps. */
export function openContext(cpu: Cpu, device: SvmDevice, mm: MmStruct): SvmContext {
  const context = kzalloc(cpu, SvmContext);
  if (context === NULL) return NULL;
  const pgd = allocTable(cpu);
  if (pgd === 0) {
    kfree(cpu, SvmContext, context);
    return NULL;
  }
  write(cpu, context, SvmContext.pgd, pgd);
  write(cpu, context, SvmContext.mm, mm);
  write(cpu, context, SvmContext.device, device);
  initMutex(cpu, member(context, SvmContext.lock), CONTEXT_LOCK);
  initSpinlock(cpu, member(context, SvmContext.tableLock), TABLE_LOCK);
  initTlbContext(cpu, member(context, SvmContext.tlb));
  refcountSet(cpu, member(context, SvmContext.refs), 1);
  if (attach(cpu, driverOf(cpu, device), context, mm) !== 0) {
    freeTable(cpu, pgd);
    kfree(cpu, SvmContext, context);
    return NULL;
  }
  mmgrab(cpu, mm); // I2
  spinLock(cpu, member(device, SvmDevice.contextsLock));
  listAddTail(cpu, member(context, SvmContext.link), member(device, SvmDevice.contexts));
  write(cpu, device, SvmDevice.contextCount, read(cpu, device, SvmDevice.contextCount) + 1);
  spinUnlock(cpu, member(device, SvmDevice.contextsLock));
  return context;
}

function attach(cpu: Cpu, driver: SvmDriver, context: SvmContext, mm: MmStruct): number {
  if (driver.attach !== undefined) return driver.attach(cpu, context, mm);
  const interval = member(context, SvmContext.interval);
  return mmuIntervalNotifierInsert(cpu, interval, mm, 0, USER_VA_END, driver);
}

/** Unties it again. No lock held. Sleeps. */
export function closeContext(cpu: Cpu, context: SvmContext): void {
  const device = read(cpu, context, SvmContext.device);
  spinLock(cpu, member(device, SvmDevice.contextsLock));
  listDelInit(cpu, member(context, SvmContext.link));
  write(cpu, device, SvmDevice.contextCount, read(cpu, device, SvmDevice.contextCount) - 1);
  spinUnlock(cpu, member(device, SvmDevice.contextsLock));
  killContext(cpu, context);
  const driver = driverOf(cpu, device);
  if (driver.detach !== undefined) driver.detach(cpu, context);
  else mmuIntervalNotifierRemove(cpu, member(context, SvmContext.interval));
  putContext(cpu, context);
}

/** Empties the device's page table for good (I1). Sleeps. */
export function killContext(cpu: Cpu, context: SvmContext): void {
  const range = stackPush(cpu, MmuNotifierRange);
  const mm = read(cpu, context, SvmContext.mm);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_RELEASE, mm, 0, VA_MAX);
  mutexLock(cpu, member(context, SvmContext.lock));
  write(cpu, context, SvmContext.dead, 1);
  deviceClearRange(cpu, context, range);
  tlbShootdown(cpu, member(context, SvmContext.tlb), WAIT_DEVICE_FENCE);
  mutexUnlock(cpu, member(context, SvmContext.lock));
  stackPop(cpu, range);
}

/** Another reference; the caller has one, or holds contextsLock. */
export function getContext(cpu: Cpu, context: SvmContext): void {
  refcountInc(cpu, member(context, SvmContext.refs));
}

/** Gives a reference back; the last frees the context. Sleeps. */
export function putContext(cpu: Cpu, context: SvmContext): void {
  if (!refcountDecAndTest(cpu, member(context, SvmContext.refs))) return;
  const mm = read(cpu, context, SvmContext.mm);
  const mirror = read(cpu, context, SvmContext.mirror);
  if (mirror !== NULL) freeMirror(cpu, mirror);
  deviceFreeTables(cpu, context);
  kfree(cpu, SvmContext, context);
  mmdrop(cpu, mm);
}

/** The device's context number `index` modulo how many there are, with a reference; NULL if it has none. */
export function pickContext(cpu: Cpu, device: SvmDevice, index: number): SvmContext {
  const lock = member(device, SvmDevice.contextsLock);
  const head = member(device, SvmDevice.contexts);
  let context: SvmContext = NULL;
  spinLock(cpu, lock);
  const count = read(cpu, device, SvmDevice.contextCount);
  if (count > 0) {
    let node = listNext(cpu, head);
    for (let i = index % count; i > 0; i--) node = listNext(cpu, node);
    context = containerOf(node, SvmContext.link);
    getContext(cpu, context);
  }
  spinUnlock(cpu, lock);
  return context;
}

/** The device's context of an address space, with a reference; NULL if it has none. */
export function findContext(cpu: Cpu, device: SvmDevice, mm: MmStruct): SvmContext {
  const lock = member(device, SvmDevice.contextsLock);
  const head = member(device, SvmDevice.contexts);
  let found: SvmContext = NULL;
  spinLock(cpu, lock);
  for (let node = listNext(cpu, head); node !== head; node = listNext(cpu, node)) {
    const context: SvmContext = containerOf(node, SvmContext.link);
    if (read(cpu, context, SvmContext.mm) !== mm) continue;
    getContext(cpu, context);
    found = context;
    break;
  }
  spinUnlock(cpu, lock);
  return found;
}
