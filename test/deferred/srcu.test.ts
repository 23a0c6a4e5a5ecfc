import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, readOnce } from '#memory';

import { ENOMEM } from '../../src/base/errno.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import {
  callSrcu,
  cleanupSrcuStruct,
  initSrcuStruct,
  srcuBarrier,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeSrcu,
} from '../../src/deferred/srcu.js';
import { RcuHead, RcuQueue, SrcuStruct } from '../../src/deferred/types.js';
import { cancelWorkSync } from '../../src/deferred/workqueue.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { allocPercpuPiece } from '../../src/machine/percpu.js';
import { mightSleep } from '../../src/machine/sched.js';
import { warningTexts } from '../../src/machine/warn.js';
import { member } from '../../src/memory/layout.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena } from '../programs/deferred.js';
import { reportOf, runDeferred } from '../support/deferred-world.js';
import { bootCpus, place } from '../support/machine.js';

const DOMAIN = lockClass('unit->srcu');

const called: number[] = [];
const noting = defineOps({
  opsName: 'noting srcu callback',
  callback(_cpu: Cpu, head: RcuHead) {
    called.push(head);
  },
});

/** Two CPUs and a domain. */
function world(): { cpu: Cpu; other: Cpu; domain: SrcuStruct } {
  const [cpu, other] = bootCpus(2);
  bootDeferred(cpu!);
  for (const each of [cpu!, other!]) registerOps(each, [{ noting }]);
  const domain = place(cpu!, SrcuStruct);
  assert.equal(initSrcuStruct(cpu!, domain, DOMAIN), 0);
  called.length = 0;
  return { cpu: cpu!, other: other!, domain };
}

describe('a domain', () => {
  test('flips its banks with each grace period, and a section stays in the bank it began in', () => {
    const { cpu, other, domain } = world();
    const index = (): number => readOnce(cpu, domain, SrcuStruct.index);
    assert.equal(srcuReadLock(cpu, domain), 0);
    srcuReadUnlock(cpu, domain, 0);
    synchronizeSrcu(cpu, domain);
    assert.equal(index(), 1);
    const first = srcuReadLock(other, domain);
    assert.equal(first, 1);
    const inner = srcuReadLock(other, domain);
    mightSleep(other); // a section may
    srcuReadUnlock(other, domain, first);
    srcuReadUnlock(other, domain, inner);
    synchronizeSrcu(cpu, domain);
    assert.equal(index(), 2);
    cleanupSrcuStruct(cpu, domain);
    assert.deepEqual(warningTexts(cpu), []);
  });

  test('is not cleaned up under a reader, nor over a callback', () => {
    const { cpu, other, domain } = world();
    const bank = srcuReadLock(other, domain);
    cleanupSrcuStruct(cpu, domain);
    srcuReadUnlock(other, domain, bank);
    callSrcu(cpu, domain, place(cpu, RcuHead), noting);
    const callbacks = member(domain, SrcuStruct.callbacks);
    cancelWorkSync(cpu, member(callbacks, RcuQueue.work)); // nobody is there to call it
    cleanupSrcuStruct(cpu, domain);
    const [first, second, ...more] = warningTexts(cpu);
    assert.match(first ?? '', /cleaned up with readers inside/);
    assert.match(second ?? '', /cleaned up with callbacks queued/);
    assert.deepEqual(more, []);
    assert.notEqual(read(cpu, domain, SrcuStruct.counters), 0);
  });

  test('is not to be had without memory', () => {
    const [cpu] = bootCpus(1);
    bootDeferred(cpu!);
    const domain = place(cpu!, SrcuStruct);
    while (allocPercpuPiece(cpu!, 4) !== 0) {
      // until there is none
    }
    assert.equal(initSrcuStruct(cpu!, domain, DOMAIN), -ENOMEM);
  });
});

describe('callbacks', () => {
  test('are called in order, by who serves; a barrier without any does not wait', () => {
    const { cpu, other, domain } = world();
    const heads = Array.from({ length: 3 }, () => place(cpu, RcuHead));
    for (const head of heads) callSrcu(cpu, domain, head, noting);
    assert.deepEqual(called, []);
    assert.equal(runPendingWork(other), 1);
    assert.deepEqual(called, heads);
    srcuBarrier(cpu, domain);
  });
});

describe('in parallel', () => {
  test('readers that sleep never see a version go', async () => {
    const { srcuReader, srcuUpdater, srcuCaller, kworker } = programs;
    const entries = [srcuReader, srcuReader, srcuReader, srcuUpdater, srcuCaller, kworker];
    const run = await runDeferred(entries, (cpu, arena) => {
      programs.setRunning(cpu, arena, 2);
    });
    assert.deepEqual(run.values.slice(0, 3), [0, 0, 0], 'versions that changed under a reader');
    assert.ok(run.field(DeferredArena.waited) > 0, 'no grace period met a reader');
    assert.equal(run.field(DeferredArena.called), run.values[4], 'every callback was called');
    assert.ok(run.values[4]! > 0);
  });
});

describe('a wait that does not end is told', () => {
  test('of a reader for its own domain, as that and not as a lock (LT-25)', async () => {
    const message = await reportOf('deadlock', [programs.synchronizeInside]);
    assert.match(message, /^deadlock: cpu 0 \(\w+ 0\) -> cpu 0 \(/);
    assert.match(message, /cpu 0 .* waits for SRCU grace period test->srcu, read by cpu 0/);
  });

  test('of a reader for a mutex whose owner waits for readers', async () => {
    const message = await reportOf('deadlock', [programs.srcuHolder, programs.srcuWaiter]);
    assert.match(message, /cpu 1 .* waits for SRCU grace period test->srcu, read by cpu 0/);
    assert.match(message, /cpu 0 .* waits for mutex deferred_arena->lock, held by cpu 1/);
  });
});
