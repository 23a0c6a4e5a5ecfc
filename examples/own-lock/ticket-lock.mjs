// @ts-check
/**
 * A lock of one's own under torture: a ticket lock, which lets CPUs in in the order in which they came.
 *
 *   faultline torture lock --lock examples/own-lock/ticket-lock.mjs
 *   faultline torture lock --lock examples/own-lock/broken-ticket-lock.mjs
 *
 * The module exports `lock`. Its functions run on workers, each of which is a CPU; all state is in the words of the
 * lock, which every CPU reaches through `memory`.
 */
import { cpuRelax, defineTortureLock, layout, memory } from 'faultline';

/** @typedef {import('faultline').Cpu} Cpu */

const { fetchAdd, loadAcquire, park, storeRelease, unpark, writeOnce } = memory;

export const TicketLock = layout.struct('ticket_lock', {
  next: layout.word, // the ticket of who comes next
  lockClass: layout.word, // the second word is the kernel's
  serving: layout.word, // the ticket of who has the lock
});
/** @typedef {import('faultline').layout.Ptr<'ticket_lock'>} TicketLockPtr */

/** Looks before a waiter lets its core go, for a moment at most. */
const SPINS_MAX = 200;
const HALT_MS = 1;

/**
 * Waits until the ticket is served.
 *
 * @param {Cpu} cpu
 * @param {TicketLockPtr} lock
 * @param {number} ticket
 */
export function awaitTicket(cpu, lock, ticket) {
  for (let spins = 1; ; spins++) {
    const serving = loadAcquire(cpu, lock, TicketLock.serving); // pairs with unlock
    if (serving === ticket) return;
    cpuRelax(cpu, spins);
    if (spins % SPINS_MAX === 0) park(cpu, lock, TicketLock.serving, serving, HALT_MS);
  }
}

export const lock = defineTortureLock({
  opsName: 'ticket lock',
  words: TicketLock.words,

  init(cpu, at) {
    const lock = /** @type {TicketLockPtr} */ (at);
    writeOnce(cpu, lock, TicketLock.next, 0);
    writeOnce(cpu, lock, TicketLock.serving, 0);
  },

  lock(cpu, at) {
    const lock = /** @type {TicketLockPtr} */ (at);
    awaitTicket(cpu, lock, fetchAdd(cpu, lock, TicketLock.next, 1));
  },

  unlock(cpu, at) {
    const lock = /** @type {TicketLockPtr} */ (at);
    const mine = loadAcquire(cpu, lock, TicketLock.serving);
    storeRelease(cpu, lock, TicketLock.serving, mine + 1); // pairs with awaitTicket
    unpark(cpu, lock, TicketLock.serving, 0x7fffffff);
  },
});
