// @ts-check
/**
 * A lock of one's own, explored: a ticket lock, two CPUs that take it, and what must be true of them.
 *
 *   faultline explore --program examples/own-program/ticket-lock.mjs
 *   faultline explore --program examples/own-program/broken-ticket-lock.mjs
 *
 * The module exports `program`. `setup` and `check` run alone, before and after; what the tasks do is
 * explored, access by access. All state is in the machine's memory: variables of the module would not be
 * put back between two schedules.
 */
import { cpuRelax, defineProgram, kzalloc, layout, memory, task } from 'faultline';

/** @typedef {import('faultline').Cpu} Cpu */

const { fetchAdd, loadAcquire, read, storeRelease, write } = memory;

export const Counter = layout.struct('counter', {
  next: layout.word, // the ticket of who comes next
  serving: layout.word, // the ticket of who has the lock
  value: layout.word, // under the lock
});
/** @typedef {import('faultline').layout.Ptr<'counter'>} CounterPtr */

/**
 * Takes the lock. Spins.
 *
 * @param {Cpu} cpu
 * @param {CounterPtr} counter
 */
function ticketLock(cpu, counter) {
  const ticket = fetchAdd(cpu, counter, Counter.next, 1);
  for (let spins = 0; loadAcquire(cpu, counter, Counter.serving) !== ticket; spins++) {
    cpuRelax(cpu, spins);
  }
}

/**
 * Gives it back.
 *
 * @param {Cpu} cpu
 * @param {CounterPtr} counter
 */
function ticketUnlock(cpu, counter) {
  const mine = loadAcquire(cpu, counter, Counter.serving);
  storeRelease(cpu, counter, Counter.serving, mine + 1);
}

/**
 * @param {Cpu} cpu
 * @param {number} world
 */
function increment(cpu, world) {
  const counter = /** @type {CounterPtr} */ (world);
  ticketLock(cpu, counter);
  write(cpu, counter, Counter.value, read(cpu, counter, Counter.value) + 1);
  ticketUnlock(cpu, counter);
}

export const program = defineProgram({
  name: 'ticket-lock',
  title: 'two CPUs count under a ticket lock',
  tasks: [task('first', increment), task('second', increment)],
  setup: (cpu) => kzalloc(cpu, Counter),
  check: (cpu, world) => {
    const value = read(cpu, /** @type {CounterPtr} */ (world), Counter.value);
    return value === 2 ? undefined : `the counter is ${value}, not 2`;
  },
});
