// @ts-check
/**
 * The same with a mistake: a ticket is drawn in two steps, so two CPUs may have the same.
 *
 *   faultline torture lock --lock examples/own-lock/broken-ticket-lock.mjs
 */
import { defineTortureLock, memory } from 'faultline';

import { awaitTicket, lock as ticketLock, TicketLock } from './ticket-lock.mjs';

const { readOnce, writeOnce } = memory;

export const lock = defineTortureLock({
  ...ticketLock,
  opsName: 'broken ticket lock',

  lock(cpu, at) {
    const lock = /** @type {import('./ticket-lock.mjs').TicketLockPtr} */ (at);
    const ticket = readOnce(cpu, lock, TicketLock.next);
    writeOnce(cpu, lock, TicketLock.next, ticket + 1);
    awaitTicket(cpu, lock, ticket);
  },
});
