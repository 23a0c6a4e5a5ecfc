/**
 * What each operation tells the notifiers: which event, for which range, in which order, and when.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { PAGE_SIZE } from '../../src/base/units.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { mlock, munlock } from '../../src/mm/mlock.js';
import { changeProtNuma } from '../../src/mm/numa-hint.js';
import { PMD_SIZE } from '../../src/mm/page-table.js';
import * as uapi from '../../src/mm/uapi.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { Recorder } from '../support/event-recorder.js';
import { at, inSpace, type Space } from '../support/space.js';

const BLOCK = PMD_SIZE / PAGE_SIZE;

/** Runs a body on a space of which all is recorded. */
function recorded(body: (space: Space, recorder: Recorder) => void): () => void {
  return inSpace((space) => {
    const recorder = new Recorder(space);
    body(space, recorder);
    recorder.end();
  });
}

function filled(space: Space, first: number, pages: number): void {
  space.map(first, pages);
  for (let page = first; page < first + pages; page++) space.store(page, page);
}

describe('nothing is told', () => {
  test(
    'when a page becomes present, or writable for its only owner',
    recorded((space, recorder) => {
      const file = space.file(2);
      space.map(0, 2);
      space.load(0);
      space.store(1, 1);
      space.map(2, 2, { file, shared: true });
      space.load(2);
      space.store(2, 1);
      space.store(3, 1);
      space.map(4, 2, { file });
      space.load(4);
      space.store(5, 1);
      const child = space.fork();
      recorder.take();
      child.exit();
      space.store(1, 2);
      assert.deepEqual(recorder.take(), []);
    }),
  );

  test(
    'of mmap in a free place, brk upwards, mlock, and advice that is only remembered',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      space.map(4, 2, { flags: uapi.MAP_FIXED | uapi.MAP_POPULATE });
      mlock(space.cpu, space.mm, at(0), PAGE_SIZE, 0);
      munlock(space.cpu, space.mm, at(0), PAGE_SIZE);
      for (const advice of [
        uapi.MADV_RANDOM,
        uapi.MADV_DONTFORK,
        uapi.MADV_WILLNEED,
        uapi.MADV_COLD,
      ]) {
        space.advise(0, 1, advice);
      }
      assert.deepEqual(recorder.take(), []);
    }),
  );

  test(
    'of a call that is refused',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      space.remap(0, 2, 4);
      space.map(4, 1, { flags: uapi.MAP_FIXED_NOREPLACE });
      recorder.take();
      assert.ok(space.map(0, 1, { flags: uapi.MAP_FIXED_NOREPLACE }) < 0);
      assert.ok(space.advise(0, 1, uapi.MADV_REMOVE) < 0);
      assert.ok(space.protect(30, 1, 'r') < 0);
      assert.ok(space.move(0, 2, 1) < 0);
      assert.deepEqual(recorder.take(), []);
    }),
  );
});

describe('munmap tells UNMAP', () => {
  test(
    'once, for all of its range, over several mappings and holes',
    recorded((space, recorder) => {
      filled(space, 0, 3);
      space.map(4, 2, { prot: 'r' });
      space.map(10, 1);
      assert.equal(space.unmap(1, 8), 0);
      assert.deepEqual(recorder.take(), ['UNMAP 1-9']);
    }),
  );

  test(
    'for memory that was never touched, but not for a hole',
    recorded((space, recorder) => {
      space.map(0, 2);
      space.unmap(0, 1);
      assert.deepEqual(recorder.take(), ['UNMAP 0-1']);
      space.unmap(5, 2);
      assert.deepEqual(recorder.take(), []);
    }),
  );

  test(
    'for what MAP_FIXED replaces, and what brk gives up',
    recorded((space, recorder) => {
      filled(space, 0, 4);
      space.map(1, 4);
      assert.deepEqual(recorder.take(), ['UNMAP 1-5']);
    }),
  );

  test(
    'before the pages go',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      let seen: string[] = [];
      recorder.onEvent = () => {
        seen = space.entries(0, 2);
      };
      space.unmap(0, 2);
      assert.deepEqual(seen, ['anon rw', 'anon rw']);
    }),
  );
});

describe('CLEAR', () => {
  test(
    'is told of the one page that a copy replaces, before it is replaced',
    recorded((space, recorder) => {
      filled(space, 0, 3);
      const child = space.fork();
      recorder.take();
      const old = space.entry(1);
      recorder.onEvent = () => {
        assert.deepEqual(space.entry(1), old);
      };
      space.store(1, 9);
      assert.deepEqual(recorder.take(), ['CLEAR 1-2']);
      assert.notEqual(space.entry(1).pfn, old.pfn);
      child.store(2, 9);
      assert.deepEqual(recorder.take(), [], 'the child is another address space');
    }),
  );

  test(
    'is told when the zero page, or the page of a file, gives way',
    recorded((space, recorder) => {
      space.map(0, 1);
      space.load(0);
      space.store(0, 1);
      assert.deepEqual(recorder.take(), ['CLEAR 0-1']);
      space.map(1, 1, { file: space.file(1) });
      space.load(1);
      assert.deepEqual(recorder.take(), []);
      space.store(1, 1);
      assert.deepEqual(recorder.take(), ['CLEAR 1-2']);
    }),
  );

  test(
    'is told by DONTNEED and FREE, for the part that lies in each mapping',
    recorded((space, recorder) => {
      filled(space, 0, 3);
      space.map(3, 2, { prot: 'r' });
      space.map(6, 2);
      assert.ok(space.advise(1, 6, uapi.MADV_DONTNEED) < 0);
      assert.deepEqual(recorder.take(), ['CLEAR 1-3', 'CLEAR 3-5', 'CLEAR 6-7']);
      space.advise(0, 5, uapi.MADV_FREE);
      assert.deepEqual(recorder.take(), ['CLEAR 0-3', 'CLEAR 3-5']);
    }),
  );

  test(
    'is told of a block of 2 MiB that a split cuts, if it has tables',
    recorded((space, recorder) => {
      space.map(8, 3 * BLOCK);
      space.protect(8 + BLOCK + 5, 4, 'r');
      assert.deepEqual(recorder.take(), []);
      space.store(8, 1);
      space.unmap(8 + 5, 1);
      assert.deepEqual(recorder.take(), [`CLEAR 8-${8 + BLOCK}`, 'UNMAP 13-14']);
      space.protect(8 + 2 * BLOCK, BLOCK, '');
      assert.deepEqual(
        recorder.take().filter((event) => event.startsWith('CLEAR')),
        [],
        'a border between blocks cuts none',
      );
    }),
  );
});

describe('mprotect tells PROTECTION_VMA', () => {
  test(
    'for each mapping that changes and has tables',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      space.map(2, 2, { prot: 'r' });
      space.map(4, 2);
      space.protect(1, 4, 'r');
      assert.deepEqual(recorder.take(), ['PROTECTION_VMA 1-2', 'PROTECTION_VMA 4-5']);
      space.protect(1, 1, 'r');
      assert.deepEqual(recorder.take(), [], 'no change');
    }),
  );

  test(
    'not where there are no tables, and from the first on',
    recorded((space, recorder) => {
      const gigabyte = 512 * BLOCK;
      space.map(8, 3 * gigabyte);
      space.protect(8, 3 * gigabyte, 'r');
      assert.deepEqual(recorder.take(), []);
      space.protect(8, 3 * gigabyte, 'rw');
      space.store(8 + gigabyte + 100, 1);
      space.protect(8, 3 * gigabyte, 'r');
      assert.deepEqual(recorder.take(), [`PROTECTION_VMA ${8 + gigabyte}-${8 + 3 * gigabyte}`]);
    }),
  );

  test(
    'in parts, where the top table begins a new entry',
    recorded((space, recorder) => {
      filled(space, 6, 4);
      space.protect(6, 4, 'r');
      assert.deepEqual(recorder.take(), ['PROTECTION_VMA 6-8', 'PROTECTION_VMA 8-10']);
    }),
  );

  test(
    'before the rights go',
    recorded((space, recorder) => {
      filled(space, 0, 1);
      recorder.onEvent = () => {
        assert.deepEqual(space.entries(0, 1), ['anon rw']);
      };
      space.protect(0, 1, 'r');
      assert.deepEqual(recorder.take(), ['PROTECTION_VMA 0-1']);
    }),
  );

  test(
    'and a hint does, too',
    recorded((space, recorder) => {
      const { cpu, mm } = space;
      filled(space, 0, 2);
      const range = stackPush(cpu, MmuNotifierRange);
      mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, at(0), at(2));
      changeProtNuma(cpu, mm, range);
      stackPop(cpu, range);
      assert.deepEqual(recorder.take(), ['PROTECTION_VMA 0-2']);
      space.load(0);
      assert.deepEqual(recorder.take(), []);
    }),
  );
});

describe('fork tells PROTECTION_PAGE', () => {
  test(
    'for each private mapping with pages of its own, to the parent alone',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      space.map(2, 2, { prot: 'r' });
      space.map(4, 2, { shared: true });
      space.store(4, 1);
      filled(space, 6, 2);
      space.protect(6, 2, '');
      filled(space, 10, 1);
      space.advise(10, 1, uapi.MADV_DONTFORK);
      filled(space, 12, 1);
      space.advise(12, 1, uapi.MADV_WIPEONFORK);
      recorder.take();
      recorder.onEvent = () => {
        if (space.entry(0).rights !== 'r') assert.deepEqual(space.entries(0, 1), ['anon rw']);
      };
      const child = space.fork();
      assert.deepEqual(recorder.take(), ['PROTECTION_PAGE 0-2', 'PROTECTION_PAGE 6-8']);
      child.store(0, 5);
      child.unmap(0, 20);
      child.exit();
      assert.deepEqual(recorder.take(), []);
    }),
  );
});

describe('mremap tells UNMAP', () => {
  test(
    'of the old range twice: for the move, and for what is unmapped then',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      let entries: string[] = [];
      recorder.onEvent = () => {
        entries.push(...space.entries(0, 1), ...space.entries(10, 1));
      };
      space.move(0, 2, 10);
      assert.deepEqual(recorder.take(), ['UNMAP 0-2', 'UNMAP 0-2']);
      assert.deepEqual(entries, ['anon rw', 'none', 'none', 'anon rw']);
      entries = [];
    }),
  );

  test(
    'once when the old range stays, and of the target when something is there',
    recorded((space, recorder) => {
      filled(space, 0, 2);
      space.map(10, 1);
      const dontunmap = uapi.MREMAP_MAYMOVE | uapi.MREMAP_DONTUNMAP | uapi.MREMAP_FIXED;
      space.remap(0, 2, 2, dontunmap, 10);
      assert.deepEqual(recorder.take(), ['UNMAP 10-12', 'UNMAP 0-2']);
    }),
  );

  test(
    'of what is cut off',
    recorded((space, recorder) => {
      filled(space, 0, 4);
      space.remap(0, 4, 1);
      assert.deepEqual(recorder.take(), ['UNMAP 1-4']);
      space.remap(0, 1, 3);
      assert.deepEqual(recorder.take(), []);
    }),
  );

  test(
    'from the border of 2 MiB below, where Linux would move whole tables',
    recorded((space, recorder) => {
      space.map(8 + 5, BLOCK);
      space.store(8 + 5, 1);
      space.move(8 + 5, BLOCK, 8 + 5 + 10 * BLOCK);
      assert.deepEqual(recorder.take(), [`UNMAP 8-${13 + BLOCK}`, `UNMAP 13-${13 + BLOCK}`]);
    }),
  );
});

describe('the end of an address space', () => {
  test(
    'is told as RELEASE and then UNMAP, of everything',
    inSpace((space) => {
      const child = space.fork();
      filled(child, 0, 2);
      const recorder = new Recorder(child);
      recorder.onEvent = () => {
        assert.deepEqual(child.entries(0, 2), ['anon rw', 'anon rw']);
      };
      child.exit();
      assert.deepEqual(recorder.end(), ['RELEASE all', 'UNMAP all']);
    }),
  );

  test(
    'that maps nothing is told as RELEASE',
    inSpace((space) => {
      const child = space.fork();
      const recorder = new Recorder(child);
      child.exit();
      assert.deepEqual(recorder.end(), ['RELEASE all']);
    }),
  );
});

test(
  'only intervals that intersect are told',
  inSpace((space) => {
    const recorder = new Recorder(space, at(4), 2 * PAGE_SIZE);
    filled(space, 0, 10);
    space.unmap(0, 4);
    space.advise(6, 2, uapi.MADV_DONTNEED);
    assert.deepEqual(recorder.take(), []);
    space.advise(5, 3, uapi.MADV_DONTNEED);
    space.unmap(3, 2);
    assert.deepEqual(recorder.take(), ['CLEAR 5-8', 'UNMAP 3-5']);
    recorder.end();
  }),
);
