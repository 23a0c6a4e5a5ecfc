/**
 * Long random programs of several processes against a naive model, with every rule of the address space
 * checked after each step and nothing left in the end.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import { EFAULT, EINVAL, ENOMEM, errnoName } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { filePattern } from '../../src/mm/file.js';
import { mlock, munlock } from '../../src/mm/mlock.js';
import { useMm } from '../../src/mm/mm-struct.js';
import type { File } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { vmaEnd, vmaStart } from '../../src/mm/vma.js';
import {
  type Backing,
  modelAdvise,
  modelFork,
  modelGrow,
  modelLoad,
  modelLock,
  modelMap,
  modelMove,
  modelProtect,
  modelStore,
  modelUnmap,
  type Process,
} from '../support/mm-model.js';
import { at, bootTwoMmCpus, newSpace, pageAt, type Space } from '../support/space.js';

const PAGES = 16;
const FILE_PAGES = 9;
const FILE_ID = 77;

/** What an operation is about; each uses what it needs. A counterexample prints these. */
interface Step {
  readonly op: string;
  /** Which process, counted round those there are. */
  readonly by: number;
  readonly at: number;
  readonly pages: number;
  readonly to: number;
  readonly newPages: number;
  readonly prot: string;
  readonly kind: string;
  readonly advice: string;
  /** Which of two CPUs makes a load or store; the first makes all calls. */
  readonly cpu: number;
}

const ADVICE = {
  DONTNEED: uapi.MADV_DONTNEED,
  FREE: uapi.MADV_FREE,
  DONTFORK: uapi.MADV_DONTFORK,
  DOFORK: uapi.MADV_DOFORK,
  WIPEONFORK: uapi.MADV_WIPEONFORK,
  POPULATE_READ: uapi.MADV_POPULATE_READ,
  POPULATE_WRITE: uapi.MADV_POPULATE_WRITE,
} as const;

/** How often each operation ended in which way. */
const seen = new Map<string, number>();

function note(what: string): void {
  seen.set(what, (seen.get(what) ?? 0) + 1);
}

/** The real result is what the model expects. */
function assertResult(op: string, result: number, expected: number): void {
  assert.equal(errnoName(result), errnoName(expected), op);
  note(`${op} ${errnoName(result)}`);
}

/** A live process, real and model. */
interface Pair {
  readonly space: Space;
  readonly model: Process;
}

class World {
  readonly pairs: Pair[];
  readonly #first: Space;
  readonly #file: File;
  readonly #fileModel: Backing;
  #stored = 0;

  readonly #cpus: readonly [Cpu, Cpu];

  constructor(cpus: readonly [Cpu, Cpu]) {
    this.#cpus = cpus;
    this.#first = newSpace(cpus[0]);
    useMm(cpus[1], this.#first.mm);
    this.#file = this.#first.file(FILE_PAGES, FILE_ID);
    const untouched = (index: number): number => filePattern(FILE_ID, index);
    this.#fileModel = { pages: FILE_PAGES, contents: new Map(), untouched };
    this.pairs = [{ space: this.#first, model: new Map() }];
  }

  perform(step: Step): void {
    const pair = this.pairs[step.by % this.pairs.length]!;
    const action = this.#actions[step.op];
    assert.ok(action, step.op);
    action(step, pair);
    this.#first.check();
  }

  /** Every page of every process holds what it should, and nothing is left when all have ended. */
  end(): void {
    for (const { space, model } of this.pairs) {
      assert.equal(space.totalVm, model.size);
      for (const page of model.keys()) {
        for (const cpu of this.#cpus) this.#load(space, model, page, cpu);
      }
    }
    this.#first.end();
  }

  readonly #actions: Readonly<Record<string, (step: Step, pair: Pair) => void>> = {
    store: ({ at: page, cpu }, { space, model }) => {
      const value = ++this.#stored;
      const result = space.store(page, value, 0, this.#cpus[cpu]);
      assertResult('store', result, modelStore(model, page, value));
    },
    load: ({ at: page, cpu }, { space, model }) => {
      this.#load(space, model, page, this.#cpus[cpu]);
    },
    map: (step, { space, model }) => {
      const { at: page, pages, prot, kind } = step;
      const isFile = kind.includes('file');
      const shared = kind.includes('shared');
      const locked = kind.includes('locked');
      const populate = kind.includes('populate');
      const offset = isFile ? step.to : 0;
      const backing = isFile ? this.#fileModel : shared ? anonymousBacking(pages) : undefined;
      const flags =
        uapi.MAP_FIXED | (locked ? uapi.MAP_LOCKED : 0) | (populate ? uapi.MAP_POPULATE : 0);
      const file = isFile ? { file: this.#file, offset } : {};
      assert.equal(space.map(page, pages, { prot, shared, flags, ...file }), page);
      modelMap(model, page, pages, { prot, backing, shared, offset, locked, populate });
    },
    unmap: ({ at: page, pages }, { space, model }) => {
      assert.equal(space.unmap(page, pages), 0);
      modelUnmap(model, page, pages);
    },
    protect: ({ at: page, pages, prot }, { space, model }) => {
      const expected = modelProtect(model, page, pages, prot);
      assertResult('protect', space.protect(page, pages, prot), expected);
    },
    advise: ({ at: page, pages, advice }, { space, model }) => {
      const number = ADVICE[advice as keyof typeof ADVICE];
      const expected = modelAdvise(model, page, pages, number);
      assertResult(advice, space.advise(page, pages, number), expected);
    },
    lock: ({ at: page, pages }, { space, model }) => {
      const expected = modelLock(model, page, pages, true);
      const result = mlock(space.cpu, space.mm, at(page), pages * PAGE_SIZE, 0);
      assertResult('lock', result, expected);
    },
    unlock: ({ at: page, pages }, { space, model }) => {
      const expected = modelLock(model, page, pages, false);
      const result = munlock(space.cpu, space.mm, at(page), pages * PAGE_SIZE);
      assertResult('unlock', result, expected);
    },
    move: (step, pair) => {
      move(step, pair);
    },
    resize: (step, pair) => {
      resize(step, pair);
    },
    fork: (_, { space, model }) => {
      if (this.pairs.length >= 5) return;
      note('fork');
      const child = space.fork();
      useMm(this.#cpus[1], child.mm);
      this.pairs.push({ space: child, model: modelFork(model) });
    },
    exit: (_, pair) => {
      if (this.pairs.length === 1 || pair.space === this.#first) return;
      note('exit');
      this.pairs.splice(this.pairs.indexOf(pair), 1);
      pair.space.exit();
    },
  };

  #load(space: Space, model: Process, page: number, cpu = this.#cpus[0]): void {
    const expected = modelLoad(model, page);
    const error = space.tryLoad(page, 0, cpu);
    assert.equal(error === -EFAULT ? 'EFAULT' : cpu.loaded, expected, `page ${page}`);
  }
}

function anonymousBacking(pages: number): Backing {
  return { pages, contents: new Map(), untouched: () => 0 };
}

/** How many pages from here on are one VMA; 0 if none is here. */
function pagesOfVma(space: Space, page: number): number {
  const { cpu } = space;
  const va = at(page);
  const vma = space.vmas.find((one) => vmaStart(cpu, one) <= va && va < vmaEnd(cpu, one));
  return vma === undefined ? 0 : pageAt(vmaEnd(cpu, vma)) - page;
}

/** mremap to a fixed place, leaving the old mapping or not. */
function move({ at: from, pages, to, newPages, kind }: Step, { space, model }: Pair): void {
  const leaves = kind === 'anonymous';
  const length = leaves ? pages : newPages;
  const dontunmap = leaves ? uapi.MREMAP_DONTUNMAP : 0;
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED | dontunmap;
  const room = pagesOfVma(space, from);
  const result = space.remap(from, pages, length, flags, to);
  if (room === 0) {
    assert.equal(result, -EFAULT);
    return;
  }
  if (from + pages > to && to + length > from) {
    assert.equal(result, -EINVAL, 'overlap');
    return;
  }
  modelUnmap(model, to, length); // even if it fails then
  if (pages > length) modelUnmap(model, from + length, pages - length);
  if (Math.min(pages, length) > room) {
    assert.equal(result, -EFAULT, 'more than one mapping');
    note('not moved');
    return;
  }
  assert.equal(result, to);
  note(leaves ? 'left behind' : 'moved');
  const isPartLocked = leaves && model.get(from)?.locked === true;
  modelMove(model, from, Math.min(pages, length), to, length, leaves);
  if (isPartLocked) unlockVma(space, model, from);
}

/** Linux unlocks all of a mapping of which part is left behind. */
function unlockVma(space: Space, model: Process, page: number): void {
  const { cpu } = space;
  const vma = space.vmaOf(page);
  for (let one = pageAt(vmaStart(cpu, vma)); one < pageAt(vmaEnd(cpu, vma)); one++) {
    model.get(one)!.locked = false;
  }
}

/** mremap in place, or to wherever there is room. */
function resize({ at: page, pages, newPages, kind }: Step, { space, model }: Pair): void {
  const mayMove = kind.includes('shared');
  const room = pagesOfVma(space, page);
  const result = space.remap(page, pages, newPages, mayMove ? uapi.MREMAP_MAYMOVE : 0);
  if (room === 0) {
    assert.equal(result, -EFAULT);
  } else if (newPages <= pages) {
    assert.equal(result, page);
    modelUnmap(model, page + newPages, pages - newPages);
  } else if (pages > room) {
    assert.equal(result, -EFAULT, 'more than one mapping');
  } else if (pages === room && isFree(model, page + pages, newPages - pages)) {
    assert.equal(result, page);
    note('grown');
    modelGrow(model, page, pages, newPages);
  } else if (mayMove) {
    assert.ok(result > PAGES, `a new place: ${result}`);
    note('moved away');
    modelMove(model, page, pages, result, newPages, false);
  } else {
    assert.equal(result, -ENOMEM);
  }
}

function isFree(model: Process, page: number, pages: number): boolean {
  for (let i = 0; i < pages; i++) if (model.has(page + i)) return false;
  return true;
}

const weighted = (
  weight: number,
  op: string,
): { weight: number; arbitrary: fc.Arbitrary<string> } => ({
  weight,
  arbitrary: fc.constant(op),
});
const step: fc.Arbitrary<Step> = fc.record({
  op: fc.oneof(
    weighted(12, 'store'),
    weighted(5, 'load'),
    weighted(5, 'map'),
    weighted(3, 'unmap'),
    weighted(4, 'protect'),
    weighted(4, 'advise'),
    weighted(2, 'lock'),
    weighted(1, 'unlock'),
    weighted(4, 'move'),
    weighted(3, 'resize'),
    weighted(2, 'fork'),
    weighted(1, 'exit'),
  ),
  by: fc.nat({ max: 4 }),
  at: fc.nat({ max: PAGES - 1 }),
  pages: fc.integer({ min: 1, max: 6 }),
  to: fc.nat({ max: PAGES - 1 }),
  newPages: fc.integer({ min: 1, max: 8 }),
  prot: fc.constantFrom('rw', 'rw', 'rw', 'r', ''),
  kind: fc.constantFrom(
    'anonymous',
    'anonymous',
    'anonymous populate',
    'anonymous locked',
    'shared anonymous',
    'file',
    'shared file',
  ),
  advice: fc.constantFrom(...Object.keys(ADVICE)),
  cpu: fc.nat({ max: 1 }),
});

/** Pages that are mapped from the start: or most steps would find nothing. */
const FILLED: Step = {
  op: 'map',
  by: 0,
  at: 2,
  pages: 12,
  to: 0,
  newPages: 1,
  prot: 'rw',
  kind: 'anonymous',
  advice: 'FREE',
  cpu: 0,
};

describe('random programs do what the model does', () => {
  const cpus = bootTwoMmCpus(32 << 20);
  const run = (steps: readonly Step[]): void => {
    const world = new World(cpus);
    world.perform(FILLED);
    for (const one of steps) world.perform(one);
    world.end();
  };
  const options = { maxLength: 120, size: 'max' } as const;

  test('in one or a few processes', () => {
    fc.assert(fc.property(fc.array(step, options), run), { numRuns: 400 });
  });

  test('in one process', () => {
    const alone = step.map((one) => ({ ...one, op: one.op === 'fork' ? 'store' : one.op }));
    fc.assert(fc.property(fc.array(alone, options), run), { numRuns: 100 });
  });

  test('in which nearly everything happened that can', () => {
    const outcomes = [
      ...['store 0', 'store -EFAULT', 'protect 0', 'protect -ENOMEM', 'fork', 'exit'],
      ...['lock 0', 'lock -ENOMEM', 'unlock 0', 'unlock -ENOMEM', 'grown', 'moved', 'moved away'],
      ...['left behind', 'not moved', 'DONTNEED 0', 'DONTNEED -EINVAL', 'DONTNEED -ENOMEM'],
      ...['FREE 0', 'FREE -EINVAL', 'WIPEONFORK 0', 'DONTFORK 0', 'POPULATE_WRITE 0'],
      ...['POPULATE_WRITE -EINVAL', 'POPULATE_READ -ENOMEM', 'POPULATE_READ -EFAULT'],
    ];
    const rare = outcomes.filter((outcome) => !seen.has(outcome));
    assert.deepEqual(rare, [], JSON.stringify([...seen]));
  });

  test('and a store that goes nowhere is found', () => {
    const property = fc.property(fc.array(step, options), (steps) => {
      const world = new World(cpus);
      world.perform(FILLED);
      for (const one of steps) {
        world.perform(one);
        if (one.op === 'fork') world.pairs.at(-1)!.model.clear();
      }
      world.end();
    });
    const { failed, counterexample } = fc.check(property, { numRuns: 200 });
    assert.ok(failed);
    assert.ok(counterexample![0].length <= 3, 'and shrunk to a few steps');
  });
});
