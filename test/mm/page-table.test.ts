/**
 * Page tables: the walk, addresses of all sizes, who gets which lock, and what munmap gives back.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, readOnce } from '#memory';
import fc from 'fast-check';

import { PAGE_SIZE, TASK_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { freeFrameCount, pfnOfWord } from '../../src/machine/page-alloc.js';
import { member, NULL, type Va } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { mmAlloc } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { munmap } from '../../src/mm/munmap.js';
import {
  hasPmdTable,
  hasPudTable,
  nextPopulated,
  pageHigh,
  pageLow,
  PGDIR_SIZE,
  PMD_SIZE,
  pmdAddrEnd,
  pteAlloc,
  pteLockptr,
  pteOf,
  PUD_SIZE,
} from '../../src/mm/page-table.js';
import { NO_PTE, Pte } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from '../../src/mm/uapi.js';
import { framesAccountedFor } from '../../src/workloads/leak.js';
import { bootMmCpu, inSpace, newSpace, type Space } from '../support/space.js';

/** Borders between tables of every level, and the ends of the address space. */
const BORDERS: readonly Va[] = [
  PMD_SIZE,
  PUD_SIZE,
  PGDIR_SIZE,
  5 * PGDIR_SIZE + 3 * PUD_SIZE + 7 * PMD_SIZE,
  2 ** 32,
  2 ** 40,
  2 ** 46,
];
const PLACES: readonly Va[] = [
  0,
  ...BORDERS.flatMap((border) => [border - PAGE_SIZE, border]),
  TASK_SIZE - PAGE_SIZE,
];

/** A pgd of a space that maps nothing, and the lock that new tables need. */
function emptyTables(): { cpu: Cpu; mm: MmStruct; alloc: (va: Va) => Pte } {
  const cpu = bootMmCpu();
  const mm = mmAlloc(cpu);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const lock = member(mm, MmStruct.pageTableLock);
  return { cpu, mm, alloc: (va) => pteAlloc(cpu, pgd, lock, va) };
}

function mapAt({ cpu, mm }: Space, va: Va, pages: number): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const prot = PROT_READ | PROT_WRITE;
  assert.equal(mmap(cpu, mm, va, pages * PAGE_SIZE, prot, flags, NULL, 0), va);
}

describe('a virtual page number', () => {
  test('is the upper 9 bits and the lower 27', () => {
    const address = fc.nat({ max: 2 ** 36 - 1 });
    fc.assert(
      fc.property(address, (page) => {
        const va = page * PAGE_SIZE;
        assert.equal(pageHigh(va), Math.floor(page / 2 ** 27));
        assert.equal(pageLow(va), page % 2 ** 27);
        assert.equal(pageHigh(va + PAGE_SIZE - 1), pageHigh(va));
        assert.equal(pageLow(va + PAGE_SIZE - 1), pageLow(va));
      }),
    );
  });

  test('of the last page of 48 bits fits', () => {
    assert.equal(pageHigh(2 ** 48 - 1), 511);
    assert.equal(pageLow(2 ** 48 - 1), 2 ** 27 - 1);
  });
});

describe('the walk', () => {
  test('finds nothing where nothing was made, and makes nothing', () => {
    const { cpu, mm } = emptyTables();
    const pgd = read(cpu, mm, MmStruct.pgd);
    const before = freeFrameCount(cpu);
    for (const va of PLACES) assert.equal(pteOf(cpu, pgd, va), NO_PTE);
    assert.equal(freeFrameCount(cpu), before);
  });

  test('finds the entry that was made, and the same again', () => {
    const { cpu, mm, alloc } = emptyTables();
    const pgd = read(cpu, mm, MmStruct.pgd);
    const made = PLACES.map(alloc);
    assert.equal(new Set(made).size, PLACES.length, 'each page has an entry of its own');
    PLACES.forEach((va, i) => {
      assert.notEqual(made[i], NO_PTE);
      assert.equal(pteOf(cpu, pgd, va), made[i]);
      assert.equal(alloc(va), made[i]);
      assert.equal(readOnce(cpu, made[i]!, Pte.entry), 0, 'a new entry is empty');
    });
  });

  test('has the entries of one table in a row, and other tables elsewhere', () => {
    const { cpu, alloc } = emptyTables();
    for (const border of BORDERS) {
      const first = alloc(border);
      assert.equal(alloc(border + PAGE_SIZE), first + Pte.words);
      assert.equal(alloc(border + PMD_SIZE - PAGE_SIZE), first + 511 * Pte.words);
      assert.notEqual(pfnOfWord(cpu, alloc(border - PAGE_SIZE)), pfnOfWord(cpu, first));
    }
  });

  test('says which levels exist', () => {
    const { cpu, mm, alloc } = emptyTables();
    const pgd = read(cpu, mm, MmStruct.pgd);
    const va = 2 * PGDIR_SIZE + 3 * PUD_SIZE + 4 * PMD_SIZE;
    assert.equal(hasPudTable(cpu, pgd, va), false);
    assert.equal(hasPmdTable(cpu, pgd, va), false);
    alloc(va);
    assert.equal(hasPudTable(cpu, pgd, va + PGDIR_SIZE - 3 * PUD_SIZE - 4 * PMD_SIZE - 1), true);
    assert.equal(hasPmdTable(cpu, pgd, va + PMD_SIZE), true);
    assert.equal(hasPmdTable(cpu, pgd, va + PUD_SIZE), false);
    assert.equal(hasPudTable(cpu, pgd, va + PGDIR_SIZE), false);
  });

  test('makes nothing when memory is out, and what it began can be finished later', () => {
    const space = newSpace(bootMmCpu(1 << 20));
    const { cpu, mm } = space;
    mapAt(space, 0x10000, 200);
    for (let page = 0; page < 200; page++) storeWord(cpu, mm, 0x10000 + page * PAGE_SIZE, 1);
    const frames: number[] = [];
    mapAt(space, 2 ** 40, 1);
    while (freeFrameCount(cpu) > 2) {
      mapAt(space, 2 ** 41 + frames.length * PAGE_SIZE, 1);
      storeWord(cpu, mm, 2 ** 41 + frames.length * PAGE_SIZE, 1);
      frames.push(1);
    }
    assert.equal(storeWord(cpu, mm, 2 ** 40, 1), -12);
    assert.equal(munmap(cpu, mm, 0x10000, 200 * PAGE_SIZE), 0);
    assert.equal(storeWord(cpu, mm, 2 ** 40, 1), 0);
    space.end();
  });
});

test('each last-level table has a lock of its own', () => {
  const { cpu, alloc } = emptyTables();
  const lock = pteLockptr(cpu, alloc(PUD_SIZE));
  assert.equal(pteLockptr(cpu, alloc(PUD_SIZE + PMD_SIZE - PAGE_SIZE)), lock);
  assert.notEqual(pteLockptr(cpu, alloc(PUD_SIZE + PMD_SIZE)), lock);
  assert.notEqual(pteLockptr(cpu, alloc(PUD_SIZE - PAGE_SIZE)), lock);
});

test('the end of a table is found, or the end that comes before', () => {
  assert.equal(pmdAddrEnd(0, 2 ** 40), PMD_SIZE);
  assert.equal(pmdAddrEnd(PMD_SIZE - PAGE_SIZE, 2 ** 40), PMD_SIZE);
  assert.equal(pmdAddrEnd(PMD_SIZE, 2 ** 40), 2 * PMD_SIZE);
  assert.equal(pmdAddrEnd(PGDIR_SIZE - PAGE_SIZE, 2 ** 40), PGDIR_SIZE);
  assert.equal(pmdAddrEnd(PMD_SIZE, PMD_SIZE + PAGE_SIZE), PMD_SIZE + PAGE_SIZE);
});

test('the next table that exists is found across all levels', () => {
  const { cpu, mm, alloc } = emptyTables();
  const pgd = read(cpu, mm, MmStruct.pgd);
  const tables = BORDERS.map((border) => Math.floor(border / PMD_SIZE) * PMD_SIZE);
  tables.sort((a, b) => a - b).forEach(alloc);
  const address = fc.oneof(
    fc.nat({ max: 2 ** 35 }).map((page) => page * PAGE_SIZE),
    fc
      .tuple(fc.constantFrom(...tables), fc.integer({ min: -3, max: 3 }))
      .map(([va, by]) => Math.max(0, va + (by * PMD_SIZE) / 2)),
  );
  fc.assert(
    fc.property(address, address, (one, other) => {
      const [start, end] = [Math.min(one, other), Math.max(one, other)];
      const inside = tables.find((table) => start < table + PMD_SIZE && table < end);
      const expected = inside === undefined ? end : Math.max(start, inside);
      assert.equal(nextPopulated(cpu, pgd, start, end), Math.min(expected, end));
    }),
    { numRuns: 500 },
  );
});

describe('stores and loads', () => {
  test(
    'reach pages of their own at every border',
    inSpace((space) => {
      const { cpu, mm } = space;
      for (const va of PLACES) mapAt(space, va, 1);
      PLACES.forEach((va, i) => {
        assert.equal(storeWord(cpu, mm, va, i + 1), 0);
        assert.equal(storeWord(cpu, mm, va + PAGE_SIZE - 4, -i - 1), 0);
      });
      PLACES.forEach((va, i) => {
        assert.equal(loadWord(cpu, mm, va), 0);
        assert.equal(cpu.loaded, i + 1);
        assert.equal(loadWord(cpu, mm, va + PAGE_SIZE - 4), 0);
        assert.equal(cpu.loaded, -i - 1);
      });
    }),
  );

  test(
    'do not confuse pages whose numbers agree in their lower bits',
    inSpace((space) => {
      const { cpu, mm } = space;
      const places = [0, 1, 2, 3, 100].map((n) => 2 ** 20 + n * PGDIR_SIZE);
      for (const va of places) mapAt(space, va, 1);
      for (const round of [1, 2]) {
        places.forEach((va, i) => {
          assert.equal(storeWord(cpu, mm, va, 10 * round + i), 0);
        });
        places.forEach((va, i) => {
          loadWord(cpu, mm, va);
          assert.equal(cpu.loaded, 10 * round + i);
        });
      }
    }),
  );
});

describe('munmap gives back the tables', () => {
  test(
    'of what was mapped alone, at every border',
    inSpace((space) => {
      const { cpu, mm } = space;
      for (const va of PLACES) {
        const before = framesAccountedFor(cpu);
        mapAt(space, va, 1);
        storeWord(cpu, mm, va, 1);
        assert.equal(framesAccountedFor(cpu), before - 4, 'three tables and a frame');
        assert.equal(munmap(cpu, mm, va, PAGE_SIZE), 0);
        assert.equal(framesAccountedFor(cpu), before);
      }
    }),
  );

  test(
    'but not those that a neighbour uses',
    inSpace((space) => {
      const { cpu, mm } = space;
      for (const va of BORDERS) {
        mapAt(space, va - 2 * PAGE_SIZE, 4);
        for (const page of [-2, -1, 0, 1]) storeWord(cpu, mm, va + page * PAGE_SIZE, page);
        const pgd = read(cpu, mm, MmStruct.pgd);
        const before = framesAccountedFor(cpu);
        assert.equal(munmap(cpu, mm, va - PAGE_SIZE, 2 * PAGE_SIZE), 0);
        assert.equal(framesAccountedFor(cpu), before + 2, 'two frames and no table');
        for (const page of [-2, 1]) {
          assert.notEqual(pteOf(cpu, pgd, va + page * PAGE_SIZE), NO_PTE);
          loadWord(cpu, mm, va + page * PAGE_SIZE);
          assert.equal(cpu.loaded, page);
        }
        munmap(cpu, mm, va - 2 * PAGE_SIZE, PAGE_SIZE);
        assert.equal(pteOf(cpu, pgd, va - 2 * PAGE_SIZE), NO_PTE, 'the lower side alone');
        assert.notEqual(pteOf(cpu, pgd, va + PAGE_SIZE), NO_PTE);
        munmap(cpu, mm, va + PAGE_SIZE, PAGE_SIZE);
      }
    }),
  );

  test(
    'of a neighbour that was mapped and never touched as little',
    inSpace((space) => {
      const { cpu, mm } = space;
      mapAt(space, PUD_SIZE, 1);
      mapAt(space, PUD_SIZE + PMD_SIZE / 2, 1);
      storeWord(cpu, mm, PUD_SIZE, 1);
      munmap(cpu, mm, PUD_SIZE, PAGE_SIZE);
      const pgd = read(cpu, mm, MmStruct.pgd);
      assert.notEqual(pteOf(cpu, pgd, PUD_SIZE), NO_PTE);
    }),
  );

  test(
    'of more than a batch of them at once',
    inSpace((space) => {
      const { cpu, mm } = space;
      const tables = 300;
      const before = framesAccountedFor(cpu);
      mapAt(space, PUD_SIZE, (tables * PMD_SIZE) / PAGE_SIZE);
      for (let i = 0; i < tables; i++) storeWord(cpu, mm, PUD_SIZE + i * PMD_SIZE, i);
      assert.equal(framesAccountedFor(cpu), before - 2 * tables - 2);
      assert.equal(munmap(cpu, mm, PUD_SIZE, tables * PMD_SIZE), 0);
      assert.equal(framesAccountedFor(cpu), before);
    }),
  );

  test(
    'and more frames than a batch of one table',
    inSpace((space) => {
      const { cpu, mm } = space;
      const before = framesAccountedFor(cpu);
      mapAt(space, PMD_SIZE - 300 * PAGE_SIZE, 1200);
      for (let i = -300; i < 900; i++) storeWord(cpu, mm, PMD_SIZE + i * PAGE_SIZE, i);
      assert.equal(space.rss, 1200);
      assert.equal(munmap(cpu, mm, PMD_SIZE - 300 * PAGE_SIZE, 1200 * PAGE_SIZE), 0);
      assert.equal(space.rss, 0);
      assert.equal(framesAccountedFor(cpu), before);
    }),
  );
});
