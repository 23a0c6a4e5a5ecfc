import assert from 'node:assert/strict';
import { test } from 'node:test';

import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  allocationSite,
  failEnd,
  failNth,
  failSite,
  failSiteName,
  NO_SITE,
  shouldFail,
} from '../../src/machine/fail.js';
import { allocPage, allocPages, freePage, freePages } from '../../src/machine/page-alloc.js';
import { allocWords, freeWords, kfree, kzalloc } from '../../src/machine/slab.js';
import { Completion } from '../../src/sync/completion.js';
import { Mutex } from '../../src/sync/mutex.js';
import { bootCpu, bootCpus } from '../support/machine.js';

const RAM = 64 * PAGE_SIZE;
const POINT = failSite('test point');
const OTHER = failSite('other point');

/** Which of so many calls at a point fail. */
function failures(cpu: Cpu, calls: number, site = POINT): number[] {
  return Array.from({ length: calls }, (_, i) => i + 1).filter(() => shouldFail(cpu, site));
}

test('exactly the n-th call fails, once', () => {
  const cpu = bootCpu();
  assert.deepEqual(failures(cpu, 5), [], 'nobody asked for it');
  for (const nth of [1, 3]) {
    failNth(cpu, nth);
    assert.deepEqual(
      Array.from({ length: 5 }, () => shouldFail(cpu, POINT)),
      Array.from({ length: 5 }, (_, i) => i + 1 === nth),
    );
    assert.equal(failEnd(cpu), POINT);
  }
});

test('a walk that ends before the n-th call has failed nowhere, and nothing fails after it', () => {
  const cpu = bootCpu();
  failNth(cpu, 6);
  assert.equal(failures(cpu, 5).length, 0);
  assert.equal(failEnd(cpu), NO_SITE);
  assert.equal(failures(cpu, 5).length, 0);
});

test('with a site, other points neither fail nor count', () => {
  const cpu = bootCpu();
  failNth(cpu, 2, OTHER);
  assert.equal(failures(cpu, 5).length, 0);
  assert.equal(shouldFail(cpu, OTHER), false);
  assert.equal(failures(cpu, 5).length, 0);
  assert.equal(shouldFail(cpu, OTHER), true);
  assert.equal(failEnd(cpu), OTHER);
});

test('it is the business of one CPU', () => {
  const [first, second] = bootCpus(2);
  failNth(first!, 1);
  assert.equal(shouldFail(second!, POINT), false);
  assert.equal(shouldFail(first!, POINT), true);
});

test('structs, frames and arrays say that memory is out, and take none', () => {
  const cpu = bootCpu(RAM);
  kfree(cpu, Mutex, kzalloc(cpu, Mutex)); // the cache, its slab and a stock are there
  failNth(cpu, 1);
  assert.equal(kzalloc(cpu, Mutex), 0);
  assert.equal(failSiteName(failEnd(cpu)), 'kzalloc mutex');
  failNth(cpu, 1);
  assert.equal(allocPage(cpu), 0);
  assert.equal(failSiteName(failEnd(cpu)), 'alloc_page');
  failNth(cpu, 1);
  assert.equal(allocPages(cpu, 1), 0);
  assert.equal(failSiteName(failEnd(cpu)), 'alloc_pages');
  failNth(cpu, 1);
  assert.equal(allocWords(cpu, 5000), 0);
  assert.equal(failSiteName(failEnd(cpu)), 'alloc_pages');

  kfree(cpu, Mutex, kzalloc(cpu, Mutex));
  freePage(cpu, allocPage(cpu));
  freePages(cpu, allocPages(cpu, 1), 1);
  freeWords(cpu, allocWords(cpu, 5000), 5000);
});

test('one struct can be told from another', () => {
  const cpu = bootCpu(RAM);
  failNth(cpu, 1, allocationSite('completion'));
  kfree(cpu, Mutex, kzalloc(cpu, Mutex));
  assert.equal(kzalloc(cpu, Completion), 0);
  assert.notEqual(kzalloc(cpu, Completion), 0);
});

test('a name is there for every site that somebody declares', () => {
  assert.equal(failSiteName(POINT), 'test point');
  assert.equal(failSiteName(12345 as typeof POINT), 'site 12345');
});
