/**
 * What the checked build says of memory that is misused, by real workers.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { liveObjects } from '../../src/debug/live-objects.js';
import { lockReports, MachineFailure } from '../../src/host/failure.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { member } from '../../src/memory/layout.js';
import { initSpinlock } from '../../src/sync/spinlock.js';
import {
  countAlone,
  countCarelessly,
  countLocked,
  forgetOne,
  freeTwice,
  freeUnordered,
  MisuseArena,
  useAfterFree,
  useFreeFrame,
  writeBehind,
} from '../programs/memory-misuse.js';
import { type ProgramResult, programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';

const RAM = 1 << 20;

function run(entry: { readonly name: string }, cpus = 2): Promise<ProgramResult> {
  return runProgram({
    cpus,
    ramBytes: RAM,
    watchesMemory: true,
    build: 'checked',
    module: programUrl('memory-misuse'),
    entry: entry.name,
    setup: (cpu) => {
      const arena = place(cpu, MisuseArena);
      initSpinlock(cpu, member(arena, MisuseArena.lock), lockClass('misuse'));
      return arena;
    },
  });
}

async function reportsOf(entry: { readonly name: string }, cpus?: number): Promise<string[]> {
  const { machine } = await run(entry, cpus);
  return lockReports(machine.cpu);
}

describe('the checked build', () => {
  test('says nothing of what a lock orders', async () => {
    assert.deepEqual(await reportsOf(countLocked, 4), []);
  });

  test('reports a race once, with the member and both stacks', async () => {
    const reports = await reportsOf(countCarelessly, 4);
    assert.equal(reports.length, 1);
    const [report] = reports;
    assert.match(report!, /^data race: /);
    assert.match(report!, /cpu \d (?:reads|writes) .*\n {4}at countOnce \(.*memory-misuse\.ts:\d+/);
    assert.match(
      report!,
      /cpu \d (?:read|wrote) it before.*\n {4}at countOnce \(.*memory-misuse\.ts/,
    );
    assert.match(report!, /cpu \d holds/);
  });

  test('reports a store that somebody was sure could not be', async () => {
    const [report] = await reportsOf(countAlone);
    assert.match(report!, /assertExclusiveWriter|countAlone/);
  });

  test('reports a use of what was given back, with who had it and who gave it back', async () => {
    const [report, ...others] = await reportsOf(useAfterFree);
    assert.deepEqual(others, []);
    assert.match(report!, /^use after free: misused\.count\n/);
    assert.match(report!, /cpu 0 makes a marked read of misused\.count of misused@\d+/);
    assert.match(report!, /at lookAt \(/);
    assert.match(report!, /handed out by\n {4}at handOn \(/);
    assert.match(report!, /given back by\n {4}at giveBack \(/);
  });

  test('reports memory that is given back while somebody may look', async () => {
    const [report] = await reportsOf(freeUnordered);
    assert.match(report!, /^data race: misused\.state\ncpu 0 gives back misused\.state/);
    assert.match(report!, /cpu 1 read it before/);
  });

  test('reports a store behind an object', async () => {
    const [report] = await reportsOf(writeBehind);
    assert.match(report!, /^out of bounds: behind a misused\n/);
    assert.match(report!, /at writeBehind \(/);
  });

  test('ends a run in which an object is given back twice', async () => {
    await assert.rejects(run(freeTwice, 1), (error) => {
      assert.ok(error instanceof MachineFailure);
      assert.match(error.message, /double free: misused/);
      assert.match(error.message, /given back by\n\s+at freeTwice/);
      return true;
    });
  });

  test('knows who has made what is left at the end', async () => {
    const { machine } = await run(forgetOne);
    const left = liveObjects(machine).filter(({ stack }) => !stack.includes('at newCache'));
    for (const { stack } of left) assert.match(stack, /at forgetOne \(/);
    assert.deepEqual(
      left.map(({ struct, count }) => [struct, count]),
      [
        ['frames', 3],
        ['misused', 1],
      ],
    );
  });

  test('reports a use of a frame that was given back', async () => {
    const [report = ''] = await reportsOf(useFreeFrame);
    assert.match(report, /^use after free: frame/);
    assert.match(report, /at useFreeFrame .*memory-misuse\.ts/);
  });
});
