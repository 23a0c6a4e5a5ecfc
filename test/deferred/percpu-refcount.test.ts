import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { ENOMEM } from '../../src/base/errno.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import {
  PERCPU_REF_ALLOW_REINIT,
  PERCPU_REF_INIT_ATOMIC,
  PERCPU_REF_INIT_DEAD,
  percpuRefExit,
  percpuRefGet,
  percpuRefGetMany,
  percpuRefInit,
  percpuRefIsDying,
  percpuRefIsZero,
  percpuRefKill,
  percpuRefKillAndConfirm,
  percpuRefPut,
  percpuRefPutMany,
  percpuRefReinit,
  percpuRefResurrect,
  percpuRefSwitchToAtomic,
  percpuRefSwitchToPercpu,
  percpuRefTryget,
  percpuRefTrygetLive,
} from '../../src/deferred/percpu-refcount.js';
import { PercpuRef, PercpuRefData } from '../../src/deferred/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { allocPercpuPiece, perCpuPtr } from '../../src/machine/percpu.js';
import { mightSleep } from '../../src/machine/sched.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import type { Field } from '../../src/memory/layout.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena, LIVES } from '../programs/deferred.js';
import { runDeferred } from '../support/deferred-world.js';
import { assertBug, bootCpus, place } from '../support/machine.js';

const events: string[] = [];
const ops = defineOps({
  opsName: 'unit percpu_ref',
  release(cpu: Cpu) {
    events.push('release');
    assertBug(() => {
      mightSleep(cpu);
    }, /sleeping function/);
  },
  confirm(cpu: Cpu) {
    events.push('confirm');
    assertBug(() => {
      mightSleep(cpu);
    }, /sleeping function/);
  },
});

interface World {
  readonly cpu: Cpu;
  readonly other: Cpu;
  readonly ref: PercpuRef;
  /** The words of the two CPUs. */
  readonly own: () => number[];
  readonly count: () => number;
}

function world(flags = 0): World {
  const [cpu, other] = bootCpus(2, 1 << 20) as [Cpu, Cpu];
  bootDeferred(cpu);
  for (const each of [cpu, other]) registerOps(each, [{ ops }]);
  const ref = place(cpu, PercpuRef);
  assert.equal(percpuRefInit(cpu, ref, ops, flags), 0);
  events.length = 0;
  const offset = read(cpu, ref, PercpuRef.counters) >>> 2;
  const first = 0 as Field<'counter'>;
  const own = (): number[] =>
    [0, 1].map((id) => read(cpu, perCpuPtr<'counter'>(cpu, offset, id), first));
  const count = (): number => read(cpu, read(cpu, ref, PercpuRef.data), PercpuRefData.count);
  return { cpu, other, ref, own, count };
}

const BIAS = -0x80000000;

describe('a life', () => {
  test('in per-CPU mode counts on each CPU, and only the sum means anything (INV-9)', () => {
    const { cpu, other, ref, own, count } = world();
    percpuRefGetMany(cpu, ref, 3);
    percpuRefPutMany(other, ref, 2);
    assert.ok(percpuRefTryget(other, ref));
    assert.deepEqual(own(), [3, -1]);
    assert.equal(count(), BIAS + 1);
    assert.equal(percpuRefIsZero(cpu, ref), false);
  });

  test('ends with the last put after kill, once, and not before a grace period (INV-6, INV-7)', () => {
    const { cpu, other, ref, count } = world();
    percpuRefGet(cpu, ref);
    percpuRefKill(cpu, ref);
    assert.ok(percpuRefIsDying(cpu, ref));
    percpuRefPut(other, ref); // the reference of the other CPU: atomic now, and still biased
    assert.deepEqual(events, []);
    assert.equal(count(), (BIAS + 1 + 1 - 1 - 1) | 0);
    assert.equal(runPendingWork(other), 1);
    assert.deepEqual(events, ['release']);
    assert.ok(percpuRefIsZero(cpu, ref));
    assert.equal(percpuRefTryget(cpu, ref), false, 'not from nothing');
    percpuRefExit(cpu, ref);
    assert.ok(percpuRefIsZero(cpu, ref), 'also when its memory is gone');
    assert.equal(allocatedObjects(cpu, PercpuRefData), 0);
    assert.deepEqual(warningTexts(cpu), []);
  });

  test('after kill tryget still gives what tryget_live does not', () => {
    const { cpu, other, ref } = world();
    percpuRefGet(cpu, ref);
    percpuRefKillAndConfirm(cpu, ref, ops);
    assert.equal(percpuRefTrygetLive(cpu, ref), false);
    assert.ok(percpuRefTryget(cpu, ref));
    assert.deepEqual(events, []);
    runPendingWork(other);
    assert.deepEqual(events, ['confirm']);
    assert.equal(percpuRefTrygetLive(other, ref), false);
    percpuRefPutMany(other, ref, 2);
    assert.deepEqual(events, ['confirm', 'release']);
  });

  test('in atomic mode may end within kill', () => {
    const { cpu, ref, count } = world(PERCPU_REF_INIT_ATOMIC);
    assert.equal(count(), 1);
    percpuRefGet(cpu, ref);
    assert.equal(count(), 2);
    percpuRefPut(cpu, ref);
    percpuRefKillAndConfirm(cpu, ref, ops);
    assert.deepEqual(events, ['confirm', 'release']);
    assert.equal(runPendingWork(cpu), 0);
  });

  test('that begins dead has no reference, until it is reinitialised', () => {
    const { cpu, ref, count } = world(PERCPU_REF_INIT_DEAD);
    assert.ok(percpuRefIsDying(cpu, ref));
    assert.ok(percpuRefIsZero(cpu, ref));
    assert.equal(percpuRefTrygetLive(cpu, ref), false);
    percpuRefReinit(cpu, ref);
    assert.equal(percpuRefIsDying(cpu, ref), false);
    assert.equal(count(), (BIAS + 1) | 0, 'in per-CPU mode');
    assert.ok(percpuRefTrygetLive(cpu, ref));
    assert.deepEqual(warningTexts(cpu), []);
  });

  test('may be called back before it has ended', () => {
    const { cpu, ref, own } = world(PERCPU_REF_ALLOW_REINIT);
    percpuRefGet(cpu, ref);
    percpuRefKill(cpu, ref);
    runPendingWork(cpu);
    percpuRefResurrect(cpu, ref);
    assert.ok(percpuRefTrygetLive(cpu, ref));
    assert.deepEqual(own(), [1, 0], 'the old references are in the shared count');
    percpuRefPutMany(cpu, ref, 2);
    assert.deepEqual(events, []);
    percpuRefKill(cpu, ref);
    runPendingWork(cpu);
    assert.deepEqual(events, ['release']);
    assert.deepEqual(warningTexts(cpu), []);
  });
});

describe('a switch', () => {
  test('to atomic mode takes what the CPUs had, and back leaves it there', () => {
    const { cpu, other, ref, own, count } = world(PERCPU_REF_ALLOW_REINIT);
    percpuRefGetMany(cpu, ref, 5);
    percpuRefPutMany(other, ref, 3);
    percpuRefSwitchToAtomic(cpu, ref, ops);
    assert.deepEqual(events, []);
    runPendingWork(other);
    assert.deepEqual(events, ['confirm']);
    assert.equal(count(), 1 + 5 - 3);
    percpuRefGet(other, ref);
    assert.equal(count(), 4);
    percpuRefSwitchToPercpu(cpu, ref);
    assert.deepEqual(own(), [0, 0]);
    assert.equal(count(), (BIAS + 4) | 0);
    percpuRefPut(cpu, ref);
    assert.deepEqual(own(), [-1, 0]);
  });

  test('back needs leave', () => {
    const { cpu, ref } = world();
    percpuRefGet(cpu, ref);
    percpuRefKill(cpu, ref);
    runPendingWork(cpu);
    percpuRefResurrect(cpu, ref);
    assert.match(warningTexts(cpu).join(), /per-CPU mode, which it does not allow/);
  });
});

describe('what should not be is warned of', () => {
  test('two kills', () => {
    const { cpu, ref } = world();
    percpuRefGetMany(cpu, ref, 2);
    percpuRefKill(cpu, ref);
    runPendingWork(cpu);
    percpuRefKill(cpu, ref);
    assert.match(warningTexts(cpu).join(), /killed more than once/);
  });

  test('a resurrection of the living, a reinitialisation of what is in use', () => {
    const { cpu, ref } = world(PERCPU_REF_INIT_ATOMIC);
    percpuRefReinit(cpu, ref);
    assert.match(warningTexts(cpu).join(), /not zero.*resurrected, but not dead/);
  });

  test('an exit during a switch', () => {
    const { cpu, ref } = world();
    percpuRefSwitchToAtomic(cpu, ref);
    percpuRefExit(cpu, ref);
    assert.match(warningTexts(cpu).join(), /while a switch is under way/);
  });

  test('a sum that is not positive', () => {
    const { cpu, other, ref } = world();
    percpuRefPut(other, ref);
    percpuRefSwitchToAtomic(cpu, ref);
    percpuRefPut(cpu, ref); // two references too many are given back
    runPendingWork(cpu);
    assert.match(warningTexts(cpu).join(), /0 after the switch to atomic mode/);
  });
});

test('without memory there is none', () => {
  const [cpu] = bootCpus(1, 8 * 4096) as [Cpu];
  bootDeferred(cpu);
  registerOps(cpu, [{ ops }]);
  const refs = Array.from({ length: 4 }, () => place(cpu, PercpuRef));
  while (allocPercpuPiece(cpu, 1) !== 0) {
    // until there is none
  }
  assert.equal(percpuRefInit(cpu, refs[0]!, ops), -ENOMEM);
});

test('in parallel: one release for each life, with no reference left, and none after confirm', async () => {
  const { refUser, refKiller, kworker } = programs;
  const entries = [refUser, refUser, refUser, refKiller, kworker];
  const run = await runDeferred(entries, programs.initRef);
  assert.equal(run.field(DeferredArena.wrong), 0, 'INV-6, INV-7, INV-8');
  assert.equal(run.field(DeferredArena.releases), LIVES);
  assert.equal(run.field(DeferredArena.users), 0);
  assert.ok(
    run.values.slice(0, 3).every((got) => got > 0),
    `references: ${run.values.join()}`,
  );
  assert.ok(run.field(DeferredArena.refused) > 0, 'no kill met a user');
});
