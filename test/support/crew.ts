/**
 * Runs a program on every CPU of a small machine, for tests of what lies below the command line.
 *
 * @module
 */
import { Crew, type CrewMember, type CrewOptions, type MemberResult } from '../../src/host/crew.js';
import { type BootedMachine, bootMachine, type MachineConfig } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { idlePool } from './pools.js';

/** URL of the worker file of crews that run programs under test/programs. */
export const TEST_WORKER = new URL('./crew-worker.js', import.meta.url).href;

export interface ProgramRun extends CrewOptions {
  readonly cpus: number;
  readonly ramBytes?: number;
  readonly atomics?: MachineConfig['atomics'];
  readonly watchesMemory?: boolean;
  readonly swapBytes?: number;
  readonly minFreeFrames?: number;
  readonly deviceBytes?: number;
  /** URL of the module with the programs; usually `import.meta.url` of test/programs/…. */
  readonly module: string;
  /** The exported function that CPU i runs; one name for all, or one for each. */
  readonly entry: string | readonly string[];
  /** Sets the machine up on the boot CPU; what it returns is what each program gets. */
  readonly setup?: (cpu: Cpu) => unknown;
}

export interface ProgramResult {
  readonly machine: BootedMachine;
  readonly results: readonly MemberResult[];
}

/** A crew of programs under test/programs, on workers that crews before it may have had, unless it names its own. */
export function makeCrew(
  machine: BootedMachine,
  members: readonly CrewMember[],
  options: CrewOptions,
): Crew {
  if (options.worker !== undefined) return new Crew(machine, members, options);
  const pool = idlePool(members.length, options.build ?? 'parallel', { worker: TEST_WORKER });
  return new Crew(machine, members, { ...options, pool });
}

/** URL of a compiled module under test/programs. */
export function programUrl(name: string): string {
  return new URL(`../programs/${name}.js`, import.meta.url).href;
}

/** Boots, sets up, runs and tears down. @throws MachineFailure */
export async function runProgram(run: ProgramRun): Promise<ProgramResult> {
  const machine = bootMachine({
    cpus: run.cpus,
    ramBytes: run.ramBytes ?? 0,
    ...(run.atomics && { atomics: run.atomics }),
    ...(run.watchesMemory && { watchesMemory: true }),
    swapBytes: run.swapBytes ?? 0,
    minFreeFrames: run.minFreeFrames ?? 0,
    deviceBytes: run.deviceBytes ?? 0,
  });
  const args = run.setup?.(machine.cpu);
  const { entry } = run;
  const members = Array.from({ length: run.cpus }, (_, index) => ({
    name: `${typeof entry === 'string' ? entry : (entry[index] ?? '?')} ${index}`,
    module: run.module,
    entry: typeof entry === 'string' ? entry : (entry[index] ?? ''),
    args,
  }));
  const crew = makeCrew(machine, members, run);
  await crew.ready();
  crew.start();
  return { machine, results: await crew.results() };
}
