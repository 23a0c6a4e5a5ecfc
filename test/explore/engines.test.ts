/**
 * The two engines against each other: the same plan gives the same trace, end and outcome on both.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { END_DIVERGED, END_DONE, END_SEEN, END_STEPS } from '../../src/explore/control.js';
import { exploreWithCrew } from '../../src/explore/explore-crew.js';
import { programNamed, PROGRAMS } from '../../src/explore/programs/registry.js';
import {
  compareEngines,
  type Comparison,
  findSchedules,
  type Found,
  repeatSchedules,
  replaySchedules,
} from '../programs/explorers.js';
import { programUrl } from '../support/crew.js';
import { endPools, idlePool } from '../support/pools.js';
import { liveWorkers } from '../support/workers.js';

const VIRTUAL_PROCESS = fileURLToPath(new URL('../programs/virtual-process.js', import.meta.url));
/** Schedules of a program on both engines; of one program there are more. */
const PLANS = 30;
const MANY_PLANS = 2500;

after(async () => {
  await endPools();
  assert.equal(liveWorkers(), 0);
});

/** Runs an explorer of test/programs/explorers.ts on a crew. */
function explore(name: string, entry: { readonly name: string }, args: object): Promise<unknown> {
  return exploreWithCrew({
    pool: idlePool(programNamed(name)!.tasks.length, 'turnstile', { exactly: true }),
    program: { name },
    explorer: { module: programUrl('explorers'), entry: entry.name, args: { name, ...args } },
  });
}

/** What a process of its own with a virtual engine prints. */
async function virtualProcess(args: readonly string[], input = ''): Promise<Found[]> {
  const condition = '--conditions=faultline-turnstile';
  const child = spawn(process.execPath, [condition, VIRTUAL_PROCESS, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  child.stdin.end(input);
  let output = '';
  for await (const part of child.stdout.setEncoding('utf8')) output += String(part);
  return JSON.parse(output) as Found[];
}

describe('the workers engine and the virtual engine', () => {
  for (const { name, isBroken } of PROGRAMS) {
    test(`run ${name} alike, access for access`, async () => {
      const plans = name === 'lt-5' ? MANY_PLANS : PLANS;
      const compared = (await explore(name, compareEngines, { plans })) as Comparison;
      assert.deepEqual(compared.differences.slice(0, 3), []);
      if (isBroken === true) return; // it need not end well
      assert.ok((compared.ends[END_DONE] ?? 0) > plans / 2, JSON.stringify(compared.ends));
    });
  }

  test('meet every end and outcome that a program without faults has', async () => {
    const compared = (await explore('lt-5', compareEngines, { plans: 600 })) as Comparison;
    for (const end of [END_DONE, END_STEPS, END_SEEN, END_DIVERGED]) {
      assert.ok((compared.ends[end] ?? 0) > 0, `end ${end}: ${JSON.stringify(compared.ends)}`);
    }
    for (const outcome of ['new page', 'retried', 'mapped, then unmapped']) {
      assert.ok((compared.outcomes[outcome] ?? 0) > 0, outcome);
    }
  });

  test('repeat a schedule, whatever was run in between', async () => {
    assert.deepEqual(await explore('lt-5', repeatSchedules, { plans: 30 }), []);
  });
});

describe('a schedule as a list of deviations', () => {
  test('found by workers, replays on the virtual engine of another process', async () => {
    const found = (await explore('lt-5', findSchedules, { plans: 50 })) as Found[];
    assert.ok(new Set(found.map(({ hash }) => hash)).size > 40, 'they differ');
    assert.deepEqual(await virtualProcess(['replay', 'lt-5'], JSON.stringify(found)), found);
  });

  test('found by the virtual engine of another process, replays on workers', async () => {
    const schedules = await virtualProcess(['find', 'lt-5', '50']);
    assert.equal(schedules.length, 50);
    assert.deepEqual(await explore('lt-5', replaySchedules, { schedules }), schedules);
  });
});
