/**
 * The ring of faults against an array, on one thread; who sleeps and wakes is in svm-scripted.test.ts.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, readAddress, write } from '#memory';
import fc from 'fast-check';

import { createSvmDevice, destroySvmDevice } from '../../src/drivers/svm/device.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { svmDriver } from '../../src/drivers/svm/driver.js';
import { droppedFaults, raiseFault, takeFaults } from '../../src/drivers/svm/fault-buffer.js';
import {
  FAULT_BUFFER_ENTRIES,
  FaultBuffer,
  FaultEntry,
  type SvmContext,
  SvmDevice,
  type SvmEngine,
} from '../../src/drivers/svm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocWords, freeWords } from '../../src/machine/slab.js';
import { member } from '../../src/memory/layout.js';
import { bootSpace, pageVa } from '../support/address-space.js';

const BATCH_MAX = 2 * FAULT_BUFFER_ENTRIES;

interface Fault {
  readonly va: number;
  readonly context: number;
  readonly isWrite: boolean;
  readonly engine: number;
}

class Ring {
  readonly cpu: Cpu;
  readonly device: SvmDevice;
  readonly buffer: FaultBuffer;
  readonly #batch: number;
  #raised = 0;

  /** `served` is how many faults there have been already. */
  constructor(cpu: Cpu, served = 0) {
    this.cpu = cpu;
    this.device = createSvmDevice(cpu, 0, svmDriver, 16);
    this.buffer = member(this.device, SvmDevice.faultBuffer);
    this.#batch = allocWords(cpu, BATCH_MAX * FaultEntry.words);
    write(cpu, this.buffer, FaultBuffer.put, served);
    write(cpu, this.buffer, FaultBuffer.got, served);
  }

  /** A fault that is like no other; undefined if it was lost. */
  raise(): Fault | undefined {
    const n = ++this.#raised;
    const fault = { va: pageVa(n * 1e6), context: n, isWrite: n % 3 === 0, engine: 7 * n };
    const context = n as SvmContext;
    const engine = fault.engine as SvmEngine;
    const isIn = raiseFault(this.cpu, this.buffer, context, fault.va, fault.isWrite, engine);
    return isIn ? fault : undefined;
  }

  take(max: number): Fault[] {
    const { cpu } = this;
    const count = takeFaults(cpu, this.buffer, this.#batch, max);
    return Array.from({ length: count }, (_, i) => {
      const entry = (this.#batch + i * FaultEntry.words) as FaultEntry;
      return {
        va: readAddress(cpu, entry, FaultEntry.va),
        context: read(cpu, entry, FaultEntry.context),
        isWrite: read(cpu, entry, FaultEntry.isWrite) !== 0,
        engine: read(cpu, entry, FaultEntry.engine),
      };
    });
  }

  get dropped(): number {
    return droppedFaults(this.cpu, this.device);
  }

  free(): void {
    freeWords(this.cpu, this.#batch, BATCH_MAX * FaultEntry.words);
    destroySvmDevice(this.cpu, this.device);
  }
}

describe('the ring of faults', () => {
  const { cpu } = bootSpace([driverModule]);

  test('holds so many, drops and counts what does not fit, and goes on when there is room', () => {
    const ring = new Ring(cpu);
    const held = Array.from({ length: FAULT_BUFFER_ENTRIES }, () => ring.raise());
    assert.ok(held.every((fault) => fault !== undefined));
    for (let lost = 1; lost <= 3; lost++) {
      assert.equal(ring.raise(), undefined);
      assert.equal(ring.dropped, lost);
    }
    assert.deepEqual(ring.take(1), held.slice(0, 1));
    const next = ring.raise();
    assert.ok(next);
    assert.equal(ring.raise(), undefined);
    assert.deepEqual(ring.take(BATCH_MAX), [...held.slice(1), next]);
    assert.deepEqual(ring.take(BATCH_MAX), []);
    assert.equal(ring.dropped, 4);
    ring.free();
  });

  test('is the same after more faults than a word can count', () => {
    for (const served of [0x7fffffff - 70, -70]) {
      const ring = new Ring(cpu, served);
      for (let round = 0; round < 3; round++) {
        const held = Array.from({ length: FAULT_BUFFER_ENTRIES }, () => ring.raise());
        assert.equal(ring.raise(), undefined, 'it is full');
        assert.deepEqual(ring.take(10), held.slice(0, 10));
        assert.deepEqual(ring.take(BATCH_MAX), held.slice(10));
      }
      assert.equal(ring.dropped, 3);
      ring.free();
    }
  });

  test('gives out what it took, in that order, whatever is done in which order', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ raises: fc.nat(40) }) },
      { weight: 2, arbitrary: fc.record({ takes: fc.nat(BATCH_MAX) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.integer(), (steps, served) => {
        const ring = new Ring(cpu, served);
        const model: Fault[] = [];
        let lost = 0;
        for (const one of steps) {
          if ('takes' in one) {
            assert.deepEqual(ring.take(one.takes), model.splice(0, one.takes));
            continue;
          }
          for (let i = 0; i < one.raises; i++) {
            const fault = ring.raise();
            assert.equal(fault === undefined, model.length === FAULT_BUFFER_ENTRIES);
            if (fault === undefined) lost++;
            else model.push(fault);
          }
        }
        assert.equal(ring.dropped, lost);
        ring.free();
      }),
    );
  });
});
