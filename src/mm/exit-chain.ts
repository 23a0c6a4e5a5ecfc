/**
 * A chain of functions that are called when an address space is about to end: a hook for drivers that keep
 * something for each mm.
 *
 * Kernel     in none: proposed for mmput in July 2014, as a notifier chain, and not merged. What came instead is
 *            mmu_notifier_get and _put, whose objects are freed a grace period later.
 * Protocol   The last mmput calls every function of the chain, the first to be registered first, before it tells
 *            the notifiers. No lock of the mm is held; a function may unregister the mm's notifiers, and wait.
 * Invariant  I1  A function that was unregistered is not running, and is not called any more.
 * Ordering   The chain's lock: held for reading around the calls, for writing by who changes the chain. So a
 *            function may not change it.
 * Cost       An address space ends: one load if nobody was ever registered.
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';

import { EEXIST, ENOENT, ENOSPC } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { allocPercpu } from '../machine/percpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import { element, member, type Ptr, struct, word, words } from '../memory/layout.js';
import { downRead, downWrite, initRwsem, Rwsem, upRead, upWrite } from '../sync/rwsem.js';
import type { MmStruct } from './types.js';

/** What is called when an address space is about to end. */
export interface ExitChainOps extends OpsTable {
  /** Nobody uses the address space any more; it is still as it was. May sleep. */
  readonly mmExit: (cpu: Cpu, mm: MmStruct) => void;
}

const CHAIN_MAX = 8;

const ExitChain = struct('mm_exit_chain', {
  lock: Rwsem,
  count: word, // under lock; looked at without
  ops: words(CHAIN_MAX), // tables, in the order they came; under lock
});
type ExitChain = Ptr<'mm_exit_chain'>;

const CHAIN_LOCK = lockClass('mm_exit_chain->rwsem');

/** Makes the chain. Runs once, on the boot CPU; needs no frames. */
export function bootExitChain(cpu: Cpu): void {
  const chain = (cpu.percpu + allocPercpu(cpu, ExitChain.words)) as ExitChain;
  initRwsem(cpu, member(chain, ExitChain.lock), CHAIN_LOCK);
  write(cpu, MACHINE, Machine.exitChain, chain);
}

/** From now on address spaces end with that. 0, -EEXIST, -ENOSPC. Sleeps. */
export function exitChainRegister(cpu: Cpu, ops: ExitChainOps): number {
  const chain = chainOf(cpu);
  downWrite(cpu, member(chain, ExitChain.lock));
  const count = read(cpu, chain, ExitChain.count);
  let error = count === CHAIN_MAX ? -ENOSPC : 0;
  if (find(cpu, chain, opsIndex(cpu, ops)) >= 0) error = -EEXIST;
  if (error === 0) {
    write(cpu, chain, element(ExitChain.ops, count), opsIndex(cpu, ops));
    writeOnce(cpu, chain, ExitChain.count, count + 1);
  }
  upWrite(cpu, member(chain, ExitChain.lock));
  return error;
}

/** … and no longer (I1). 0 or -ENOENT. Sleeps. */
export function exitChainUnregister(cpu: Cpu, ops: ExitChainOps): number {
  const chain = chainOf(cpu);
  downWrite(cpu, member(chain, ExitChain.lock));
  const at = find(cpu, chain, opsIndex(cpu, ops));
  if (at >= 0) removeAt(cpu, chain, at);
  upWrite(cpu, member(chain, ExitChain.lock));
  return at >= 0 ? 0 : -ENOENT;
}

/** Calls the chain for an address space that nobody uses any more. No lock held. Sleeps. */
export function callExitChain(cpu: Cpu, mm: MmStruct): void {
  const chain = chainOf(cpu);
  if (readOnce(cpu, chain, ExitChain.count) === 0) return;
  downRead(cpu, member(chain, ExitChain.lock));
  const count = read(cpu, chain, ExitChain.count);
  for (let i = 0; i < count; i++) {
    const ops = opsAt(cpu, read(cpu, chain, element(ExitChain.ops, i))) as ExitChainOps;
    ops.mmExit(cpu, mm);
  }
  upRead(cpu, member(chain, ExitChain.lock));
}

const chainOf = (cpu: Cpu): ExitChain => read(cpu, MACHINE, Machine.exitChain) as ExitChain;

/** Where the table is, or -1. */
function find(cpu: Cpu, chain: ExitChain, index: number): number {
  for (let i = read(cpu, chain, ExitChain.count) - 1; i >= 0; i--) {
    if (read(cpu, chain, element(ExitChain.ops, i)) === index) return i;
  }
  return -1;
}

function removeAt(cpu: Cpu, chain: ExitChain, at: number): void {
  const last = read(cpu, chain, ExitChain.count) - 1;
  for (let i = at; i < last; i++) {
    const next = read(cpu, chain, element(ExitChain.ops, i + 1));
    write(cpu, chain, element(ExitChain.ops, i), next);
  }
  writeOnce(cpu, chain, ExitChain.count, last);
}
