/**
 * Lays a new machine out in its memory.
 *
 * Runs once, on the main thread, before any other worker knows the memory. What a machine consists of
 * and in which order is said in machine/types.ts.
 *
 * @module
 */
import { BUILD, exchange, read, write } from '#memory';
import { MUTANTS, NO_MUTANT } from '#mutants';

import { EXIT_USAGE, FaultlineError } from '../base/bug.js';
import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import { CACHELINE_WORDS, member } from '../memory/layout.js';
import type { AtomicsForm } from '../memory/native.js';
import { createMemory, type MemoryHandle } from '../memory/port.js';
import { createShadow, Shadow } from '../memory/shadow.js';
import { initSpinlock } from './arch-spinlock.js';
import { Cpu, CPU_AREAS } from './cpu.js';
import { CPUS_MAX, LOCKDEP_WORDS, MEMORY_WORDS_MAX } from './limits.js';
import { lockClass } from './lock-class.js';
import { LockReports } from './lock-report.js';
import { bootPageAlloc } from './page-alloc.js';
import { allocPercpu } from './percpu.js';
import { SCRATCH_WORDS, STACK_WORDS } from './stack.js';
import { bootTlb } from './tlb.js';
import {
  CpuArea,
  MACHINE,
  Machine,
  Page,
  Pageset,
  SWAP_HEAD_WORDS,
  SWAP_SLOT_WORDS,
} from './types.js';

/** What a machine is made of. */
export interface MachineConfig {
  /** CPUs that run tasks; the boot CPU comes on top. */
  readonly cpus: number;
  /** Physical memory; 0 for a machine of locks alone. Unit: bytes. */
  readonly ramBytes: number;
  /** Room for pages that are in no frame (mm/swap.ts); none by default. Unit: bytes. */
  readonly swapBytes?: number;
  /** Memory of devices that address spaces can map (memremap); none by default. Unit: bytes. */
  readonly deviceBytes?: number;
  /**
   * Free frames that are kept in reserve; by default none. From this follow the watermarks, and with them the machine
   * reclaims: kswapd when it is woken, and who allocates when the reserve is touched (mm/vmscan.ts).
   * @kernel min_free_kbytes
   */
  readonly minFreeFrames?: number;
  /** `wasm` (the default) is faster; `js` is the Atomics object. */
  readonly atomics?: AtomicsForm;
  /** Number of the mistake that is planted in it; base/mutants.ts. */
  readonly mutant?: number;
  /** CPUs that run the checked build note every use of a word, and report those that must not be. */
  readonly watchesMemory?: boolean;
}

/** A machine that has booted. */
export interface BootedMachine {
  /** What other workers need to attach to it. */
  readonly handle: MemoryHandle;
  /** The boot CPU, for the thread that called `bootMachine`. */
  readonly cpu: Cpu;
  /** CPUs that run tasks; `attachCpu` takes 0 to cpus - 1. */
  readonly cpus: number;
}

/** One CPU's part of the per-CPU region. */
export const PERCPU_WORDS = 8192;
const PERCPU_LOCK = lockClass('pcpu_lock');
const SLAB_LOCK = lockClass('slab_mutex');
/** At the end of each object: what is used by mistake is most often the next word. */
const REDZONE_WORDS = 1;
/** Where the memory of devices begins: struct pages come and go by so many. */
const DEVICE_ALIGN_FRAMES = 16;
const MACHINE_MAGIC = 0x46_41_55_4c;

/**
 * Creates a machine. The calling thread becomes its boot CPU.
 * @throws FaultlineError if the configuration is out of range, or the host has too little memory
 */
export function bootMachine(config: MachineConfig): BootedMachine {
  const { cpus } = config;
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > CPUS_MAX) {
    throw badMachine(`a machine has 1 to ${CPUS_MAX} CPUs, not ${cpus}`);
  }
  if (!(config.ramBytes >= 0)) throw badMachine(`${config.ramBytes} is no amount of memory`);
  const mutant = config.mutant ?? NO_MUTANT;
  if (mutant !== NO_MUTANT && !MUTANTS)
    throw badMachine('only the checked and the turnstile build can plant mistakes');
  const allCpus = cpus + 1;
  const frameCount = Math.floor(config.ramBytes / PAGE_SIZE);
  if (frameCount === 1)
    throw badMachine('a machine has no memory, or two frames of 4 KiB at least');
  const percpu = roundUp(CPU_AREAS + allCpus * CpuArea.words, CACHELINE_WORDS);
  const pages = percpu + allCpus * PERCPU_WORDS;
  const deviceCount = Math.floor((config.deviceBytes ?? 0) / PAGE_SIZE);
  const deviceFirst = roundUp(frameCount, DEVICE_ALIGN_FRAMES);
  const allFrames = deviceCount === 0 ? frameCount : deviceFirst + deviceCount;
  const frames = roundUp(pages + allFrames * Page.words, PAGE_WORDS);
  const swapSlots = Math.floor((config.swapBytes ?? 0) / PAGE_SIZE);
  const swapArea = frames + allFrames * PAGE_WORDS;
  const lockReports = swapArea + swapAreaWords(swapSlots);
  const end = lockReports + LockReports.words + LOCKDEP_WORDS;
  if (end >= MEMORY_WORDS_MAX) throw badMachine(`${config.ramBytes} bytes of memory are too many`);
  const memory = createMemory(end, config.atomics ?? 'wasm');
  const isWatched = config.watchesMemory === true;
  const handle = isWatched ? { ...memory, shadow: createShadow(end, allCpus) } : memory;

  const early = new Cpu(handle, cpus); // knows nothing of the machine yet, but is of the right shape
  write(early, MACHINE, Machine.magic, MACHINE_MAGIC);
  write(early, MACHINE, Machine.cpus, cpus);
  write(early, MACHINE, Machine.percpu, percpu);
  write(early, MACHINE, Machine.percpuStride, PERCPU_WORDS);
  write(early, MACHINE, Machine.pages, pages);
  write(early, MACHINE, Machine.frames, frames);
  write(early, MACHINE, Machine.frameCount, frameCount);
  write(early, MACHINE, Machine.deviceFirst, deviceFirst);
  write(early, MACHINE, Machine.deviceCount, deviceCount);
  write(early, MACHINE, Machine.swapArea, swapSlots === 0 ? 0 : swapArea);
  write(early, MACHINE, Machine.swapSlots, swapSlots);
  write(early, MACHINE, Machine.mutant, mutant);
  setWatermarks(early, config.minFreeFrames ?? 0, frameCount);
  write(early, MACHINE, Machine.redzoneWords, isWatched ? REDZONE_WORDS : 0);
  write(early, MACHINE, Machine.lockReports, lockReports);

  // stack and scratch come first in each CPU's part: a Cpu needs its own to exist
  write(early, MACHINE, Machine.stacks, 0);
  write(early, MACHINE, Machine.scratch, STACK_WORDS);
  write(early, MACHINE, Machine.percpuUsed, STACK_WORDS + SCRATCH_WORDS);

  const cpu = new Cpu(handle, cpus);
  write(cpu, cpu.area, CpuArea.attached, 1);
  initSpinlock(cpu, member(MACHINE, Machine.percpuLock), PERCPU_LOCK);
  initSpinlock(cpu, member(MACHINE, Machine.slabLock), SLAB_LOCK);
  write(cpu, MACHINE, Machine.pagesets, allocPercpu(cpu, Pageset.words));
  bootTlb(cpu);
  if (frameCount > 0) bootPageAlloc(cpu, allCpus);
  return { handle, cpu, cpus };
}

/**
 * Makes the calling thread a CPU of a machine that booted elsewhere. Each CPU may be attached once.
 * @throws FaultlineError if there is no such CPU, or no machine in that memory
 */
export function attachCpu(handle: MemoryHandle, id: number): Cpu {
  const cpu = new Cpu(handle, id);
  if (read(cpu, MACHINE, Machine.magic) !== MACHINE_MAGIC)
    throw badMachine('this memory holds no booted machine');
  const cpus = read(cpu, MACHINE, Machine.cpus);
  if (!Number.isInteger(id) || id < 0 || id >= cpus) {
    throw badMachine(`this machine has CPUs 0 to ${cpus - 1} for workers, and no CPU ${id}`);
  }
  if (exchange(cpu, cpu.area, CpuArea.attached, 1) !== 0) {
    throw badMachine(`CPU ${id} is in use by another thread`);
  }
  if (BUILD === 'checked' && handle.shadow !== undefined) {
    cpu.shadow = new Shadow(handle.shadow, id);
  }
  return cpu;
}

/** @kernel __setup_per_zone_wmarks */
function setWatermarks(cpu: Cpu, min: number, frameCount: number): void {
  if (!Number.isInteger(min) || min < 0) throw badMachine(`${min} is no number of frames`);
  if (min > 0 && 2 * min >= frameCount) {
    throw badMachine(`a reserve of ${min} frames is too much of ${frameCount}`);
  }
  write(cpu, MACHINE, Machine.watermarkMin, min);
  write(cpu, MACHINE, Machine.watermarkLow, min === 0 ? 0 : min + Math.ceil(min / 4));
  write(cpu, MACHINE, Machine.watermarkHigh, min === 0 ? 0 : min + 2 * Math.ceil(min / 4));
}

function badMachine(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_MACHINE', message, EXIT_USAGE);
}

/** Words of a swap area with room for so many pages. */
function swapAreaWords(slots: number): number {
  return slots === 0 ? 0 : SWAP_HEAD_WORDS + slots * (SWAP_SLOT_WORDS + PAGE_WORDS);
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
