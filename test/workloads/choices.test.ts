/**
 * What the workloads choose at random: the same for the same seed, and everything there is.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { PAGE_SIZE } from '../../src/base/units.js';
import { pick, seedFor, xorshift } from '../../src/base/xorshift.js';
import { ENGINE_ADD, ENGINE_LOAD, ENGINE_STORE } from '../../src/drivers/svm/engine.js';
import { type Area, areaOf, choosePage } from '../../src/workloads/area.js';
import { ARENA_BASE } from '../../src/workloads/arena.js';
import { chooseAddress, chooseKind } from '../../src/workloads/svm.js';
import type { PointConfig } from '../../src/workloads/workload.js';

const BASE: PointConfig = {
  faultThreads: 2,
  invalidators: 2,
  devices: 1,
  rangePages: 16,
  arenaPages: 4096,
  overlap: 1,
  seed: 1,
  sampleEvery: 0,
};

/** The states that a member goes through. */
function* states(count: number, seed = 1, member = 0): Generator<number> {
  let state = seedFor(seed, member);
  for (let i = 0; i < count; i++) {
    state = xorshift(state);
    yield state;
  }
}

const pagesOf = (area: Area, count: number, seed = 1): number[] =>
  [...states(count, seed)].map((state) => choosePage(area, state));

describe('random states', () => {
  test('are the same for the same seed, and others for another seed or member', () => {
    const first = [...states(100, 7, 3)];
    assert.deepEqual([...states(100, 7, 3)], first);
    for (const [seed, member] of [
      [8, 3],
      [7, 4],
    ] as const) {
      const other = [...states(100, seed, member)];
      assert.ok(other.every((state, i) => state !== first[i]));
    }
  });

  test('never are 0, from where there would be no way on', () => {
    for (let seed = 1; seed < 3000; seed++) {
      for (const member of [0, 1, 254]) assert.notEqual(seedFor(seed, member), 0);
    }
    assert.ok([...states(100_000)].every((state) => state !== 0));
  });

  test('pick every number below a bound about equally often', () => {
    const counts = Array<number>(10).fill(0);
    for (const state of states(100_000)) counts[pick(state, 10)]!++;
    assert.ok(
      counts.every((count) => count > 9000 && count < 11_000),
      counts.join(),
    );
  });
});

describe('an area', () => {
  test('without overlap is the thread’s own slice, and all of it', () => {
    const seen = new Set<number>();
    for (let thread = 0; thread < 4; thread++) {
      const area = areaOf({ ...BASE, overlap: 0 }, thread, 4);
      const pages = new Set(pagesOf(area, 5000));
      assert.equal(pages.size, 1024 / 16);
      for (const page of pages) {
        assert.equal(page % 16, 0);
        assert.ok(page >= thread * 1024 && page + 16 <= (thread + 1) * 1024);
        assert.ok(!seen.has(page), 'nobody else’s');
        seen.add(page);
      }
    }
  });

  test('with full overlap is the whole arena', () => {
    const area = areaOf(BASE, 3, 4);
    assert.equal(new Set(pagesOf(area, 10_000)).size, 4096 / 16);
  });

  test('never reaches beyond the arena, whatever does not divide it', () => {
    for (const [arenaPages, rangePages, threads] of [
      [1000, 7, 3],
      [17, 5, 3],
      [1, 1, 1],
    ] as const) {
      for (const overlap of [0, 0.5, 1]) {
        for (let thread = 0; thread < threads; thread++) {
          const area = areaOf({ ...BASE, arenaPages, rangePages, overlap }, thread, threads);
          const pages = pagesOf(area, 2000);
          assert.ok(pages.every((page) => page >= 0 && page + rangePages <= arenaPages));
        }
      }
    }
  });

  test('is left as often as the overlap says, and then for anywhere', () => {
    for (const overlap of [0.02, 0.5, 0.9]) {
      const area = areaOf({ ...BASE, rangePages: 1, overlap }, 0, 4);
      const pages = pagesOf(area, 200_000);
      const away = pages.filter((page) => page >= 1024);
      const share = away.length / pages.length / (3 / 4);
      assert.ok(Math.abs(share - overlap) < 0.01, `${share} instead of ${overlap}`);
      const spots = new Set(away).size;
      assert.ok(spots > 0.6 * Math.min(3072, away.length), `${spots} of ${away.length}`);
    }
  });
});

describe('the svm workload', () => {
  test('makes every kind of access to every page, and to every word that is used', () => {
    const area = areaOf({ ...BASE, arenaPages: 1024 }, 0, 2);
    const perPage = new Map<number, Set<number>>();
    const perWord = new Map<number, Set<number>>();
    const note = (map: Map<number, Set<number>>, key: number, kind: number): void => {
      map.set(key, (map.get(key) ?? new Set()).add(kind));
    };
    for (const state of states(100_000)) {
      const offset = chooseAddress(area, state) - ARENA_BASE;
      assert.ok(offset >= 0 && offset < 1024 * PAGE_SIZE && offset % 4 === 0);
      note(perPage, Math.floor(offset / PAGE_SIZE), chooseKind(state));
      note(perWord, offset % PAGE_SIZE, chooseKind(state));
    }
    assert.equal(perPage.size, 1024);
    assert.equal(perWord.size, 16);
    const kinds = new Set([ENGINE_LOAD, ENGINE_STORE, ENGINE_ADD]);
    for (const seen of [...perPage.values(), ...perWord.values()])
      assert.deepEqual([...seen].sort(), [...kinds].sort());
  });
});
