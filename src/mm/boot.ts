/**
 * What the memory-management layer needs of a machine before its first address space.
 *
 * @module
 */
import { write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { allocPercpu } from '../machine/percpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import { bootNotifiers } from '../notifier/boot.js';
import { bootPageWaits } from '../sync/page-lock.js';
import { bootAnonVmas } from './anon-vma.js';
import { bootExitChain } from './exit-chain.js';
import { MmuGather } from './mmu-gather.js';
import { bootSwap } from './swap.js';
import { bootReclaim } from './vmscan.js';

/** Reserves each CPU's gather, and makes what notifiers and exit need. Runs once, on the boot CPU. */
export function bootMm(cpu: Cpu): void {
  write(cpu, MACHINE, Machine.gathers, allocPercpu(cpu, MmuGather.words));
  bootSwap(cpu);
  bootPageWaits(cpu);
  bootAnonVmas(cpu);
  bootReclaim(cpu);
  bootNotifiers(cpu);
  bootExitChain(cpu);
}
