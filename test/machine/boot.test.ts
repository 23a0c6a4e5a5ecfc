import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FaultlineError } from '../../src/base/bug.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { attachCpu, bootMachine, type MachineConfig } from '../../src/machine/boot.js';
import { CPU_AREAS, cpuArea, cpuOfArea } from '../../src/machine/cpu.js';
import { CPUS_MAX } from '../../src/machine/limits.js';
import { lockClass, lockClassName } from '../../src/machine/lock-class.js';
import { CpuArea, MACHINE, Machine } from '../../src/machine/types.js';
import { createMemory } from '../../src/memory/port.js';

const refused = (error: unknown): boolean =>
  error instanceof FaultlineError && error.code === 'FAULTLINE_BAD_MACHINE' && error.exitCode === 2;

describe('a machine that cannot be is refused', () => {
  const cases: [string, MachineConfig][] = [
    ['no CPU', { cpus: 0, ramBytes: 0 }],
    ['half a CPU', { cpus: 1.5, ramBytes: 0 }],
    ['too many CPUs', { cpus: CPUS_MAX + 1, ramBytes: 0 }],
    ['less than no memory', { cpus: 1, ramBytes: -1 }],
    ['no number of bytes', { cpus: 1, ramBytes: NaN }],
    ['too much memory', { cpus: 1, ramBytes: 2 ** 32 }],
    ['endless memory', { cpus: 1, ramBytes: Infinity }],
  ];
  for (const [name, config] of cases) {
    test(name, () => {
      assert.throws(() => bootMachine(config), refused);
    });
  }
});

test('a machine has as many CPUs as it is told, and one to boot', () => {
  const { handle, cpu, cpus } = bootMachine({ cpus: CPUS_MAX, ramBytes: 0 });
  assert.equal(cpus, CPUS_MAX);
  assert.equal(cpu.id, CPUS_MAX);
  assert.equal(attachCpu(handle, CPUS_MAX - 1).area, cpuArea(CPUS_MAX - 1));
  // the boot CPU is the booting thread's, and each other one some other thread's
  for (const id of [-1, 0.5, CPUS_MAX - 1, CPUS_MAX, CPUS_MAX + 1])
    assert.throws(() => attachCpu(handle, id), refused);
});

test('memory that holds no machine cannot be attached to', () => {
  assert.throws(() => attachCpu(createMemory(4096), 0), refused);
});

test('the parts of a machine do not overlap', () => {
  const { cpu } = bootMachine({ cpus: 3, ramBytes: 50 * PAGE_SIZE });
  const word = (field: number): number => cpu.words[MACHINE + field]!;
  const parts = [
    [MACHINE, Machine.words],
    [CPU_AREAS, 4 * CpuArea.words],
    [word(Machine.percpu), 4 * word(Machine.percpuStride)],
    [word(Machine.pages), 50 * 16],
    [word(Machine.frames), 50 * 1024],
  ] as const;
  let end = 1; // 0 is NULL
  for (const [start, size] of parts) {
    assert.ok(start >= end);
    end = start + size;
  }
  assert.ok(end <= cpu.words.length);
});

test('a CPU’s area names the CPU', () => {
  for (const id of [0, 1, 255]) assert.equal(cpuOfArea(cpuArea(id)), id);
});

test('a lock class has the same number everywhere, and its name back', () => {
  const first = lockClass('test->lock');
  assert.equal(lockClass('test->lock'), first);
  assert.notEqual(lockClass('test->other'), first);
  assert.equal(lockClassName(first), 'test->lock');
  assert.equal(lockClassName(12345), 'class 12345');
});
