import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { read, write } from '#memory';

import { attachCpu } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  initTlbContext,
  tlbAttach,
  TlbContext,
  tlbEnter,
  TlbEntry,
  tlbExit,
  tlbFill,
  tlbHit,
  tlbShootdown,
  tlbSlot,
} from '../../src/machine/tlb.js';
import { CpuArea } from '../../src/machine/types.js';
import { WAIT_SHOOTDOWN } from '../../src/machine/wait-kind.js';
import { element, member } from '../../src/memory/layout.js';
import {
  invalidator,
  invalidatorThatDoesNotWait,
  invalidatorThatDropsNothing,
  MOVES_MIN,
  reader,
  readerUntilStale,
  TlbArena,
} from '../programs/tlb.js';
import { programUrl, runProgram } from '../support/crew.js';
import { bootCpus, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

function newContext(cpu: Cpu): TlbContext {
  const context = place(cpu, TlbContext);
  initTlbContext(cpu, context);
  return context;
}

function fillIn(cpu: Cpu, context: TlbContext, high: number, low: number): void {
  tlbFill(cpu, tlbSlot(cpu, low), context, tlbEnter(cpu, context), high, low);
  tlbExit(cpu);
}

function hits(cpu: Cpu, context: TlbContext, high: number, low: number): boolean {
  const hit = tlbHit(cpu, tlbSlot(cpu, low), context, tlbEnter(cpu, context), high, low);
  tlbExit(cpu);
  return hit;
}

describe('a cached translation', () => {
  test('is found by its CPU, for its page, and by no other', () => {
    const [cpu, other] = bootCpus(2);
    const context = newContext(cpu!);
    assert.equal(hits(cpu!, context, 0, 0), false, 'an empty entry translates nothing');
    fillIn(cpu!, context, 3, 70);
    assert.equal(hits(cpu!, context, 3, 70), true);
    assert.equal(hits(cpu!, context, 3, 70 + 64), false, 'another page of the same slot');
    assert.equal(hits(cpu!, context, 4, 70), false, 'another upper part');
    assert.equal(hits(other!, context, 3, 70), false);
    fillIn(cpu!, context, 3, 70 + 64);
    assert.equal(hits(cpu!, context, 3, 70), false, 'displaced');
  });

  test('is of one context', () => {
    const [cpu] = bootCpus(1);
    const context = newContext(cpu!);
    const other = newContext(cpu!);
    fillIn(cpu!, context, 0, 1);
    assert.equal(hits(cpu!, other, 0, 1), false);
    assert.notEqual(read(cpu!, context, TlbContext.id), read(cpu!, other, TlbContext.id));
  });

  test('is not used after a shootdown of its context, and only of that', () => {
    const [cpu, other] = bootCpus(2);
    const context = newContext(cpu!);
    const second = newContext(cpu!);
    tlbAttach(cpu!, context);
    fillIn(cpu!, context, 0, 1);
    fillIn(cpu!, second, 0, 2);
    tlbShootdown(other!, context, WAIT_SHOOTDOWN);
    assert.equal(hits(cpu!, context, 0, 1), false);
    assert.equal(hits(cpu!, second, 0, 2), true);
    fillIn(cpu!, context, 0, 1);
    assert.equal(hits(cpu!, context, 0, 1), true);
  });

  test('has room of its own for what it translates to', () => {
    const [cpu] = bootCpus(1);
    const context = newContext(cpu!);
    for (let page = 0; page < 64; page++) {
      fillIn(cpu!, context, 0, page);
      write(cpu!, tlbSlot(cpu!, page), TlbEntry.pte, page);
      write(cpu!, tlbSlot(cpu!, page), TlbEntry.frameGeneration, -page);
    }
    for (let page = 0; page < 64; page++) {
      assert.ok(hits(cpu!, context, 0, page));
      assert.equal(read(cpu!, tlbSlot(cpu!, page), TlbEntry.pte), page);
      assert.equal(read(cpu!, tlbSlot(cpu!, page), TlbEntry.frameGeneration), -page || 0);
    }
  });
});

test('a CPU is inside an access from tlbEnter to tlbExit, also when the count has wrapped', () => {
  const [cpu] = bootCpus(1);
  const context = newContext(cpu!);
  write(cpu!, cpu!.area, CpuArea.translation, -2);
  for (const [inside, outside] of [
    [-1, 0],
    [1, 2],
  ] as const) {
    tlbEnter(cpu!, context);
    assert.equal(read(cpu!, cpu!.area, CpuArea.translation), inside);
    tlbExit(cpu!);
    assert.equal(read(cpu!, cpu!.area, CpuArea.translation), outside);
  }
});

describe('a shootdown', () => {
  const CPUS = 64;
  const puppets = new Puppets(1, { cpus: CPUS });
  const attached = new Map<number, Cpu>([[CPUS, puppets.boot]]);
  /** A CPU on this thread; 0 is the puppet. */
  const cpuNumber = (id: number): Cpu => {
    const cpu = attached.get(id) ?? attachCpu(puppets.handle, id);
    attached.set(id, cpu);
    return cpu;
  };
  after(() => puppets.stop());

  test('waits for each CPU of the context that is inside an access, whatever its number', async () => {
    for (const id of [1, 30, 31, 32, 33, 63, CPUS]) {
      const cpu = cpuNumber(id);
      const context = newContext(puppets.boot);
      tlbAttach(cpu, context);
      tlbEnter(cpu, context);
      const shootdown = puppets.start(0, 'tlbShootdown', context, WAIT_SHOOTDOWN);
      await shootdown.blocked();
      assert.equal(puppets.waitOf(0), 'TLB shootdown');
      tlbExit(cpu);
      tlbEnter(cpu, context); // of the new generation: not waited for
      await shootdown.done;
      tlbExit(cpu);
    }
  });

  test('waits for all of them, one after the other', async () => {
    const context = newContext(puppets.boot);
    const cpus = [5, 31, 40].map(cpuNumber);
    for (const cpu of cpus) {
      tlbAttach(cpu, context);
      tlbEnter(cpu, context);
    }
    const shootdown = puppets.start(0, 'tlbShootdown', context, WAIT_SHOOTDOWN);
    for (const cpu of [...cpus].reverse()) {
      await shootdown.blocked();
      tlbExit(cpu);
    }
    await shootdown.done;
  });

  test('does not wait for CPUs that never used the context, nor for those between accesses', async () => {
    const context = newContext(puppets.boot);
    const between = cpuNumber(7);
    const elsewhere = cpuNumber(8);
    tlbAttach(between, context);
    tlbEnter(between, context);
    tlbExit(between);
    tlbEnter(elsewhere, context); // without having attached
    await puppets.call(0, 'tlbShootdown', context, WAIT_SHOOTDOWN);
    tlbExit(elsewhere);
  });

  test('finds every CPU of the mask', () => {
    const context = newContext(puppets.boot);
    for (let id = 1; id <= CPUS; id++) tlbAttach(cpuNumber(id), context);
    const masks = [0, 1, 2].map((group) =>
      read(puppets.boot, context, element(TlbContext.cpus, group)),
    );
    assert.deepEqual(masks, [-2, -1, 1]);
    tlbShootdown(puppets.boot, context, WAIT_SHOOTDOWN);
  });
});

describe('under contention', () => {
  let hits = 0;
  const run = async (invalidate: string, reads: string): Promise<number[]> => {
    let arena = 0 as TlbArena;
    const { machine, results } = await runProgram({
      cpus: 3,
      module: programUrl('tlb'),
      entry: [invalidate, reads, reads],
      setup: (cpu) => {
        arena = place(cpu, TlbArena);
        initTlbContext(cpu, member(arena, TlbArena.context));
        write(cpu, arena, TlbArena.readers, 2);
        for (let i = 0; i < 16; i++) write(cpu, arena, element(TlbArena.frames, i), 1);
        return arena;
      },
    });
    hits = read(machine.cpu, arena, TlbArena.hits);
    return results.map((result) => Number(result.value));
  };

  test('nobody uses an old translation after the shootdown returned', async () => {
    const [moves, ...stale] = await run(invalidator.name, reader.name);
    assert.deepEqual(stale, [0, 0]);
    assert.ok(moves! >= MOVES_MIN);
    assert.ok(hits > 0, 'accesses went through cached translations');
  });

  test('control: without the wait somebody does', async () => {
    const [, ...stale] = await run(invalidatorThatDoesNotWait.name, readerUntilStale.name);
    assert.ok(stale.some((count) => count > 0));
  });

  test('control: without the new generation somebody does', async () => {
    const [, ...stale] = await run(invalidatorThatDropsNothing.name, readerUntilStale.name);
    assert.ok(stale.some((count) => count > 0));
  });
});
