/**
 * The steps of the interval notifiers' protocol in any order, against a naive model of it.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { EAGAIN } from '../../src/base/errno.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { mmput } from '../../src/mm/exit.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  mmuNotifierInvalidateRangeStart,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../../src/notifier/mmu-notifier.js';
import type { MmuIntervalNotifier, MmuNotifierRange } from '../../src/notifier/types.js';
import { World } from '../support/notifier-world.js';

interface ModelInterval {
  readonly id: MmuIntervalNotifier;
  readonly start: number;
  readonly last: number;
  seq: number;
  inTree: boolean;
}

/** What the protocol says, with a plain list for the tree. */
class Model {
  seq = 2;
  active = 0;
  /** In the order in which they came into the tree, or will. */
  readonly intervals: ModelInterval[] = [];
  readonly deferred: ModelInterval[] = [];

  insert(id: MmuIntervalNotifier, start: number, last: number): void {
    const inTree = (this.seq & 1) === 0;
    if (this.active > 0) this.seq |= 1;
    const seq = this.active > 0 ? this.seq : this.seq - 1;
    const interval = { id, start, last, seq, inTree };
    if (inTree) this.intervals.push(interval);
    else this.deferred.unshift(interval);
  }

  hits(start: number, last: number): ModelInterval[] {
    return this.intervals
      .filter((one) => one.start <= last && one.last >= start)
      .map((one, index) => ({ one, index }))
      .sort((a, b) => a.one.start - b.one.start || a.index - b.index)
      .map(({ one }) => one);
  }

  /** Whom it calls; false if `refuses` has one of them. */
  begin(start: number, last: number, refuses: ReadonlySet<number>): [number[], boolean] {
    this.active++;
    const hits = this.hits(start, last);
    if (hits.length > 0) this.seq |= 1;
    const called: number[] = [];
    for (const hit of hits) {
      called.push(hit.id);
      if (refuses.has(hit.id)) {
        this.end();
        return [called, false];
      }
      hit.seq = this.seq;
    }
    return [called, true];
  }

  end(): void {
    this.active--;
    if (this.active > 0 || (this.seq & 1) === 0) return;
    this.seq++;
    for (const interval of this.deferred.splice(0)) {
      interval.inTree = true;
      this.intervals.push(interval);
    }
  }

  /** False if whoever removes it would have to sleep. */
  remove(id: number): boolean {
    const inTree = this.intervals.findIndex((one) => one.id === id);
    if (inTree < 0) {
      this.deferred.splice(
        this.deferred.findIndex((one) => one.id === id),
        1,
      );
    } else if ((this.seq & 1) === 0) {
      this.intervals.splice(inTree, 1);
    } else {
      return false;
    }
    return true;
  }

  get all(): readonly ModelInterval[] {
    return [...this.intervals, ...this.deferred];
  }
}

const step = fc.record({
  kind: fc.constantFrom('insert', 'insert', 'remove', 'start', 'start', 'nonblock', 'end', 'end'),
  page: fc.nat(30),
  pages: fc.integer({ min: 1, max: 12 }),
  which: fc.nat(20),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** The kernel and the model, step by step beside each other. */
class Twins {
  readonly world = new World();
  readonly model = new Model();
  readonly open: MmuNotifierRange[] = [];

  constructor() {
    this.world.remove(this.world.insert(0, 1)); // so that there is a sequence to look at
  }

  do({ kind, page, pages, which }: Step): void {
    const { world, model, open } = this;
    world.takeTold();
    world.refuse();
    let called: number[] = [];
    if (kind === 'insert') {
      model.insert(world.insert(page, pages), page, page + pages - 1);
    } else if (kind === 'remove') {
      const one = model.all[which % Math.max(model.all.length, 1)];
      if (one !== undefined && model.remove(one.id)) world.remove(one.id);
    } else if (kind === 'end') {
      const [range] = open.splice(which % Math.max(open.length, 1), 1);
      if (range === undefined) return;
      world.end(range);
      model.end();
    } else {
      const refused = kind === 'nonblock' ? model.all[which]?.id : undefined;
      const refusing = new Set(refused === undefined ? [] : [refused]);
      world.refuse(...refusing);
      const range = world.range(page, pages);
      let result = 0;
      if (kind === 'start') mmuNotifierInvalidateRangeStart(world.cpu, range);
      else result = mmuNotifierInvalidateRangeStartNonblock(world.cpu, range);
      const [all, succeeds] = model.begin(page, page + pages - 1, refusing);
      assert.equal(result, succeeds ? 0 : -EAGAIN);
      if (succeeds) open.push(range);
      called = all;
    }
    assert.deepEqual(world.whoWasTold(), called);
    this.compare();
  }

  compare(): void {
    const { world, model } = this;
    assert.deepEqual(world.state, [model.seq, model.active]);
    for (const { id, seq, inTree } of model.all) {
      assert.equal(world.seqOf(id), seq);
      assert.equal(world.inTree(id), inTree);
    }
  }

  finish(): void {
    while (this.open.length > 0) this.do({ kind: 'end', page: 0, pages: 1, which: 0 });
    for (const { id } of this.model.all) this.world.remove(id);
    this.world.assertIdle();
    mmput(this.world.cpu, this.world.mm);
    assert.equal(allocatedObjects(this.world.cpu, MmStruct), 0);
  }
}

test('any sequence of steps does what a naive model of the protocol does', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const twins = new Twins();
      for (const one of steps) twins.do(one);
      twins.finish();
    }),
    { numRuns: 200 },
  );
});
