// @ts-check
/**
 * One thread: it becomes CPU `id` of the machine, and then simply calls locks.
 *
 * A `cpu` belongs to the thread that attached it. Locks block the thread (as `Atomics.wait` does), so no
 * promise or message of it goes on meanwhile.
 */
import { parentPort, workerData } from 'node:worker_threads';

import { attachCpu } from 'faultline';

import { ACCOUNTS, audit, transfer } from './bank.mjs';

/** @type {import('./main.mjs').TellerData} */
const { handle, id, bank, rounds, money } = workerData;

const cpu = attachCpu(handle, id);
let wrongAudits = 0;
for (let round = 0; round < rounds; round++) {
  const from = (id + round) % ACCOUNTS;
  transfer(cpu, bank, from, (from + 1 + id) % ACCOUNTS, 1 + (round % 7));
  if (round % 16 === 0 && audit(cpu, bank) !== money) wrongAudits++;
}
parentPort?.postMessage(wrongAudits);
