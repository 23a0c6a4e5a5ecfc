/**
 * What the engines share: a small machine with the program's world, and its way back to the start.
 *
 * Protocol   The machine boots once and `setup` makes the world once; a copy of the memory is kept. Every
 *            store of a schedule is noted, and afterwards those words are copied back. What a CPU keeps
 *            outside of the memory is set back too.
 *
 * @module
 */
import { forgetHeld } from '#debug';

import { EXIT_VIOLATION, FaultlineError } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';
import { bootDeferred } from '../deferred/boot.js';
import { type BootedMachine, bootMachine, PERCPU_WORDS } from '../machine/boot.js';
import type { Cpu } from '../machine/cpu.js';
import { registerOps } from '../machine/ops-table.js';
import { CpuArea, HELD_LOCKS_MAX } from '../machine/types.js';
import { restoreRuns, takeSnapshot } from '../memory/snapshot.js';
import { OP_WRITE } from '../memory/turnstile.js';
import { bootMm } from '../mm/boot.js';
import { C_LOG, LOG_AT } from './control.js';
import type { ExploreProgram } from './program.js';

/** Frames of a program's machine, if it does not say. */
export const DEFAULT_RAM_BYTES = 256 * 1024;

/** A program's world, ready to be run many times. */
export interface World {
  readonly machine: BootedMachine;
  /** What setup returned. */
  readonly pointer: number;
  /** The memory as setup left it. */
  readonly snapshot: Int32Array;
}

/** Runs schedules of one program, one at a time. */
export interface Engine {
  /** The plan goes in here, and the trace comes out. */
  readonly control: Int32Array;
  readonly world: World;
  /** Runs one schedule of the plan in the control block. */
  run(): void;
  /** Sets everything back to what it was before the schedule. */
  restore(): void;
  /** What ended the task that died, if END_DIED. */
  readonly error: unknown;
}

/**
 * Boots the program's machine, with a mistake if one is asked for, and makes its world. Modules with ops
 * tables come in this order everywhere.
 */
export function buildWorld(program: ExploreProgram, mutant = 0): World {
  const machine = bootMachine({
    mutant,
    cpus: program.tasks.length,
    ramBytes: program.ramBytes ?? DEFAULT_RAM_BYTES,
    swapBytes: program.swapBytes ?? 0,
    deviceBytes: program.deviceBytes ?? 0,
    minFreeFrames: program.minFreeFrames ?? 0,
  });
  const { cpu } = machine;
  bootMm(cpu);
  bootDeferred(cpu);
  registerOps(cpu, [program.ops ?? {}]);
  const pointer = runSetup(program, cpu);
  return { machine, pointer, snapshot: takeSnapshot(cpu) };
}

/** What setup returns. @throws FaultlineError if it throws */
function runSetup(program: ExploreProgram, cpu: Cpu): number {
  let pointer: unknown;
  try {
    pointer = program.setup(cpu);
  } catch (error) {
    const message = `the setup of ${program.name}: ${reasonOf(error)}`;
    throw new FaultlineError('FAULTLINE_PROGRAM_FAILED', message, EXIT_VIOLATION, { cause: error });
  }
  if (Number.isInteger(pointer)) return pointer as number;
  const kind = pointer === null ? 'null' : `a value of type ${typeof pointer}`;
  const message = `the setup of ${program.name} returns ${kind}, and not a pointer`;
  throw new FaultlineError('FAULTLINE_BAD_PROGRAM', message);
}

/** Copies back what a schedule has changed. */
export function restoreWorld(memory: Int32Array, snapshot: Int32Array, control: Int32Array): void {
  restoreRuns(memory, snapshot, control, LOG_AT, LOG_AT + 2 * control[C_LOG]!);
  control[C_LOG] = 0;
}

/** Sets back what a CPU keeps for itself. */
export function resetCpu(cpu: Cpu, slabs: Cpu['slabs']): void {
  cpu.preemptCount = 0;
  cpu.nonBlockCount = 0;
  cpu.memallocFlags = 0;
  forgetHeld(cpu);
  cpu.rcuDepth = 0;
  cpu.heldDepth = 0;
  cpu.waitDepth = 0;
  if (cpu.outerWaits.length !== 0) cpu.outerWaits.length = 0;
  cpu.stackTop = cpu.stack;
  cpu.loaded = 0;
  if (cpu.slabs.size === slabs.size) return;
  cpu.slabs.clear();
  for (const [name, cache] of slabs) cpu.slabs.set(name, cache);
}

/** First word after those of a CPU's area that only it uses: records for reports. */
const OWN_START = CpuArea.waitKind;
const OWN_END = CpuArea.held + HELD_LOCKS_MAX;

/** True for a word that only this CPU uses: no scheduling point. */
export function isOwnWord(cpu: Cpu, kind: number, at: number): boolean {
  const inArea = at - cpu.area;
  if (inArea >= OWN_START && inArea < OWN_END) return true;
  const inPercpu = at - cpu.percpu;
  // plain accesses to a CPU's part of the per-CPU region are its own, by design
  return kind <= OP_WRITE && inPercpu >= 0 && inPercpu < PERCPU_WORDS;
}
