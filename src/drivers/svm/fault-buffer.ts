/**
 * The fault buffer: a ring that the hardware fills when an engine faults.
 *
 * Protocol   The top half (raiseFault) runs on the engine's worker, as an interrupt would: it puts the
 *            fault into the ring and wakes a service thread. A full ring drops the fault and counts it;
 *            the engine then waits for the next replay and faults again, as replayable faults do.
 *            Service threads take batches out (takeFaults), and announce a replay for each.
 * Invariant  I1  put - got is the number of entries, at most FAULT_BUFFER_ENTRIES.
 *            I2  An entry holds a reference to its context, which goes to whoever takes it out.
 * Ordering   The ring's lock; waking happens after it has been given back.
 *
 * @module
 */
import { fetchAdd, read, readAddress, readOnce, write, writeAddress } from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../../machine/sched.js';
import { WAIT_FAULT_BUFFER } from '../../machine/wait-kind.js';
import { member, type Va } from '../../memory/layout.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWaitExclusive,
  wakeUp,
  wakeUpAll,
} from '../../sync/wait-queue.js';
import {
  FAULT_BUFFER_ENTRIES,
  FaultBuffer,
  FaultEntry,
  type SvmContext,
  SvmDevice,
  type SvmEngine,
} from './types.js';

const FAULT_LOCK = lockClass('svm_fault_buffer->lock');
const ARRIVED_LOCK = lockClass('svm_fault_buffer->arrived');
const REPLAYED_LOCK = lockClass('svm_fault_buffer->replayed');

/** Makes an empty ring. */
export function initFaultBuffer(cpu: Cpu, buffer: FaultBuffer): void {
  initSpinlock(cpu, member(buffer, FaultBuffer.lock), FAULT_LOCK);
  initWaitQueue(cpu, member(buffer, FaultBuffer.arrived), ARRIVED_LOCK);
  initWaitQueue(cpu, member(buffer, FaultBuffer.replayed), REPLAYED_LOCK);
}

/** Entries in the ring (I1); the two counts may have gone over the end of the numbers. Ring locked. */
function entriesIn(cpu: Cpu, buffer: FaultBuffer): number {
  return (read(cpu, buffer, FaultBuffer.put) - read(cpu, buffer, FaultBuffer.got)) | 0;
}

function entryAt(buffer: FaultBuffer, serial: number): FaultEntry {
  const index = serial & (FAULT_BUFFER_ENTRIES - 1);
  return (buffer + FaultBuffer.entries + index * FaultEntry.words) as FaultEntry;
}

/**
 * The top half: reports a fault. False if the ring was full and the fault is lost; otherwise the caller's
 * reference to the context has become the ring's (I2). Does not sleep.
 */
export function raiseFault(
  cpu: Cpu,
  buffer: FaultBuffer,
  context: SvmContext,
  va: Va,
  isWrite: boolean,
  engine: SvmEngine,
): boolean {
  spinLock(cpu, member(buffer, FaultBuffer.lock));
  const put = read(cpu, buffer, FaultBuffer.put);
  const isFull = entriesIn(cpu, buffer) === FAULT_BUFFER_ENTRIES;
  if (isFull) {
    write(cpu, buffer, FaultBuffer.dropped, read(cpu, buffer, FaultBuffer.dropped) + 1);
  } else {
    const entry = entryAt(buffer, put);
    writeAddress(cpu, entry, FaultEntry.va, va);
    write(cpu, entry, FaultEntry.context, context);
    write(cpu, entry, FaultEntry.isWrite, isWrite ? 1 : 0);
    write(cpu, entry, FaultEntry.engine, engine);
    write(cpu, buffer, FaultBuffer.put, put + 1);
  }
  spinUnlock(cpu, member(buffer, FaultBuffer.lock));
  wakeUp(cpu, member(buffer, FaultBuffer.arrived));
  return !isFull;
}

/** Copies at most `max` entries to `batch` and takes them out; returns how many. */
export function takeFaults(cpu: Cpu, buffer: FaultBuffer, batch: number, max: number): number {
  spinLock(cpu, member(buffer, FaultBuffer.lock));
  const got = read(cpu, buffer, FaultBuffer.got);
  const count = Math.min(entriesIn(cpu, buffer), max);
  for (let i = 0; i < count; i++) {
    const from = entryAt(buffer, got + i);
    const to = (batch + i * FaultEntry.words) as FaultEntry;
    writeAddress(cpu, to, FaultEntry.va, readAddress(cpu, from, FaultEntry.va));
    write(cpu, to, FaultEntry.context, read(cpu, from, FaultEntry.context));
    write(cpu, to, FaultEntry.isWrite, read(cpu, from, FaultEntry.isWrite));
    write(cpu, to, FaultEntry.engine, read(cpu, from, FaultEntry.engine));
  }
  write(cpu, buffer, FaultBuffer.got, got + count);
  spinUnlock(cpu, member(buffer, FaultBuffer.lock));
  return count;
}

/** Sleeps until there is an entry, or the device is stopping: false. No lock held. Sleeps. */
export function waitForFaults(cpu: Cpu, device: SvmDevice): boolean {
  const buffer = member(device, SvmDevice.faultBuffer);
  const queue = member(buffer, FaultBuffer.arrived);
  const wait = initWait(cpu, WAIT_FAULT_BUFFER, buffer);
  let hasFaults = false;
  for (;;) {
    prepareToWaitExclusive(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    hasFaults = pendingFaults(cpu, buffer) > 0;
    if (hasFaults || readOnce(cpu, device, SvmDevice.stopping) !== 0) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  return hasFaults;
}

/** Entries in the ring now. */
function pendingFaults(cpu: Cpu, buffer: FaultBuffer): number {
  spinLock(cpu, member(buffer, FaultBuffer.lock));
  const pending = entriesIn(cpu, buffer);
  spinUnlock(cpu, member(buffer, FaultBuffer.lock));
  return pending;
}

/** A batch has been serviced: who lost a fault may raise it again. */
export function announceReplay(cpu: Cpu, buffer: FaultBuffer): void {
  fetchAdd(cpu, buffer, FaultBuffer.replays, 1);
  wakeUpAll(cpu, member(buffer, FaultBuffer.replayed));
}

/** Faults that were lost because the ring was full. */
export function droppedFaults(cpu: Cpu, device: SvmDevice): number {
  return read(cpu, member(device, SvmDevice.faultBuffer), FaultBuffer.dropped);
}

/** Wakes the device's service threads, to let them see that it is stopping. */
export function wakeService(cpu: Cpu, device: SvmDevice): void {
  wakeUpAll(cpu, member(member(device, SvmDevice.faultBuffer), FaultBuffer.arrived));
}
