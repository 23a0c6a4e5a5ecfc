// @ts-check
/**
 * What the threads share: a bank with a few accounts, under one reader-writer lock.
 *
 * A struct is declared once, with `struct`, and lives in the machine's memory. A thread only ever has its
 * address, which is a number and can be sent to another thread.
 */
import {
  downRead,
  downWrite,
  initRwsem,
  kzalloc,
  layout,
  lockClass,
  memory,
  Rwsem,
} from 'faultline';
import { upRead, upWrite } from 'faultline';

/** @typedef {import('faultline').Cpu} Cpu */
/** @typedef {import('faultline').layout.Ptr<'bank'>} BankPtr */

export const ACCOUNTS = 8;

export const Bank = layout.struct('bank', {
  sem: Rwsem, // transfers write, audits read
  balances: layout.words(ACCOUNTS), // under sem
  transfers: layout.word, // how many there were; under sem
});

/** The name of the lock in reports. Every thread computes the same number from it. */
const BANK_SEM = lockClass('bank->sem');

/**
 * A new bank. Only one thread makes it, before the others know its address.
 *
 * @param {Cpu} cpu
 * @param {number} balance what is in each account
 * @returns {BankPtr}
 */
export function createBank(cpu, balance) {
  const bank = kzalloc(cpu, Bank);
  if (bank === layout.NULL) throw new Error('the machine has no memory left');
  initRwsem(cpu, layout.member(bank, Bank.sem), BANK_SEM);
  for (let i = 0; i < ACCOUNTS; i++) {
    memory.write(cpu, bank, layout.element(Bank.balances, i), balance);
  }
  return bank;
}

/**
 * Moves money. Sleeps while others audit or transfer.
 *
 * @param {Cpu} cpu
 * @param {BankPtr} bank
 * @param {number} from an account
 * @param {number} to another
 * @param {number} amount
 */
export function transfer(cpu, bank, from, to, amount) {
  const sem = layout.member(bank, Bank.sem);
  const source = layout.element(Bank.balances, from);
  const target = layout.element(Bank.balances, to);
  downWrite(cpu, sem);
  memory.write(cpu, bank, source, memory.read(cpu, bank, source) - amount);
  memory.write(cpu, bank, target, memory.read(cpu, bank, target) + amount);
  memory.write(cpu, bank, Bank.transfers, memory.read(cpu, bank, Bank.transfers) + 1);
  upWrite(cpu, sem);
}

/**
 * All the money there is. Sleeps while others transfer; several may audit at once.
 *
 * @param {Cpu} cpu
 * @param {BankPtr} bank
 */
export function audit(cpu, bank) {
  const sem = layout.member(bank, Bank.sem);
  let sum = 0;
  downRead(cpu, sem);
  for (let i = 0; i < ACCOUNTS; i++) {
    sum += memory.read(cpu, bank, layout.element(Bank.balances, i));
  }
  upRead(cpu, sem);
  return sum;
}
