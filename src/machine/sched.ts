/**
 * Sleeping and waking: the one way a CPU blocks, and the one way another ends it.
 *
 * Kernel     kernel/sched/core.c (set_current_state, schedule, wake_up_process)
 * Protocol   sleeper                                 waker
 *              setCurrentState(TASK_…)                 make the condition true
 *              test the condition; true: leave         wakeUpProcess: state := TASK_RUNNING,
 *              schedule: park while state is TASK_…      unpark if it was not
 *              setCurrentState(TASK_RUNNING)
 * Invariant  I1  No wake-up is lost: the sleeper publishes its state before it tests the condition, the
 *                waker changes the condition before it reads the state. Both are full barriers.
 *            I2  A CPU that may not sleep (preemptCount, nonBlockCount, rcuDepth) never enters schedule.
 *            I3  Every wait is recorded in the CPU's area before it blocks, so that the watchdog sees
 *                what each CPU waits for. No wait outlives the machine for long.
 * Ordering   The store of the state is sequentially consistent and so is the waker's exchange.
 * Deviation  A CPU runs one task, so nothing else runs here while it sleeps. Every park
 *            returns now and then, and the machine's halted word is read: no wake-up depends on it.
 *
 * @module
 */
import {
  clockMs,
  cmpxchg,
  exchange,
  park,
  readOnce,
  readOwn,
  relax,
  storeRelease,
  unpark,
  writeOnce,
  writeOwn,
} from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from './cpu.js';
import { CpuArea, MACHINE, Machine } from './types.js';
import { WAIT_KINDS, WAIT_NONE } from './wait-kind.js';
import { warn } from './warn.js';

export const TASK_RUNNING = 0;
export const TASK_INTERRUPTIBLE = 1;
export const TASK_UNINTERRUPTIBLE = 2;
export const TASK_WAKEKILL = 0x100;
/** Sleeps until woken or fatally signalled. */
export const TASK_KILLABLE = TASK_WAKEKILL | TASK_UNINTERRUPTIBLE;

/** Spins between two looks at the halted word. */
const HALT_CHECK_SPINS = 1024;

/** Thrown on every CPU of a machine that was halted; only the worker entry catches it. */
export class MachineHalted extends Error {
  override readonly name = 'MachineHalted';
}

/** Why a machine is halted: a CPU died. */
export const HALT_PANIC = 1;
/** … it cannot go on. */
export const HALT_DEADLOCK = 2;
/** … somebody outside asked for it. */
export const HALT_STOP = 3;

/** Leaves by MachineHalted if the machine was halted. */
export function checkHalted(cpu: Cpu): void {
  if (readOnce(cpu, MACHINE, Machine.halted) !== 0) throw new MachineHalted('machine halted');
}

/** One turn of a spin loop; `spins` counts them. Leaves by MachineHalted. */
export function cpuRelax(cpu: Cpu, spins: number): void {
  relax(cpu);
  if ((spins & (HALT_CHECK_SPINS - 1)) === HALT_CHECK_SPINS - 1) checkHalted(cpu);
}

/**
 * Records what this CPU is about to wait for (I3): a wait kind and the object waited for. A wait inside
 * another one (for the spinlock of the queue that the CPU sleeps in) hides that until it ends.
 */
export function beginWait(cpu: Cpu, kind: number, object: number): void {
  const { area } = cpu;
  cpu.outerWaits.push(
    readOnce(cpu, area, CpuArea.waitKind),
    readOnce(cpu, area, CpuArea.waitObject),
  );
  recordWait(cpu, kind, object);
}

/** The wait is over; the one around it, if any, goes on. */
export function endWait(cpu: Cpu): void {
  const object = cpu.outerWaits.pop() ?? 0;
  const kind = cpu.outerWaits.pop() ?? WAIT_NONE;
  if (kind === WAIT_NONE) writeOnce(cpu, cpu.area, CpuArea.waitKind, WAIT_NONE);
  else recordWait(cpu, kind, object);
}

function recordWait(cpu: Cpu, kind: number, object: number): void {
  const { area } = cpu;
  writeOnce(cpu, area, CpuArea.waitObject, object);
  writeOnce(cpu, area, CpuArea.waitSerial, (readOnce(cpu, area, CpuArea.waitSerial) + 1) | 0);
  writeOnce(cpu, area, CpuArea.waitKind, kind);
}

/** Reports a function that may sleep where that is not allowed (I2). @kernel might_sleep */
export function mightSleep(cpu: Cpu): void {
  if ((cpu.preemptCount | cpu.nonBlockCount | cpu.rcuDepth) !== 0) sleepingInAtomic(cpu);
}

/** Nothing may sleep from here to nonBlockEnd, for a reason that is no lock: somebody waits. @kernel non_block_start */
export function nonBlockStart(cpu: Cpu): void {
  cpu.nonBlockCount++;
}

/** Ends what nonBlockStart began. @kernel non_block_end */
export function nonBlockEnd(cpu: Cpu): void {
  if (cpu.nonBlockCount === 0) warn(cpu, 'non_block_end without non_block_start');
  else cpu.nonBlockCount--;
}

function sleepingInAtomic(cpu: Cpu): never {
  bug(`cpu ${cpu.id}: sleeping function called from invalid context (${whyAtomic(cpu)})`);
}

function whyAtomic(cpu: Cpu): string {
  if (cpu.preemptCount !== 0) return `preempt_count ${cpu.preemptCount}`;
  if (cpu.nonBlockCount !== 0) return `non_block_count ${cpu.nonBlockCount}`;
  return `in an RCU read section, nested ${cpu.rcuDepth} deep`;
}

/** Publishes the state this CPU is about to sleep in; a full barrier (I1). @kernel set_current_state */
export function setCurrentState(cpu: Cpu, state: number): void {
  storeRelease(cpu, cpu.area, CpuArea.state, state); // pairs with wakeUpProcess
}

/** Back to running without having slept. @kernel __set_current_state(TASK_RUNNING) */
export function setCurrentRunning(cpu: Cpu): void {
  writeOnce(cpu, cpu.area, CpuArea.state, TASK_RUNNING);
}

/** Sleeps until somebody sets the state back to TASK_RUNNING. Sleeps. @kernel schedule */
export function schedule(cpu: Cpu): void {
  mightSleep(cpu);
  for (;;) {
    const state = readOnce(cpu, cpu.area, CpuArea.state); // pairs with wakeUpProcess
    if (state === TASK_RUNNING) return;
    park(cpu, cpu.area, CpuArea.state, state, Infinity);
    checkHalted(cpu);
  }
}

/** As schedule, but no longer than `timeoutMs`; the state is TASK_RUNNING afterwards. Sleeps. */
export function scheduleTimeout(cpu: Cpu, timeoutMs: number): void {
  mightSleep(cpu);
  const deadline = clockMs(cpu) + timeoutMs;
  for (;;) {
    const state = readOnce(cpu, cpu.area, CpuArea.state);
    if (state === TASK_RUNNING) return;
    const left = deadline - clockMs(cpu);
    if (left <= 0) break;
    park(cpu, cpu.area, CpuArea.state, state, left);
    checkHalted(cpu);
  }
  setCurrentRunning(cpu);
}

/** Sleeps for so long, whatever happens. Sleeps. @kernel schedule_timeout_uninterruptible */
export function scheduleTimeoutUninterruptible(cpu: Cpu, timeoutMs: number): void {
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  scheduleTimeout(cpu, timeoutMs);
}

/** Wakes the CPU if it sleeps; true if it did. @kernel wake_up_process */
export function wakeUpProcess(cpu: Cpu, task: CpuArea): boolean {
  if (exchange(cpu, task, CpuArea.state, TASK_RUNNING) === TASK_RUNNING) return false; // pairs with setCurrentState
  unpark(cpu, task, CpuArea.state, 1);
  return true;
}

/** True if a CPU in `state` must give up its sleep because of a fatal signal. @kernel signal_pending_state */
export function signalPendingState(cpu: Cpu, state: number): boolean {
  return (
    (state & (TASK_INTERRUPTIBLE | TASK_WAKEKILL)) !== 0 &&
    readOnce(cpu, cpu.area, CpuArea.signal) !== 0
  );
}

/** Sends a fatal signal: ends the killable and interruptible sleeps of the CPU. @kernel send_sig(SIGKILL) */
export function sendSigkill(cpu: Cpu, task: CpuArea): void {
  storeRelease(cpu, task, CpuArea.signal, 1);
  const state = readOnce(cpu, task, CpuArea.state);
  if ((state & (TASK_INTERRUPTIBLE | TASK_WAKEKILL)) !== 0) wakeUpProcess(cpu, task);
}

/** Forgets a pending signal. */
export function clearSignal(cpu: Cpu): void {
  writeOnce(cpu, cpu.area, CpuArea.signal, 0);
}

/** True while the CPU is not asleep; a hint for optimistic spinners. @kernel owner_on_cpu */
export function ownerOnCpu(cpu: Cpu, task: CpuArea): boolean {
  return readOnce(cpu, task, CpuArea.state) === TASK_RUNNING;
}

/** Counts completed work for the watchdog, which takes a CPU whose count stands still for stuck. */
export function noteProgress(cpu: Cpu, count: number): void {
  writeOnce(cpu, cpu.area, CpuArea.progress, count);
}

/**
 * Another turn of a loop that may be long: who holds locks all the while is not stuck. Only the watchdog looks at the
 * count, whenever it likes, so this is no scheduling point. @kernel cond_resched
 */
export function condResched(cpu: Cpu): void {
  const turns = readOwn(cpu, cpu.area, CpuArea.resched);
  writeOwn(cpu, cpu.area, CpuArea.resched, (turns + 1) | 0);
}

/** What a CPU waits for, in words. */
export function waitKindName(kind: number): string {
  return WAIT_KINDS[kind] ?? `wait kind ${kind}`;
}

/** No sleeping from here to the matching preemptEnable. @kernel preempt_disable */
export function preemptDisable(cpu: Cpu): void {
  cpu.preemptCount++;
}

/** @kernel preempt_enable */
export function preemptEnable(cpu: Cpu): void {
  cpu.preemptCount--;
}

/** Ends every CPU of the machine: those that sleep and those that spin look at the word now and then. */
export function haltMachine(cpu: Cpu, why: number): void {
  cmpxchg(cpu, MACHINE, Machine.halted, 0, why); // the first reason stands
}
