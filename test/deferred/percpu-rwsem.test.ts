/**
 * The per-CPU read/write semaphore as its holders see it, on one thread: what blocks is explored (percpu-rwsem).
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { ENOMEM } from '../../src/base/errno.js';
import {
  percpuDownRead,
  percpuDownReadTrylock,
  percpuDownWrite,
  percpuFreeRwsem,
  percpuInitRwsem,
  PercpuRwsem,
  percpuUpRead,
  percpuUpWrite,
} from '../../src/deferred/percpu-rwsem.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { allocPercpuPiece } from '../../src/machine/percpu.js';
import { assertBug, bootCpus, place } from '../support/machine.js';

const SEM = lockClass('unit->percpu_rwsem');

function world(): { cpu: Cpu; other: Cpu; sem: PercpuRwsem } {
  const [cpu, other] = bootCpus(2);
  const sem = place(cpu!, PercpuRwsem);
  assert.equal(percpuInitRwsem(cpu!, sem, SEM), 0);
  return { cpu: cpu!, other: other!, sem };
}

describe('a per-CPU semaphore', () => {
  test('has many readers at once, and none beside a writer', () => {
    const { cpu, other, sem } = world();
    percpuDownRead(cpu, sem);
    assert.equal(percpuDownReadTrylock(other, sem), true);
    percpuUpRead(other, sem);
    percpuUpRead(cpu, sem);
    percpuDownWrite(cpu, sem);
    assert.equal(percpuDownReadTrylock(other, sem), false);
    percpuUpWrite(cpu, sem);
    assert.equal(percpuDownReadTrylock(other, sem), true);
    percpuUpRead(other, sem);
  });

  test('has no readers left after a try that failed: a writer comes in at once', () => {
    const { cpu, other, sem } = world();
    percpuDownWrite(cpu, sem);
    percpuDownReadTrylock(other, sem);
    percpuUpWrite(cpu, sem);
    percpuDownWrite(other, sem);
    percpuUpWrite(other, sem);
  });

  test('is not freed under a reader', () => {
    const { cpu, other, sem } = world();
    percpuDownRead(other, sem);
    assertBug(() => {
      percpuFreeRwsem(cpu, sem);
    }, /freed with 1 readers \(I1\)/);
    percpuUpRead(other, sem);
    percpuFreeRwsem(cpu, sem);
  });

  test('is -ENOMEM without memory for its counts', () => {
    const { cpu } = world();
    const sem = place(cpu, PercpuRwsem);
    while (allocPercpuPiece(cpu, 1) !== 0);
    assert.equal(percpuInitRwsem(cpu, sem, SEM), -ENOMEM);
  });
});
