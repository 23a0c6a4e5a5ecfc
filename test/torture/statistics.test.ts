/**
 * What a run says of its members, from the words that they leave.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  blockWords,
  memberAt,
  TM_COUNTS,
  TM_GAP_MAX,
  TM_WAIT_MAX,
  TM_WAITS,
} from '../../src/torture/block.js';
import { jainIndex, memberName, memberResults, roleResults } from '../../src/torture/statistics.js';
import { writersAndReaders } from '../../src/torture/targets/exclusion.js';
import { bucketFor } from '../../src/workloads/histogram.js';

describe('Jain’s index', () => {
  test('is 1 if all have the same, and if nobody has anything', () => {
    assert.equal(jainIndex([7, 7, 7]), 1);
    assert.equal(jainIndex([0, 0]), 1);
  });

  test('is 1/n if one has everything', () => {
    assert.equal(jainIndex([12, 0, 0, 0]), 0.25);
  });

  test('lies in between else', () => {
    assert.equal(jainIndex([1, 3]), 0.8);
  });
});

describe('the members of a run', () => {
  const roles = ['writer', 'writer', 'reader'];
  const block = new Int32Array(blockWords(roles.length));
  block[memberAt(0) + TM_COUNTS] = 30;
  block[memberAt(1) + TM_COUNTS] = 10;
  block[memberAt(2) + TM_COUNTS + 1] = 500;
  block[memberAt(1) + TM_GAP_MAX] = 1234;
  for (const ns of [100, 100, 100, 5000]) block[memberAt(0) + TM_WAITS + bucketFor(ns)]!++;
  block[memberAt(0) + TM_WAIT_MAX] = 5;

  test('have names by their roles', () => {
    assert.deepEqual(
      roles.map((_, index) => memberName(roles, index)),
      ['writer 0', 'writer 1', 'reader 0'],
    );
  });

  test('are added up by role: totals, the busiest and the laziest, fairness, percentiles', () => {
    const members = memberResults(block, roles, 2);
    const [writers, readers] = roleResults(block, roles, members);
    assert.deepEqual(members[2]!.operations, [0, 500]);
    assert.deepEqual([writers!.total, writers!.max, writers!.min], [40, 30, 10]);
    assert.equal(writers!.jainIndex, 0.8);
    assert.equal(writers!.longestStarvationUs, 1234);
    assert.equal(writers!.wait.samples, 4);
    assert.ok(writers!.wait.p50Ns >= 96 && writers!.wait.p50Ns <= 100);
    assert.equal(writers!.wait.maxNs, 5000);
    assert.deepEqual([readers!.total, readers!.wait.samples], [500, 0]);
  });
});

describe('writers and readers', () => {
  const base = {
    cpus: 6,
    devices: 0,
    longHoldMs: 0,
    noise: 0,
    seed: 1,
    driver: undefined,
    lock: undefined,
  };
  const count = (nwritersStress: number, nreadersStress: number, hasReaders: boolean): number[] => {
    const roles = writersAndReaders({ ...base, nwritersStress, nreadersStress }, hasReaders);
    return ['writer', 'reader'].map((role) => roles.filter((other) => other === role).length);
  };

  test('are half of the CPUs each, or all of them without readers', () => {
    assert.deepEqual(count(-1, -1, true), [3, 3]);
    assert.deepEqual(count(-1, -1, false), [6, 0]);
  });

  test('are as many as are asked for', () => {
    assert.deepEqual(count(1, 5, true), [1, 5]);
    assert.deepEqual(count(0, 2, true), [0, 2]);
  });
});
