import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read, readAddress, write, writeAddress } from '#memory';
import fc from 'fast-check';

import { CpuArea, Machine, Page } from '../../src/machine/types.js';
import {
  address,
  cacheline,
  CACHELINE_WORDS,
  containerOf,
  element,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import { createMemory, MemoryPort } from '../../src/memory/port.js';

const Inner = struct('inner', { first: word, where: address, last: word });
type Inner = Ptr<'inner'>;
const Outer = struct('outer', {
  flags: word,
  inner: Inner,
  table: words(3),
  next: pointer<'outer'>(),
  line1: cacheline,
  counter: word,
});
type Outer = Ptr<'outer'>;

test('each member is at the next index its alignment allows', () => {
  assert.deepEqual(
    [Inner.first, Inner.where, Inner.last].map(Number),
    [0, 2, 4],
    'an address starts at an even index',
  );
  assert.equal(Inner.words, 6, 'the size is a multiple of the alignment');
  assert.equal(Inner.alignment, 2);
  assert.deepEqual(
    [Outer.flags, Outer.inner, Outer.table, Outer.next, Outer.counter].map(Number),
    [0, 2, 8, 11, 16],
  );
  assert.equal(Outer.words, 32);
  assert.equal(Outer.alignment, CACHELINE_WORDS);
});

test('a struct without members is empty', () => {
  assert.equal(struct('nothing', {}).words, 0);
});

test('the list of members covers every word but the padding', () => {
  assert.deepEqual(Outer.members, [
    { name: 'flags', offset: 0, words: 1, type: 'word' },
    { name: 'inner', offset: 2, words: 6, type: 'inner' },
    { name: 'table', offset: 8, words: 3, type: 'words(3)' },
    { name: 'next', offset: 11, words: 1, type: 'pointer' },
    { name: 'counter', offset: 16, words: 1, type: 'word' },
  ]);
});

test('a member may not be named like a fact of the layout', () => {
  for (const name of ['words', 'alignment', 'structName', 'members']) {
    assert.throws(() => struct('clash', { [name]: word }), /clash.*reserved/);
  }
});

test('no member overlaps another or the end, whatever the members are', () => {
  const spec = fc.oneof(
    fc.constant(word),
    fc.constant(address),
    fc.constant(cacheline),
    fc.constant(pointer<'outer'>()),
    fc.integer({ min: 0, max: 40 }).map(words),
    fc.constant(Inner),
    fc.constant(Outer),
  );
  fc.assert(
    fc.property(fc.array(spec, { maxLength: 12 }), (specs) => {
      const layout = struct('any', Object.fromEntries(specs.map((s, i) => [`m${i}`, s])));
      let end = 0;
      for (const info of layout.members) {
        assert.ok(info.offset >= end, 'after the member before it');
        if (info.type === 'address') assert.equal(info.offset % 2, 0);
        if (info.type === 'outer') assert.equal(info.offset % CACHELINE_WORDS, 0);
        end = info.offset + info.words;
      }
      assert.ok(layout.words >= end);
      assert.equal(layout.words % layout.alignment, 0);
    }),
  );
});

test('containerOf undoes member', () => {
  const outer = 1600 as Outer;
  const inner: Inner = member(outer, Outer.inner);
  assert.equal(inner, 1602);
  assert.equal(containerOf(inner, Outer.inner), outer);
});

test('an embedded struct shares its words with the one around it', () => {
  const port = new MemoryPort(createMemory(4096));
  const outer = 64 as Outer;
  write(port, member(outer, Outer.inner), Inner.last, 7);
  assert.equal(port.words[outer + Outer.inner + Inner.last], 7);
  write(port, outer, element(Outer.table, 2), 9);
  assert.equal(port.words[outer + Outer.table + 2], 9);
});

test('an address holds 48 bits exactly', () => {
  const port = new MemoryPort(createMemory(4096));
  const inner = 64 as Inner;
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (va) => {
      writeAddress(port, inner, Inner.where, va);
      assert.equal(readAddress(port, inner, Inner.where), va);
    }),
  );
});

test('what different CPUs write apart is in different cache lines', () => {
  assert.equal(CpuArea.words % CACHELINE_WORDS, 0);
  assert.equal(Page.words % CACHELINE_WORDS, 0);
  const line = (offset: number): number => Math.floor(offset / CACHELINE_WORDS);
  const lines = [
    CpuArea.state,
    CpuArea.translation,
    CpuArea.waitKind,
    CpuArea.waitEntries,
    Machine.halted,
    Machine.arrived,
    Machine.started,
  ].map(line);
  assert.equal(new Set(lines.slice(0, 4)).size, 4, 'parts of a CPU area');
  assert.equal(new Set(lines.slice(4)).size, 3, 'parts of the machine');
});

test('the usual mistakes with pointers and fields do not compile', () => {
  const port = new MemoryPort(createMemory(4096));
  const outer = 64 as Outer;
  const inner = member(outer, Outer.inner);
  // @ts-expect-error a field of another struct
  read(port, outer, Inner.first);
  // @ts-expect-error a bare number as a pointer
  read(port, 64, Outer.flags);
  // @ts-expect-error an address read as a word
  read(port, inner, Inner.where);
  // @ts-expect-error a word read as an address
  readAddress(port, inner, Inner.first);
  // @ts-expect-error an array read as a word
  read(port, outer, Outer.table);
  // @ts-expect-error a number stored into a pointer
  write(port, outer, Outer.next, 5);
  // @ts-expect-error a pointer to another struct stored into a pointer
  write(port, outer, Outer.next, inner);
  // @ts-expect-error a member that is no struct
  member(outer, Outer.flags);
  // @ts-expect-error the container of another struct
  containerOf(outer, Outer.inner);
  // @ts-expect-error a pointer to another struct
  const wrong: Outer = inner;
  assert.equal(wrong, inner);
  write(port, outer, Outer.next, NULL); // NULL goes everywhere
  const followed: Outer = read(port, outer, Outer.next);
  assert.equal(followed, 0);
});
