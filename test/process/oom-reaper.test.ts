/**
 * The OOM reaper: what it takes, what it leaves, and that it waits for nobody.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { fetchOr, read, readOnce } from '#memory';

import { EAGAIN, EFAULT } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { Space, spaceMirror, spaceMm } from '../../src/explore/programs/space.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { freeFrameCount } from '../../src/machine/page-alloc.js';
import { allocatedObjects, kzalloc, slabFrames } from '../../src/machine/slab.js';
import { MACHINE, Machine } from '../../src/machine/types.js';
import { warningTexts } from '../../src/machine/warn.js';
import { element, member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { createFile, fput } from '../../src/mm/file.js';
import {
  mmapReadLock,
  mmapReadUnlock,
  mmapWriteLock,
  mmapWriteUnlock,
} from '../../src/mm/mmap-lock.js';
import { MMF_OOM_REAP_QUEUED, MMF_OOM_SKIP, MMF_UNSTABLE, MmStruct } from '../../src/mm/types.js';
import { MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE } from '../../src/mm/uapi.js';
import { mmdrop, mmgrab } from '../../src/notifier/mm-count.js';
import { mmuIntervalNotifierRemove } from '../../src/notifier/mmu-interval-notifier.js';
import type { MmuNotifierOps } from '../../src/notifier/mmu-notifier-list.js';
import { mmuNotifierRegister } from '../../src/notifier/mmu-notifier-register.js';
import { MmuNotifier, type MmuNotifierRange } from '../../src/notifier/types.js';
import {
  bootOomReaper,
  gaveUpCount,
  oomKill,
  oomReapTaskMm,
  reapedCount,
  setOomDelays,
} from '../../src/process/oom-reaper.js';
import {
  allocTask,
  CLONE_VM,
  cloneTask,
  exitTask,
  getTask,
  putTask,
} from '../../src/process/task.js';
import { OomReaper, Task } from '../../src/process/types.js';
import * as programs from '../programs/oom.js';
import { OomArena, ROUNDS } from '../programs/oom.js';
import { bootSpace, cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import { programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';

/** Starts that are still to be refused: one test runs at a time. */
let refusals = 0;

export const refusing: MmuNotifierOps = defineOps({
  opsName: 'oom test refusing',
  invalidateRangeStart: (_cpu: Cpu, _notifier: MmuNotifier, _range: MmuNotifierRange) =>
    refusals-- > 0 ? -EAGAIN : 0,
});

interface Victim {
  readonly cpu: Cpu;
  readonly other: Cpu;
  readonly mm: MmStruct;
}

/** Pages 0 and 1, private; two CPUs of one machine. */
function victim(): Victim {
  refusals = 0;
  const { cpus, mm } = bootSpace([{ refusing }], 2);
  const [cpu, other] = cpus as [Cpu, Cpu];
  mapPages(cpu, mm, 0, 2);
  for (const page of [0, 1]) assert.equal(storeWord(cpu, mm, pageVa(page), 7), 0);
  return { cpu, other, mm };
}

const flags = ({ cpu, mm }: Victim): number => readOnce(cpu, mm, MmStruct.flags);
const entry = ({ cpu, mm }: Victim, page: number): number => cpuEntry(cpu, mm, pageVa(page)).entry;

describe('reaping an address space', () => {
  test('takes private memory, and says that it is lost', () => {
    const it = victim();
    const { cpu, mm } = it;
    const before = freeFrameCount(cpu);
    assert.equal(oomReapTaskMm(cpu, mm), true);
    assert.equal(freeFrameCount(cpu), before + 2);
    assert.equal(read(cpu, mm, MmStruct.rss), 0);
    assert.equal(flags(it), MMF_UNSTABLE);
    assert.equal(loadWord(cpu, mm, pageVa(0)), -EFAULT, 'not a page of zeroes');
    assert.equal(storeWord(cpu, mm, pageVa(0), 1), -EFAULT);
    mmput(cpu, mm);
    assert.equal(allocatedObjects(cpu, MmStruct), 0);
  });

  test('takes what a file has been written privately, and leaves what is shared', () => {
    const it = victim();
    const { cpu, mm } = it;
    const file = createFile(cpu, 2 * PAGE_SIZE, 5);
    const prot = PROT_READ | PROT_WRITE;
    mapPages(cpu, mm, 4, 1, prot, MAP_PRIVATE, file);
    mapPages(cpu, mm, 6, 1, prot, MAP_SHARED, file);
    fput(cpu, file);
    for (const page of [4, 6]) assert.equal(storeWord(cpu, mm, pageVa(page), 9), 0);
    assert.equal(oomReapTaskMm(cpu, mm), true);
    assert.equal(entry(it, 4), 0);
    assert.equal(loadWord(cpu, mm, pageVa(4)), -EFAULT);
    assert.notEqual(entry(it, 6), 0);
    assert.equal(loadWord(cpu, mm, pageVa(6)), 0);
    assert.equal(cpu.loaded, 9);
    mapPages(cpu, mm, 8, 1, prot, MAP_SHARED);
    assert.equal(storeWord(cpu, mm, pageVa(8), 1), 0, 'shared memory is stable');
    mmput(cpu, mm);
  });

  test('gives up at once where the mmap lock is taken (INV-36)', () => {
    const it = victim();
    mmapWriteLock(it.other, it.mm);
    assert.equal(oomReapTaskMm(it.cpu, it.mm), false);
    mmapWriteUnlock(it.other, it.mm);
    assert.equal(flags(it), 0);
    mmapReadLock(it.other, it.mm);
    assert.equal(oomReapTaskMm(it.cpu, it.mm), true);
    mmapReadUnlock(it.other, it.mm);
    assert.equal(it.cpu.nonBlockCount, 0);
  });

  test('touches nothing once exit has said so (INV-37)', () => {
    const it = victim();
    fetchOr(it.cpu, it.mm, MmStruct.flags, MMF_OOM_SKIP);
    assert.equal(oomReapTaskMm(it.cpu, it.mm), true);
    assert.notEqual(entry(it, 0), 0);
    assert.equal(flags(it), MMF_OOM_SKIP);
    mmgrab(it.cpu, it.mm);
    mmput(it.cpu, it.mm);
    assert.equal(oomReapTaskMm(it.cpu, it.mm), true);
    mmdrop(it.cpu, it.mm);
  });

  test('leaves out what a notifier refuses, and takes the rest', () => {
    const it = victim();
    const { cpu, mm } = it;
    mapPages(cpu, mm, 10, 1);
    assert.equal(storeWord(cpu, mm, pageVa(10), 7), 0);
    assert.equal(mmuNotifierRegister(cpu, kzalloc(cpu, MmuNotifier), mm, refusing), 0);
    refusals = 1;
    assert.equal(oomReapTaskMm(cpu, mm), false);
    assert.notEqual(entry(it, 0), 0, 'the first VMA');
    assert.equal(entry(it, 10), 0);
    assert.equal(oomReapTaskMm(cpu, mm), true);
    assert.equal(entry(it, 0), 0);
  });
});

describe('a victim', () => {
  test('is queued once, however many of its tasks are killed', () => {
    const { cpu, mm } = victim();
    bootDeferred(cpu);
    bootOomReaper(cpu);
    const first = allocTask(cpu, mm);
    const second = cloneTask(cpu, first, CLONE_VM);
    assert.equal(oomKill(cpu, first), true);
    assert.equal(oomKill(cpu, first), true);
    assert.equal(oomKill(cpu, second), true);
    assert.equal(readOnce(cpu, mm, MmStruct.flags), MMF_OOM_REAP_QUEUED);
    assert.equal(read(cpu, mm, MmStruct.count), 3, 'the users, and one for each task');
    assert.equal(read(cpu, first, Task.refs), 2);
    assert.equal(read(cpu, second, Task.refs), 1);
    const reaper = read(cpu, MACHINE, Machine.oomReaper) as OomReaper;
    assert.equal(listEmpty(cpu, member(reaper, OomReaper.victims)), false);
    exitTask(cpu, second);
    exitTask(cpu, first);
    assert.equal(allocatedObjects(cpu, Task), 1, "the reaper's");
    assert.equal(allocatedObjects(cpu, MmStruct), 1, 'INV-13: which pins the mm');
    putTask(cpu, first);
    assert.equal(allocatedObjects(cpu, MmStruct), 0);
  });

  test('that has given up its memory is not killed for it', () => {
    const { cpu, mm } = victim();
    bootDeferred(cpu);
    bootOomReaper(cpu);
    const task = allocTask(cpu, mm);
    getTask(cpu, task);
    exitTask(cpu, task);
    assert.equal(oomKill(cpu, task), false);
    assert.equal(reapedCount(cpu), 0);
    putTask(cpu, task);
    assert.equal(allocatedObjects(cpu, Task), 0);
  });
});

test('victims are reaped while they run and a device faults', async () => {
  const url = programUrl('oom');
  const mirror = new URL('../../src/explore/programs/space.js', import.meta.url).href;
  let arena = 0 as OomArena;
  let frames = 0;
  const { killer, user, device, serve } = programs;
  const { machine } = await runProgram({
    cpus: 4,
    ramBytes: 8 << 20,
    module: url,
    opsModules: [mirror],
    entry: [killer, user, device, serve].map(({ name }) => name),
    watchdog: { stallMs: 60_000 },
    setup: (cpu) => {
      registerOps(cpu, [{ spaceMirror }]);
      bootMm(cpu);
      bootDeferred(cpu);
      bootOomReaper(cpu);
      setOomDelays(cpu, 1, 1);
      frames = freeFrameCount(cpu) + slabFrames(cpu);
      arena = place(cpu, OomArena);
      programs.initOomArena(cpu, arena);
      return arena;
    },
  });
  const { cpu } = machine;
  assert.deepEqual(warningTexts(cpu), []);
  assert.equal(reapedCount(cpu), ROUNDS);
  assert.equal(gaveUpCount(cpu), 0);
  assert.ok(read(cpu, arena, OomArena.faults) >= ROUNDS, 'the device had memory of each');
  assert.equal(read(cpu, arena, OomArena.refused), ROUNDS, 'and of each was told that it is gone');
  for (let i = 0; i < ROUNDS; i++) {
    const space = read(cpu, arena, element(OomArena.spaces, i)) as Space;
    assert.equal(read(cpu, spaceMm(cpu, space), MmStruct.users), 0);
    mmuIntervalNotifierRemove(cpu, member(space, Space.interval));
  }
  assert.equal(allocatedObjects(cpu, MmStruct), 0);
  assert.equal(allocatedObjects(cpu, Task), 0);
  assert.equal(freeFrameCount(cpu) + slabFrames(cpu), frames);
});
