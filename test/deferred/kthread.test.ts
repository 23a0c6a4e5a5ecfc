import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EINTR } from '../../src/base/errno.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import {
  kthreadCreate,
  kthreadRun,
  kthreadStop,
  runKthreads,
  stopKthreads,
  wakeUpKthread,
} from '../../src/deferred/kthread.js';
import { Kthread } from '../../src/deferred/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena, THREADS } from '../programs/deferred.js';
import { reportOf, runDeferred } from '../support/deferred-world.js';
import { bootCpus } from '../support/machine.js';

const THREAD = lockClass('unit kthread');
const ran: number[] = [];
const returning = defineOps({
  opsName: 'returning thread',
  run(_cpu: Cpu, _kthread: Kthread, data: number) {
    ran.push(data);
    return data + 1;
  },
});

function world(): Cpu {
  const [cpu] = bootCpus(1, 1 << 20) as [Cpu];
  bootDeferred(cpu);
  registerOps(cpu, [{ returning }]);
  ran.length = 0;
  return cpu;
}

describe('a thread', () => {
  test('is run in its turn, and what it returns is for who stops it', () => {
    const cpu = world();
    const created = kthreadCreate(cpu, returning, 10, THREAD);
    const threads = [kthreadRun(cpu, returning, 20, THREAD), created];
    wakeUpKthread(cpu, created);
    stopKthreads(cpu); // when there is nothing left
    assert.equal(runKthreads(cpu), 2);
    assert.deepEqual(ran, [20, 10]);
    assert.deepEqual(
      threads.map((kthread) => kthreadStop(cpu, kthread)),
      [21, 11],
    );
    assert.equal(allocatedObjects(cpu, Kthread), 0);
  });

  test('that is stopped before it has begun never begins', () => {
    const cpu = world();
    const created = kthreadCreate(cpu, returning, 1, THREAD);
    const woken = kthreadRun(cpu, returning, 2, THREAD);
    assert.equal(kthreadStop(cpu, created), -EINTR);
    assert.equal(kthreadStop(cpu, woken), -EINTR);
    stopKthreads(cpu);
    assert.equal(runKthreads(cpu), 0);
    assert.deepEqual(ran, []);
  });
});

test('in parallel every thread is stopped, wherever it is', async () => {
  const { threadOwner, kthreadRunner } = programs;
  const entries = [threadOwner, threadOwner, kthreadRunner, kthreadRunner, kthreadRunner];
  const run = await runDeferred(entries, (cpu, arena) => {
    programs.setRunning(cpu, arena, 2);
  });
  const ranThreads = run.values[0]! + run.values[1]!;
  assert.equal(run.field(DeferredArena.runs), ranThreads);
  assert.equal(
    run.values.slice(2).reduce((sum, count) => sum + count),
    ranThreads,
  );
  assert.ok(ranThreads > 0 && ranThreads <= 2 * THREADS);
});

test('a wait for a thread that does not look whether it is to stop is told', async () => {
  const message = await reportOf('stalled', [programs.stopAlone, programs.kthreadRunner]);
  assert.match(message, /^stalled: cpu 0 .* waits for kthread test->kthread, run by cpu 1/);
});
