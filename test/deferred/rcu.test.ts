import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import {
  assertRcuReader,
  callRcu,
  rcuBarrier,
  rcuReadLock,
  rcuReadLockLoad,
  rcuReadUnlock,
  synchronizeRcu,
} from '../../src/deferred/rcu.js';
import { RcuHead } from '../../src/deferred/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { mightSleep } from '../../src/machine/sched.js';
import { CpuArea } from '../../src/machine/types.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena } from '../programs/deferred.js';
import { reportOf, runDeferred } from '../support/deferred-world.js';
import { assertBug, bootCpu, bootCpus, place } from '../support/machine.js';

const word = (cpu: Cpu): number => read(cpu, cpu.area, CpuArea.rcuReader);

describe('a read section', () => {
  test('is seen from outside from the outermost lock to the outermost unlock', () => {
    const cpu = bootCpu();
    assert.equal(word(cpu) & 1, 0);
    rcuReadLock(cpu);
    assert.equal(word(cpu) & 1, 1);
    const inside = word(cpu);
    rcuReadLock(cpu);
    assert.equal(rcuReadLockLoad(cpu, cpu.area, CpuArea.rcuReader), inside);
    rcuReadUnlock(cpu);
    rcuReadUnlock(cpu);
    assert.equal(word(cpu), inside);
    rcuReadUnlock(cpu);
    assert.equal(word(cpu), inside + 1);
  });

  test('may begin with the load of what is published', () => {
    const cpu = bootCpu();
    assert.equal(rcuReadLockLoad(cpu, cpu.area, CpuArea.rcuReader), 1);
    assertRcuReader(cpu);
    rcuReadUnlock(cpu);
    assertBug(() => {
      assertRcuReader(cpu);
    }, /not in an RCU read section/);
  });

  test('may not sleep, nor wait for a grace period', () => {
    const cpu = bootCpu();
    rcuReadLock(cpu);
    assertBug(() => {
      mightSleep(cpu);
    }, /sleeping function called from invalid context \(in an RCU read section, nested 1 deep\)/);
    assertBug(() => {
      synchronizeRcu(cpu);
    }, /sleeping function/);
    rcuReadUnlock(cpu);
    synchronizeRcu(cpu);
  });
});

describe('callbacks', () => {
  const called: number[] = [];
  const noting = defineOps({
    opsName: 'noting callback',
    callback(cpu: Cpu, head: RcuHead) {
      called.push(head);
      assertBug(() => {
        mightSleep(cpu);
      }, /sleeping function/);
    },
  });

  test('are called in order, by who serves, when asked for and not before', () => {
    const [cpu, other] = bootCpus(2);
    bootDeferred(cpu!);
    for (const each of [cpu!, other!]) registerOps(each, [{ noting }]);
    const heads = Array.from({ length: 4 }, () => place(cpu!, RcuHead));
    called.length = 0;
    rcuReadLock(cpu!); // queueing may be done in a section
    for (const head of heads.slice(0, 3)) callRcu(cpu!, head, noting);
    rcuReadUnlock(cpu!);
    assert.deepEqual(called, []);
    assert.equal(runPendingWork(other!), 1, 'one item calls all of them');
    assert.deepEqual(called, heads.slice(0, 3));
    callRcu(cpu!, heads[3]!, noting);
    assert.equal(runPendingWork(cpu!), 1);
    assert.deepEqual(called, heads);
    rcuBarrier(cpu!); // nothing to wait for
  });

  test('need work queues', () => {
    const cpu = bootCpu();
    registerOps(cpu, [{ noting }]);
    assertBug(() => {
      callRcu(cpu, place(cpu, RcuHead), noting);
    }, /call bootDeferred first/);
  });
});

describe('in parallel', () => {
  test('readers never see a version go, whoever waits for the grace period', async () => {
    const { rcuReader, rcuUpdater, rcuCaller, kworker } = programs;
    const entries = [rcuReader, rcuReader, rcuReader, rcuUpdater, rcuCaller, kworker];
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
  test('of a grace period, with the reader it is for', async () => {
    const message = await reportOf('stalled', [programs.rcuStayer, programs.rcuWaiter]);
    assert.match(message, /cpu 1 .* waits for RCU grace period, of cpu 0/);
  });

  test('of a barrier, when no CPU runs work items', async () => {
    const message = await reportOf('stalled', [programs.rcuBarrierAlone]);
    assert.match(message, /cpu 0 .* waits for work item rcu callbacks, which nobody runs/);
  });
});
