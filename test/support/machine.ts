/**
 * Small machines on the test's own thread: several CPUs of it may be attached here at once, as long as
 * nothing blocks.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { KernelBug } from '../../src/base/bug.js';
import { attachCpu, bootMachine, type MachineConfig } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocPercpu } from '../../src/machine/percpu.js';
import { CACHELINE_WORDS, type Ptr } from '../../src/memory/layout.js';

/** A machine's CPUs that run tasks, all on this thread; CPU i is element i. */
export function bootCpus(
  cpus: number,
  ramBytes = 0,
  atomics: MachineConfig['atomics'] = 'wasm',
): Cpu[] {
  const { handle } = bootMachine({ cpus, ramBytes, atomics });
  return Array.from({ length: cpus }, (_, id) => attachCpu(handle, id));
}

/** One CPU on this thread. */
export function bootCpu(ramBytes = 0): Cpu {
  return bootCpus(1, ramBytes)[0]!;
}

/** Zeroed room for a struct that all CPUs share, from a cache line on. */
export function place<S extends string>(
  cpu: Cpu,
  layout: { readonly structName: S; readonly words: number },
): Ptr<S> {
  return (cpu.percpu + allocPercpu(cpu, layout.words + CACHELINE_WORDS)) as Ptr<S>;
}

/** `action` breaks a rule of the kernel, and the report of that matches. */
export function assertBug(action: () => unknown, message: RegExp): void {
  assert.throws(action, (error: unknown) => {
    assert.ok(error instanceof KernelBug, `a KernelBug, not ${String(error)}`);
    assert.match(error.message, message);
    return true;
  });
}
