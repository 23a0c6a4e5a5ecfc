// @ts-check
/**
 * The lock of ticket-lock.mjs with a mistake: the ticket is taken in two steps, and two CPUs can take the same.
 *
 *   faultline explore --program examples/own-program/broken-ticket-lock.mjs
 */
import { cpuRelax, defineProgram, kzalloc, layout, memory, task } from 'faultline';

/** @typedef {import('faultline').Cpu} Cpu */

const { loadAcquire, read, readOnce, storeRelease, write, writeOnce } = memory;

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
  const ticket = readOnce(cpu, counter, Counter.next);
  writeOnce(cpu, counter, Counter.next, ticket + 1); // somebody may have come in between
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
  name: 'broken-ticket-lock',
  title: 'two CPUs count under a ticket lock',
  tasks: [task('first', increment), task('second', increment)],
  setup: (cpu) => kzalloc(cpu, Counter),
  check: (cpu, world) => {
    const value = read(cpu, /** @type {CounterPtr} */ (world), Counter.value);
    return value === 2 ? undefined : `the counter is ${value}, not 2`;
  },
});
