import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { PageRanges } from '../../../src/workloads/strace/page-ranges.js';

const SIZE = 24;

interface Step {
  readonly kind: 'add' | 'remove';
  readonly start: number;
  readonly end: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('add', 'remove'),
  start: fc.nat(SIZE),
  end: fc.nat(SIZE),
});

function members(steps: readonly Step[]): boolean[] {
  const set = new Array<boolean>(SIZE + 1).fill(false);
  for (const { kind, start, end } of steps) {
    for (let i = start; i < end; i++) set[i] = kind === 'add';
  }
  return set;
}

function build(steps: readonly Step[]): PageRanges {
  const ranges = new PageRanges();
  for (const { kind, start, end } of steps) ranges[kind](start, end);
  return ranges;
}

test('ranges hold what a set of numbers holds', () => {
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const set = members(steps);
      const held = set.map(() => false);
      const ranges = build(steps).ranges();
      for (const { start, end } of ranges) held.fill(true, start, end);
      assert.deepEqual(held, set);
      ranges.forEach(({ start, end }, index) => {
        assert.ok(start < end);
        assert.ok(start > (ranges[index - 1]?.end ?? -1), 'ranges that touch are one');
      });
    }),
  );
});

test('questions about a range are answered as for its numbers', () => {
  fc.assert(
    fc.property(fc.array(step), fc.nat(SIZE), fc.nat(SIZE), (steps, start, end) => {
      const part = members(steps).slice(start, Math.max(start, end));
      const ranges = build(steps);
      assert.equal(ranges.covers(start, end), part.every(Boolean));
      assert.equal(ranges.intersects(start, end), part.some(Boolean));
      const gaps = part.map(() => true);
      for (const gap of ranges.missing(start, end)) {
        gaps.fill(false, gap.start - start, gap.end - start);
      }
      assert.deepEqual(gaps, part);
    }),
  );
});

test('a copy does not change with its original', () => {
  const ranges = new PageRanges([{ start: 1, end: 4 }]);
  const copy = ranges.copy();
  ranges.remove(0, 10);
  assert.deepEqual(copy.ranges(), [{ start: 1, end: 4 }]);
  assert.deepEqual(ranges.ranges(), []);
});
