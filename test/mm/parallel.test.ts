/**
 * One address space used and changed by more CPUs than the host has cores.
 *
 * Every test goes on until what makes it a test has happened often enough, and fails if it does not within
 * a bound that is far away.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { registerOps } from '../../src/machine/ops-table.js';
import { kfree } from '../../src/machine/slab.js';
import { mmput } from '../../src/mm/exit.js';
import { mmuIntervalNotifierRemove } from '../../src/notifier/mmu-interval-notifier.js';
import { MmuIntervalNotifier } from '../../src/notifier/types.js';
import * as programs from '../programs/mm.js';
import { addMirror, countOf, type Happened, initMmArena, MmArena } from '../programs/mm.js';
import { programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';
import { assertNothingLeft, checkSpaces, type Held, held } from '../support/space-check.js';

interface Contest {
  readonly entry: readonly { readonly name: string }[];
  readonly wanted: Partial<Record<Happened, number>>;
  readonly mirror?: boolean;
}

/** Runs the programs, finds the address space in order and all of it given back, and that all happened. */
async function contest({ entry, wanted, mirror = false }: Contest): Promise<void> {
  let arena = 0 as MmArena;
  let before: Held | undefined;
  const module = programUrl('mm');
  const { machine } = await runProgram({
    cpus: entry.length,
    ramBytes: 16 << 20,
    module,
    opsModules: [module],
    entry: entry.map(({ name }) => name),
    setup: (cpu) => {
      registerOps(cpu, [programs]);
      arena = place(cpu, MmArena);
      before = held(cpu);
      initMmArena(cpu, arena, wanted);
      if (mirror) addMirror(cpu, arena);
      return arena;
    },
  });
  const { cpu } = machine;
  for (const [name, count] of Object.entries(wanted)) {
    const happened = countOf(cpu, arena, name as Happened);
    assert.ok(happened >= count, `${name}: ${happened} times, not ${count}`);
  }
  const mm = read(cpu, arena, MmArena.mm);
  checkSpaces(cpu, [mm]);
  if (mirror) {
    const interval = read(cpu, arena, MmArena.interval);
    mmuIntervalNotifierRemove(cpu, interval);
    kfree(cpu, MmuIntervalNotifier, interval);
  }
  mmput(cpu, mm);
  assertNothingLeft(cpu, before!);
}

const {
  device,
  discarder,
  forker,
  hinter,
  mover,
  protecter,
  snapshotForker,
  steadyWriter,
  touchTogether,
  unmapper,
  writer,
} = programs;

describe('no store is lost and none comes back', () => {
  test('when several CPUs touch a page first', () =>
    contest({
      entry: [touchTogether, touchTogether, touchTogether, touchTogether],
      wanted: { together: 30 },
    }));

  test('while pages are unmapped and thrown away', () =>
    contest({
      entry: [writer, writer, unmapper, discarder, discarder],
      wanted: { refused: 100, lost: 100 },
    }));

  test('while rights are taken away and pages are moved and hidden', () =>
    contest({
      entry: [writer, writer, protecter, mover, hinter],
      wanted: { refused: 100, held: 50, moved: 100, hinted: 100 },
    }));
});

test('a child is its parent at one moment, and stays so while both go on', () =>
  contest({
    entry: [steadyWriter, steadyWriter, snapshotForker, snapshotForker, hinter],
    wanted: { forked: 100, diverged: 30, hinted: 100 },
  }));

test('a device has no page that the page table does not have', () =>
  contest({
    mirror: true,
    entry: [device, writer, unmapper, protecter, mover, forker],
    wanted: {
      mirrored: 300,
      revoked: 100,
      collided: 3,
      refused: 50,
      held: 10,
      moved: 30,
      forked: 30,
    },
  }));

test('all of it at once', () =>
  contest({
    mirror: true,
    entry: [device, writer, writer, unmapper, discarder, protecter, mover, hinter, forker],
    wanted: {
      mirrored: 100,
      revoked: 50,
      refused: 25,
      lost: 10,
      held: 5,
      moved: 10,
      hinted: 10,
      forked: 10,
    },
  }));
