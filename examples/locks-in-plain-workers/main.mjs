// @ts-check
/**
 * The kernel's reader-writer semaphore in plain worker threads: no crew, no devices, no address spaces.
 *
 *   node examples/locks-in-plain-workers/main.mjs
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

import { bootMachine, HALT_STOP, haltMachine, memory } from 'faultline';

import { ACCOUNTS, audit, Bank, createBank } from './bank.mjs';

/**
 * @typedef {object} TellerData what a thread is given
 * @property {import('faultline').MemoryHandle} handle
 * @property {number} id which CPU of the machine it becomes
 * @property {import('./bank.mjs').BankPtr} bank
 * @property {number} rounds
 * @property {number} money what every audit must find
 */

const TELLERS = Math.max(2, availableParallelism());
const ROUNDS = 20_000;
const BALANCE = 1000;

// One CPU for each thread that takes locks; the main thread gets one on top, the boot CPU.
const machine = bootMachine({ cpus: TELLERS, ramBytes: 2 ** 20 });
const bank = createBank(machine.cpu, BALANCE);
const money = ACCOUNTS * BALANCE;

/**
 * @param {number} id
 * @returns {Promise<number>} how many audits of a teller found another sum
 */
function teller(id) {
  /** @type {TellerData} */
  const workerData = { handle: machine.handle, id, bank, rounds: ROUNDS, money };
  const worker = new Worker(new URL('./teller.mjs', import.meta.url), { workerData });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', (error) => {
      // Who dies may have died with a lock held. The others leave their waits by MachineHalted.
      haltMachine(machine.cpu, HALT_STOP);
      reject(error);
    });
  });
}

const wrongAudits = await Promise.all(Array.from({ length: TELLERS }, (_, id) => teller(id)));

const transfers = memory.read(machine.cpu, bank, Bank.transfers);
const found = audit(machine.cpu, bank);
console.log(`${TELLERS} threads, ${transfers} transfers, ${found} of ${money} coins`);
const wrong = wrongAudits.reduce((sum, count) => sum + count, 0);
if (transfers !== TELLERS * ROUNDS || found !== money || wrong > 0) {
  console.log(`${wrong} audits found another sum: the lock is broken`);
  process.exitCode = 1;
}
