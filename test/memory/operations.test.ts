import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as memory from '#memory';
import fc from 'fast-check';

import { type Field, type Ptr, struct, words } from '../../src/memory/layout.js';
import type { AtomicsForm } from '../../src/memory/native.js';
import { createMemory, MemoryPort } from '../../src/memory/port.js';

const Area = struct('area', { data: words(64) });
type Area = Ptr<'area'>;
const AT = 64 as Area;
const CELLS = 8;
const WORDS = 2 * CELLS;

const fresh = (form: AtomicsForm): MemoryPort => new MemoryPort(createMemory(4096, form));
const fieldAt = (index: number): Field<'area'> => (Area.data + index) as Field<'area'>;

type Step = readonly [operation: string, index: number, value: number, other: number];

/** One operation on a word, by name; what it returns, if anything. */
function perform(port: MemoryPort, [operation, index, value, other]: Step): number {
  const field = fieldAt(index);
  switch (operation) {
    case 'read':
      return memory.read(port, AT, field);
    case 'readOnce':
      return memory.readOnce(port, AT, field);
    case 'loadAcquire':
      return memory.loadAcquire(port, AT, field);
    case 'write':
      memory.write(port, AT, field, value);
      return 0;
    case 'writeOnce':
      memory.writeOnce(port, AT, field, value);
      return 0;
    case 'storeRelease':
      memory.storeRelease(port, AT, field, value);
      return 0;
    case 'fetchAdd':
      return memory.fetchAdd(port, AT, field, value);
    case 'fetchOr':
      return memory.fetchOr(port, AT, field, value);
    case 'fetchAnd':
      return memory.fetchAnd(port, AT, field, value);
    case 'exchange':
      return memory.exchange(port, AT, field, value);
    case 'cmpxchg':
      return memory.cmpxchg(port, AT, field, other, value);
    default:
      throw new Error(operation);
  }
}

/** What the operation is to do, on a plain array. */
function model(data: Int32Array, [operation, index, value, other]: Step): number {
  const before = data[index]!;
  switch (operation) {
    case 'write':
    case 'writeOnce':
    case 'storeRelease':
      data[index] = value;
      return 0;
    case 'fetchAdd':
      data[index] = before + value;
      break;
    case 'fetchOr':
      data[index] = before | value;
      break;
    case 'fetchAnd':
      data[index] = before & value;
      break;
    case 'exchange':
      data[index] = value;
      break;
    case 'cmpxchg':
      if (before === other) data[index] = value;
      break;
  }
  return before;
}

const OPERATIONS =
  'read readOnce loadAcquire write writeOnce storeRelease fetchAdd fetchOr fetchAnd exchange cmpxchg';
const someWord = fc.oneof(
  fc.integer({ min: -2, max: 2 }), // so that cmpxchg meets what it expects
  fc.constantFrom(-0x80000000, 0x7fffffff),
  fc.integer({ min: -0x80000000, max: 0x7fffffff }),
);
const step: fc.Arbitrary<Step> = fc.tuple(
  fc.constantFrom(...OPERATIONS.split(' ')),
  fc.nat(3),
  someWord,
  someWord,
);

for (const form of ['wasm', 'js'] as const) {
  test(`${form}: every operation on a word does what it says`, () => {
    const port = fresh(form);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        memory.fillWords(port, AT, 0, WORDS);
        const data = new Int32Array(WORDS);
        for (const one of steps) {
          assert.equal(perform(port, one), model(data, one), one.join(' '));
          assert.deepEqual([...port.words.subarray(AT, AT + WORDS)], [...data], one.join(' '));
        }
      }),
      { numRuns: 300 },
    );
  });

  test(`${form}: fillWords repeats a byte, copyWords copies also onto itself`, () => {
    const port = fresh(form);
    memory.fillWords(port, AT + 2, 0x6b, 3);
    assert.deepEqual(
      [...port.words.subarray(AT, AT + 6)],
      [0, 0, 0x6b6b6b6b, 0x6b6b6b6b, 0x6b6b6b6b, 0],
    );
    memory.fillWords(port, AT, 0xff, 1);
    assert.equal(memory.read(port, AT, fieldAt(0)), -1);
    for (let i = 0; i < 8; i++) port.words[AT + i] = i;
    memory.copyWords(port, AT + 2, AT, 4);
    assert.deepEqual([...port.words.subarray(AT, AT + 8)], [0, 1, 0, 1, 2, 3, 6, 7]);
    memory.copyWords(port, AT, AT + 2, 4);
    assert.deepEqual([...port.words.subarray(AT, AT + 8)], [0, 1, 2, 3, 2, 3, 6, 7]);
  });

  test(`${form}: cells are copied, and taken, one by one and none beside them`, () => {
    const port = fresh(form);
    const to = AT + 32;
    const cells = fc.array(someWord, { minLength: WORDS, maxLength: WORDS });
    fc.assert(
      fc.property(cells, fc.integer({ min: 1, max: CELLS }), fc.nat(2), (data, count, what) => {
        memory.fillWords(port, to, 0xee, WORDS + 2);
        port.words.set(data, AT);
        const copy = [memory.readOnceCells, memory.writeOnceCells, memory.takeCells][what]!;
        copy(port, to, AT, count);
        const moved = [...port.words.subarray(to, to + WORDS + 2)];
        assert.deepEqual(moved.slice(0, 2 * count), data.slice(0, 2 * count));
        assert.ok(moved.slice(2 * count).every((word) => word === (0xeeeeeeee | 0)));
        const left = data.map((word, i) => (what === 2 && i < 2 * count ? 0 : word));
        assert.deepEqual([...port.words.subarray(AT, AT + WORDS)], left);
      }),
    );
  });

  test(`${form}: readOnceLinks follows three tables, and ends at a link that is 0`, () => {
    const port = fresh(form);
    const [top, middle, low, end] = [1024, 2048, 3072, 0];
    port.words[top + 2 * 5] = middle | 0x3ff; // the low 10 bits of a link are flags
    port.words[middle + 2 * 511] = low | 1;
    port.words[low] = top;
    assert.equal(memory.readOnceLinks(port, top, 5, 511, 0), top);
    assert.equal(memory.readOnceLinks(port, top, 5, 511, 1), end);
    assert.equal(memory.readOnceLinks(port, top, 5, 510, 0), end);
    assert.equal(memory.readOnceLinks(port, top, 6, 511, 0), end);
  });

  test(`${form}: readOnceCellsWhile copies up to the first cell that is different`, () => {
    const bits = fc.integer({ min: 0, max: 7 });
    const firstWords = fc.array(fc.integer(), { minLength: CELLS, maxLength: CELLS });
    const property = fc.property(
      firstWords,
      bits,
      bits,
      fc.integer(),
      (words, test, same, keep) => {
        const port = fresh(form);
        const match = test & same;
        words.forEach((word, i) => {
          port.words.set([word, ~i], AT + 2 * i);
        });
        const to = AT + 4 * CELLS;
        const copied = memory.readOnceCellsWhile(port, to, AT, CELLS, test, match, keep);
        const different = words.findIndex((word) => (word & test) !== match);
        assert.equal(copied, different < 0 ? CELLS : different);
        const expected = words.flatMap((word, i) => (i < copied ? [word & keep, ~i] : [0, 0]));
        assert.deepEqual([...port.words.subarray(to, to + WORDS)], expected);
      },
    );
    fc.assert(property, { numRuns: 300 });
  });

  test(`${form}: changeCells changes the first words that match, and nothing else`, () => {
    const bits = fc.integer({ min: 0, max: 15 });
    const firstWords = fc.array(fc.integer(), { minLength: CELLS, maxLength: CELLS });
    const property = fc.property(
      firstWords,
      ...([bits, bits, bits, bits, bits] as const),
      (words, test, same, settled, clear, set) => {
        const port = fresh(form);
        const match = test & same;
        words.forEach((word, i) => {
          port.words.set([word, ~i], AT + 2 * i);
        });
        memory.changeCells(port, AT, CELLS - 1, test, match, settled, clear, set);
        const expected = words.flatMap((word, i) => {
          const changes = i < CELLS - 1 && (word & test) === match;
          return [changes ? (word & ~clear) | set : word, ~i];
        });
        assert.deepEqual([...port.words.subarray(AT, AT + WORDS)], expected);
        assert.equal(port.words[AT + WORDS], 0);
      },
    );
    fc.assert(property, { numRuns: 300 });
  });

  test(`${form}: park returns at once if the word differs, and after the time if nobody wakes`, () => {
    const port = fresh(form);
    assert.equal(memory.park(port, AT, fieldAt(0), 1, Infinity), false);
    assert.equal(memory.park(port, AT, fieldAt(0), 0, 1), false);
    assert.equal(memory.unpark(port, AT, fieldAt(0), 1), 0, 'nobody is parked');
  });

  test(`${form}: parkAsync answers what park would`, async () => {
    const port = fresh(form);
    assert.equal(await memory.parkAsync(port, AT, fieldAt(0), 1, 1000), false);
    const woken = memory.parkAsync(port, AT, fieldAt(0), 0, 60_000);
    assert.equal(memory.unpark(port, AT, fieldAt(0), 1), 1);
    assert.equal(await woken, true);
  });
}

test('both forms of the operations work on the same memory', () => {
  const handle = createMemory(4096, 'wasm');
  const wasm = new MemoryPort(handle);
  const js = new MemoryPort({ ...handle, atomics: 'js' });
  memory.fetchAdd(wasm, AT, fieldAt(0), 3);
  memory.fetchAdd(js, AT, fieldAt(0), 4);
  assert.equal(memory.readOnce(wasm, AT, fieldAt(0)), 7);
});

test('memory has a fixed size, at least the one asked for, and starts zeroed', () => {
  const { memory: shared } = createMemory(20_000);
  const data = new Int32Array(shared.buffer);
  assert.ok(data.length >= 20_000);
  assert.equal(shared.buffer.growable, false);
  assert.ok(data.every((word) => word === 0));
});
