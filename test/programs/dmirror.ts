/**
 * What the kernel's selftests of its test device do, on CPU 0, beside one that serves RCU.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readOnce, write, writeOnce } from '#memory';

import { EFAULT, EINVAL, ENOENT, EPERM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { runKworker, stopKworkers } from '../../src/deferred/kworker.js';
import {
  dmirrorRead,
  HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL,
  HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE,
  HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL,
  HMM_DMIRROR_PROT_ERROR,
  HMM_DMIRROR_PROT_NONE,
  HMM_DMIRROR_PROT_READ,
  HMM_DMIRROR_PROT_WRITE,
  HMM_DMIRROR_PROT_ZERO,
} from '../../src/drivers/dmirror/commands.js';
import {
  dmirrorInUse,
  dmirrorMmap,
  dmirrorReleaseMemory,
} from '../../src/drivers/dmirror/device.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { cacheline, pointer, type Ptr, struct, word } from '../../src/memory/layout.js';
import { MEMORY_DEVICE_COHERENT, MEMORY_DEVICE_PRIVATE } from '../../src/memremap/pagemap.js';
import { FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../src/mm/gup.js';
import { useMm } from '../../src/mm/mm-struct.js';
import { munmap } from '../../src/mm/munmap.js';
import { MADV_HUGEPAGE } from '../../src/mm/uapi.js';
import {
  type Answer,
  BUFFER_PAGES as NPAGES,
  type MemoryType,
  MirrorWorld,
} from '../support/dmirror.js';
import { at, type Space } from '../support/space.js';

const TIMES = 10;
/** First page of a block of 2 MiB. */
const HUGE = 8;
const HUGE_PAGES = 512;

const own = (page: number): number => page;
const negated = (page: number): number => -page;
const zero = (): number => 0;

function fill(space: Space, page: number, pages: number, value = own): void {
  for (let i = page; i < page + pages; i++) assert.equal(space.store(i, value(i)), 0);
}

function sees(space: Space, page: number, pages: number, value = own): void {
  for (let i = page; i < page + pages; i++) assert.equal(space.load(i), value(i), `page ${i}`);
}

/** The device did all of it, after so many rounds of faults. */
function assertAll(answer: Answer, cpages = NPAGES, faults = 0): void {
  assert.deepEqual(answer, { result: 0, cpages, faults });
}

type Body = (world: MirrorWorld, arena: TeardownArena) => void;

/** In the order of the kernel's. */
const SELFTESTS: Readonly<Record<string, Body>> = {
  open_close(world) {
    world.close(world.open());
  },

  anon_read(world) {
    const { space } = world;
    space.map(0, NPAGES);
    fill(space, 2, NPAGES - 2);
    space.protect(0, NPAGES, 'r');
    assert.equal(space.load(1), 0); // the page of zeroes; page 0 is never touched
    assert.deepEqual(space.entries(0, 2), ['none', 'zero r']);
    const value = (page: number): number => (page < 2 ? 0 : page);
    assertAll(world.open().reads(0, NPAGES, value), NPAGES, 1);
  },

  anon_read_prot(world) {
    const { space } = world;
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    space.protect(0, NPAGES, '');
    const words: number[] = [];
    const take = (_: number, word: number): void => void words.push(word);
    const answer = world.open().run(dmirrorRead, 0, NPAGES, negated, take);
    assert.deepEqual(answer, { result: -EFAULT, cpages: 0, faults: 0 });
    assert.deepEqual(
      words.slice(0, 3),
      [-0, -1, -2].map((word) => word | 0),
      'nothing was copied',
    );
    space.protect(0, NPAGES, 'rw');
    sees(space, 0, NPAGES);
  },

  anon_write(world) {
    const { space } = world;
    space.map(0, NPAGES);
    assertAll(world.open().writes(0, NPAGES, own), NPAGES, 1);
    sees(space, 0, NPAGES);
  },

  anon_write_prot(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, NPAGES, { prot: 'r' });
    assertAll(mirror.reads(0, 1, zero), 1, 1);
    assert.equal(mirror.writes(0, NPAGES, own).result, -EPERM);
    sees(space, 0, NPAGES, zero);
    space.protect(0, NPAGES, 'rw');
    assertAll(mirror.writes(0, NPAGES, own), NPAGES, 1);
    sees(space, 0, NPAGES);
    assert.deepEqual(space.entries(0, 1), ['anon rw']);
  },

  anon_write_child(world) {
    writeInChild(world, false);
  },

  anon_write_child_shared(world) {
    writeInChild(world, true);
  },

  anon_write_huge(world) {
    const { space } = world;
    space.map(HUGE, HUGE_PAGES);
    assert.equal(space.advise(HUGE, HUGE_PAGES, MADV_HUGEPAGE), 0);
    assertAll(world.open().writes(HUGE, HUGE_PAGES, own), HUGE_PAGES, 1);
    sees(space, HUGE, HUGE_PAGES);
  },

  file_read(world) {
    const { space } = world;
    const file = space.file(NPAGES);
    space.map(2000, NPAGES, { file, shared: true });
    fill(space, 2000, NPAGES);
    space.unmap(2000, NPAGES);
    space.map(0, NPAGES, { file, shared: true, prot: 'r' });
    assertAll(
      world.open().reads(0, NPAGES, (page) => 2000 + page),
      NPAGES,
      1,
    );
  },

  file_write(world) {
    const { space } = world;
    const file = space.file(NPAGES);
    space.map(0, NPAGES, { file, shared: true });
    assertAll(world.open().writes(0, NPAGES, own), NPAGES, 1);
    sees(space, 0, NPAGES);
    space.unmap(0, NPAGES);
    space.map(2000, NPAGES, { file, prot: 'r' });
    sees(space, 2000, NPAGES, (page) => page - 2000); // it is in the file
  },

  migrate(world) {
    world.space.map(0, NPAGES);
    fill(world.space, 0, NPAGES);
    assertAll(world.open().migrates(0, NPAGES, own));
    assert.equal(dmirrorInUse(world.cpu, world.devices[0]!), NPAGES);
  },

  migrate_file_private(world) {
    const { space } = world;
    const file = space.file(NPAGES, 7);
    space.map(0, NPAGES, { file });
    fill(space, 0, NPAGES);
    assertAll(world.open().migrates(0, NPAGES, own));
    assert.equal(dmirrorInUse(world.cpu, world.devices[0]!), NPAGES);
  },

  migrate_fault(world) {
    const { space, cpu, devices } = world;
    const mirror = world.open();
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    assertAll(mirror.migrates(0, NPAGES, own));
    sees(space, 0, NPAGES / 2);
    const left = world.type === MEMORY_DEVICE_PRIVATE ? NPAGES / 2 : NPAGES;
    assert.equal(dmirrorInUse(cpu, devices[0]!), left);
    assertAll(mirror.migrates(0, NPAGES, own));
    assert.equal(dmirrorInUse(cpu, devices[0]!), NPAGES);
  },

  migrate_release(world) {
    const { space, cpu, devices } = world;
    const mirror = world.open();
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    assertAll(mirror.migrates(0, NPAGES, own));
    dmirrorReleaseMemory(cpu, devices[0]!);
    sees(space, 0, NPAGES / 2);
    assert.equal(space.entry(NPAGES - 1).kind, 'anon');
    assertAll(mirror.migrates(0, 8, own), 8); // there is memory again
  },

  migrate_shared(world) {
    world.space.map(0, NPAGES, { shared: true });
    assert.equal(world.open().migrates(0, NPAGES, zero).result, -ENOENT);
    assert.equal(dmirrorInUse(world.cpu, world.devices[0]!), 0);
  },

  migrate_mixed(world) {
    const { space } = world;
    const [first, second] = [world.open(0), world.open(1)];
    space.map(0, 6, { prot: '' });
    assert.equal(first.migrates(0, 6, zero).result, -EINVAL); // it may not be read
    space.unmap(1, 1);
    assert.equal(first.migrates(0, 3, zero).result, -EINVAL); // a hole
    makeMixed(space, 6);
    assertAll(
      second.migrates(2, 4, (page) => (page === 2 ? 0 : page)),
      4,
    );
    assert.equal(first.migrates(5, 1, own).result, -ENOENT); // it is on the other device
  },

  migrate_multiple(world) {
    const { space } = world;
    const mirror = world.open();
    for (let time = 0; time < TIMES; time++) {
      space.map(0, NPAGES);
      fill(space, 0, NPAGES);
      assertAll(mirror.migrates(0, NPAGES, own));
      const isCoherent = world.type === MEMORY_DEVICE_COHERENT;
      if (isCoherent) assertAll(mirror.migratesBack(0, NPAGES));
      sees(space, 0, NPAGES);
      assert.equal(dmirrorInUse(world.cpu, world.devices[0]!), 0);
      space.unmap(0, NPAGES);
    }
  },

  anon_read_multiple(world) {
    const { space } = world;
    const mirror = world.open();
    for (let time = 0; time < TIMES; time++) {
      const value = (page: number): number => page + time;
      space.map(0, NPAGES);
      fill(space, 0, NPAGES, value);
      assertAll(mirror.reads(0, NPAGES, value), NPAGES, 1);
      space.unmap(0, NPAGES);
    }
  },

  anon_teardown: teardown,

  mixedmap(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, 1, { file: mirror.file });
    assert.equal(dmirrorMmap(world.cpu, space.mm, at(0)), 0);
    assert.deepEqual(mirror.snapshot(0, 1), [HMM_DMIRROR_PROT_READ]);
    space.unmap(0, 1); // its page is the driver's, of which the check below knows nothing
  },

  snapshot(world) {
    const { space } = world;
    const [first, second] = [world.open(0), world.open(1)];
    space.map(0, 7, { prot: '' });
    space.unmap(1, 1);
    makeMixed(space, 7);
    assertAll(first.migrates(5, 1, own), 1);
    assertAll(second.migrates(6, 1, own), 1);
    const isPrivate = world.type === MEMORY_DEVICE_PRIVATE;
    assert.deepEqual(first.snapshot(0, 7), [
      HMM_DMIRROR_PROT_ERROR,
      HMM_DMIRROR_PROT_ERROR,
      HMM_DMIRROR_PROT_ZERO | HMM_DMIRROR_PROT_READ,
      HMM_DMIRROR_PROT_READ,
      HMM_DMIRROR_PROT_WRITE,
      (isPrivate ? HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL : HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL) |
        HMM_DMIRROR_PROT_WRITE,
      isPrivate
        ? HMM_DMIRROR_PROT_NONE
        : HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE | HMM_DMIRROR_PROT_WRITE,
    ]);
  },

  double_map(world) {
    const { space } = world;
    const [first, second] = [world.open(0), world.open(1)];
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    space.protect(0, NPAGES, 'r');
    assertAll(first.reads(0, NPAGES, own), NPAGES, 1);
    assertAll(second.reads(0, NPAGES, own), NPAGES, 1);
    assertAll(second.migrates(0, NPAGES, own));
    assertAll(first.reads(0, NPAGES, own), NPAGES, 1);
  },

  exclusive(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    assertAll(mirror.takes(0, NPAGES, own));
    assert.equal(mirror.checksExclusive(0, NPAGES), -EPERM);
    for (let page = 0; page < NPAGES; page++) {
      assert.equal(space.load(page), page);
      assert.equal(space.store(page, page + 1), 0);
    }
    sees(space, 0, NPAGES, (page) => page + 1);
    assert.equal(mirror.checksExclusive(0, NPAGES), 0);
  },

  exclusive_mprotect(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    assertAll(mirror.takes(0, NPAGES, own));
    space.protect(0, NPAGES, 'r');
    assert.equal(mirror.writes(0, NPAGES, negated).result, -EPERM);
    sees(space, 0, NPAGES);
  },

  exclusive_cow(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    assertAll(mirror.takes(0, NPAGES, own));
    const child = space.fork();
    for (const process of [space, child]) {
      sees(process, 0, NPAGES);
      fill(process, 0, NPAGES, (page) => page + 1);
      sees(process, 0, NPAGES, (page) => page + 1);
    }
    child.exit();
  },

  hmm_gup_test(world) {
    const { space, cpu } = world;
    const mirror = world.open();
    space.map(0, 4);
    fill(space, 0, 4);
    assertAll(mirror.migrates(0, 4, own), 4);
    const local = HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL | HMM_DMIRROR_PROT_WRITE;
    const stays = world.type === MEMORY_DEVICE_PRIVATE ? HMM_DMIRROR_PROT_WRITE : local;
    for (let page = 0; page < 4; page++) {
      const flags = page < 2 ? FOLL_WRITE : FOLL_WRITE | FOLL_PIN;
      const pfn = getUserPage(cpu, space.mm, at(page), flags);
      assert.ok(pfn > 0, `page ${page}`);
      putUserPage(cpu, pfn, flags);
    }
    assert.deepEqual(mirror.snapshot(0, 4), [
      stays,
      stays,
      HMM_DMIRROR_PROT_WRITE,
      HMM_DMIRROR_PROT_WRITE,
    ]);
    sees(space, 0, 4);
  },

  hmm_cow_in_device(world) {
    const { space } = world;
    const mirror = world.open();
    space.map(0, 4);
    fill(space, 0, 4);
    assertAll(mirror.migrates(0, 4, own), 4);
    const child = space.fork();
    fill(space, 0, 4);
    child.exit();
    assert.deepEqual(mirror.snapshot(0, 4), Array<number>(4).fill(HMM_DMIRROR_PROT_WRITE));
    sees(space, 0, 4);
  },
};

/**
 * The device reads the buffer while another CPU unmaps the second half of it: all was there, or it faults. What is left
 * is as it was.
 */
function teardown(world: MirrorWorld, arena: TeardownArena): void {
  const { cpu, space } = world;
  const mirror = world.open();
  write(cpu, arena, TeardownArena.mm, space.mm);
  for (let time = 1; time <= TIMES; time++) {
    space.map(0, NPAGES);
    fill(space, 0, NPAGES);
    writeOnce(cpu, arena, TeardownArena.asked, time);
    const answer = mirror.reads(0, NPAGES, own);
    for (let i = 0; readOnce(cpu, arena, TeardownArena.done) !== time; i++) cpuRelax(cpu, i);
    if (answer.result === 0) assert.equal(answer.cpages, NPAGES);
    else assert.equal(answer.result, -EFAULT);
    sees(space, 0, NPAGES / 2);
    assert.equal(space.tryLoad(NPAGES / 2), -EFAULT);
    assert.equal(mirror.reads(NPAGES / 2, 1, own).result, -EFAULT); // the device has forgotten it, too
  }
}

/** Unmaps when it is asked to, now and then a little later. */
export function unmapHalf(cpu: Cpu, { arena }: SelftestArgs): void {
  for (let time = 1; time <= TIMES; time++) {
    for (let i = 0; readOnce(cpu, arena, TeardownArena.asked) !== time; i++) cpuRelax(cpu, i);
    for (let i = 0; i < 200 * time; i++) cpuRelax(cpu, 0);
    const mm = read(cpu, arena, TeardownArena.mm);
    useMm(cpu, mm);
    munmap(cpu, mm, at(NPAGES / 2), (NPAGES / 2) * PAGE_SIZE);
    writeOnce(cpu, arena, TeardownArena.done, time);
  }
}

/** What the reader and the CPU that unmaps tell each other. */
export const TeardownArena = struct('teardown_arena', {
  mm: pointer<'mm_struct'>(),
  line1: cacheline,
  asked: word, // how many times it is to have unmapped
  line2: cacheline,
  done: word, // how many times it has
});
export type TeardownArena = Ptr<'teardown_arena'>;

export interface SelftestArgs {
  readonly type: MemoryType;
  readonly arena: TeardownArena;
}

/** The child writes by a mirror of its own; the parent sees it if the memory is shared. */
function writeInChild(world: MirrorWorld, shared: boolean): void {
  const { space } = world;
  space.map(0, NPAGES, { shared });
  fill(space, 0, NPAGES);
  const child = space.fork();
  sees(child, 0, NPAGES);
  const mirror = world.open(0, child);
  assertAll(mirror.writes(0, NPAGES, negated), NPAGES, 1);
  sees(child, 0, NPAGES, (page) => negated(page) | 0);
  world.close(mirror);
  child.exit();
  sees(space, 0, NPAGES, shared ? (page) => negated(page) | 0 : own);
}

/** Page 2 is of zeroes, page 3 may be read, and from page 4 on all may be written. */
function makeMixed(space: Space, end: number): void {
  space.protect(2, 1, 'r');
  assert.equal(space.load(2), 0);
  space.protect(3, 1, 'rw');
  fill(space, 3, 1);
  space.protect(3, 1, 'r');
  space.protect(4, end - 4, 'rw');
  fill(space, 4, end - 4);
}

/** Names of the selftests that are here. */
export const SELFTEST_NAMES = Object.keys(SELFTESTS);

/** Runs them all: what was wrong with each, or an empty string. */
export function runSelftests(cpu: Cpu, { type, arena }: SelftestArgs): Record<string, string> {
  const outcomes: Record<string, string> = {};
  for (const [name, body] of Object.entries(SELFTESTS)) {
    const world = new MirrorWorld(cpu, type);
    try {
      body(world, arena);
      world.end();
      outcomes[name] = '';
    } catch (error) {
      outcomes[name] = String(error instanceof Error ? error.stack : error);
      break; // what it has left behind is in the way of those after it
    }
  }
  stopKworkers(cpu);
  return outcomes;
}

/** Serves RCU until then. */
export function serve(cpu: Cpu): void {
  runKworker(cpu);
}
