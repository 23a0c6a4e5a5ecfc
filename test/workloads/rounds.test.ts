import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FaultlineError } from '../../src/base/bug.js';
import { allocPage, freePage } from '../../src/machine/page-alloc.js';
import { kzalloc } from '../../src/machine/slab.js';
import { struct, words } from '../../src/memory/layout.js';
import { assertNoLeak, framesAccountedFor } from '../../src/workloads/leak.js';
import {
  awaitRound,
  finishedCount,
  finishRound,
  memberCounts,
  memberLatencies,
  MemberResult,
  openRound,
  roundGoesOn,
  Rounds,
  stopRound,
} from '../../src/workloads/rounds.js';
import { SetupMemory } from '../../src/workloads/setup-memory.js';
import { bootCpus } from '../support/machine.js';

describe('rounds', () => {
  test('are opened, stopped and counted, and the last one is none', () => {
    const [main, member] = bootCpus(2, 1 << 20);
    const memory = new SetupMemory();
    const rounds = memory.make(main!, Rounds);
    const result = memory.make(main!, MemberResult);
    for (let round = 0; round < 3; round++) {
      openRound(main!, rounds, false);
      assert.equal(awaitRound(member!, rounds, round), true);
      assert.equal(roundGoesOn(member!, rounds), true);
      stopRound(main!, rounds);
      assert.equal(roundGoesOn(member!, rounds), false);
      const counts = { operations: round + 2 ** 40, retries: 2, accesses: 3, elapsedMs: 0.5 };
      finishRound(member!, rounds, result, counts);
      assert.equal(finishedCount(main!, rounds), round + 1);
      assert.deepEqual(memberCounts(main!, result), counts);
    }
    openRound(main!, rounds, true);
    assert.equal(awaitRound(member!, rounds, 3), false);
    assert.ok(memberLatencies(result) > result);
    memory.free(main!);
  });
});

describe('the leak check', () => {
  test('counts frames in slabs as there, and any other as lost', () => {
    const [cpu] = bootCpus(1, 1 << 20);
    const before = framesAccountedFor(cpu!);
    const Thing = struct('thing', { body: words(200) });
    for (let i = 0; i < 20; i++) kzalloc(cpu!, Thing);
    assertNoLeak(cpu!, before);
    const pfn = allocPage(cpu!);
    assert.throws(
      () => {
        assertNoLeak(cpu!, before);
      },
      (error: unknown) =>
        error instanceof FaultlineError &&
        error.code === 'FAULTLINE_LEAK' &&
        error.message === '1 frames were not given back',
    );
    freePage(cpu!, pfn);
    assertNoLeak(cpu!, before);
  });

  test('setup memory is given back, and running out of it is the user’s to know', () => {
    const [cpu] = bootCpus(1, 1 << 20);
    const before = framesAccountedFor(cpu!);
    const memory = new SetupMemory();
    memory.words(cpu!, 5000);
    memory.make(cpu!, Rounds);
    assert.throws(() => memory.words(cpu!, 1 << 19), /too little memory/);
    memory.free(cpu!);
    assertNoLeak(cpu!, before);
  });
});
