/**
 * `faultline replay`: what `explore` found is found again; what is no schedule is refused in one line.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import type { ExploreResult } from '../../src/report/explore-result.js';
import {
  faultline,
  fileIn,
  refusalOf,
  ROOT,
  scratchFolder,
  sharedFaultline,
  startFaultline,
} from '../support/cli.js';

const folder = scratchFolder();
const result = join(folder, 'result.json');
let schedule = '';

before(async () => {
  const args = ['explore', 'lt-5', '--mutant', 'M-4', '--strategy', 'dpor', '--json', result];
  const { code, stderr } = await faultline(args);
  assert.equal(code, 1, stderr);
  schedule = (JSON.parse(readFileSync(result, 'utf8')) as ExploreResult).failures[0]!.schedule;
});

for (const engine of ['virtual', 'workers']) {
  test(`it fails 100 times of 100 on the ${engine} engine`, async () => {
    const args = ['replay', schedule, '--engine', engine, '--times', '100'];
    const { code, stdout, stderr } = await sharedFaultline(args);
    assert.deepEqual([code, stderr], [1, '']);
    assert.match(stdout, /INV-20/);
    assert.match(stdout, /^fails iff .*invalidateSeq/m);
    assert.ok(stdout.includes(`${engine} engine: failed 100 of 100 times`), stdout);
    assert.doesNotMatch(stdout, /^note:/m);
  });
}

test('it may be in a file', async () => {
  const file = fileIn(folder, 'schedule.txt', `${schedule}\n`);
  const { code, stdout } = await sharedFaultline(['replay', file]);
  assert.equal(code, 1);
  assert.match(stdout, /failed 1 of 1 time/);
});

test('… or in a result of explore', async () => {
  const { code, stdout } = await sharedFaultline(['replay', result]);
  assert.equal(code, 1);
  assert.match(stdout, /failed 1 of 1 time/);
});

test('… or in one of litmus', async () => {
  const file = fileIn(
    folder,
    'litmus.json',
    JSON.stringify({
      schema: 'faultline.litmus/1',
      results: [{ failure: null }, { failure: { schedule } }],
    }),
  );
  const { code, stdout } = await sharedFaultline(['replay', file]);
  assert.equal(code, 1);
  assert.match(stdout, /failed 1 of 1 time/);
});

test('a result says which module its program is in', async () => {
  const module = join(ROOT, 'examples/own-program/broken-ticket-lock.mjs');
  const file = join(folder, 'own.json');
  assert.equal((await sharedFaultline(['explore', '--program', module, '--json', file])).code, 1);
  const { code, stdout } = await sharedFaultline(['replay', file]);
  assert.equal(code, 1);
  assert.match(stdout, /failed 1 of 1 time/);
  assert.match(await refusalOf(['replay', file, '--failure', '2']), /own\.json: it has 1 failure$/);
});

test('Ctrl-C ends many runs with what was seen', async () => {
  const running = startFaultline(['replay', schedule, '--times', '1000000']);
  await sleep(3000);
  running.child.kill('SIGINT');
  const { code, stdout } = await running.done;
  assert.equal(code, 1, stdout);
  assert.match(stdout, /failed (\d+) of \1 times/);
  assert.match(stdout, /^interrupted; /m);
});

test('--perfetto writes a trace', async () => {
  const file = join(folder, 'trace.json');
  const { code, stderr } = await sharedFaultline(['replay', schedule, '--perfetto', file]);
  assert.equal(code, 1, stderr);
  const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as {
    traceEvents: { ph: string; name: string; args?: { name?: string } }[];
  };
  const threads = traceEvents.filter(({ ph, name }) => ph === 'M' && name === 'thread_name');
  assert.match(threads.map(({ args }) => args?.name).join(), /invalidate.*fault/);
  assert.ok(
    traceEvents.some(({ ph }) => ph === 'X' || ph === 'B'),
    'slices',
  );
});

test('without the mistake it does not fail, and that it is another run is said', async () => {
  const { code, stdout, stderr } = await sharedFaultline(['replay', 'lt-5@27>1~1c2f28']);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /no failure; ended as /);
  assert.match(stdout, /^note: 1 of 1 run differed/m);
});

describe('refused:', () => {
  const REFUSED: readonly (readonly [string, RegExp])[] = [
    ['nonsense', /bad schedule: character 9/],
    ['lt-5@3>~123456', /a task after '>'/],
    ['lt-5@3>1~12', /6 hexadecimal digits/],
    ['no-such~123456', /no program no-such/],
    ['lt-5+M-99~123456', /no mutant M-99/],
    ['lt-5@3>7~123456', /no task 7 in lt-5/],
    ['lt-5:ops=0/0-9~123456', /has no operation \d/],
    ['lt-5:ops=0~123456', /ops= is for 1 tasks; lt-5 has 2/],
  ];
  for (const [text, message] of REFUSED) {
    test(text, async () => {
      assert.match(await refusalOf(['replay', text]), message);
    });
  }

  test("another program's schedule", async () => {
    const module = fileIn(
      folder,
      'mine.mjs',
      "export const program = { name: 'mine', title: 'm', setup: () => 0, tasks: [{ name: 'a', operations: [] }] };\n",
    );
    const line = await refusalOf(['replay', schedule, '--program', module]);
    assert.match(line, /it is of program lt-5, not mine/);
  });

  for (const [name, text, message] of [
    ['broken.json', '{ "schema": ', /broken\.json: is no JSON/],
    [
      'other.json',
      '{ "schema": "other/1" }',
      /other\.json: schema is neither faultline\.explore\/1 nor faultline\.litmus\/1/,
    ],
    ['none.json', '{ "schema": "faultline.explore/1", "failures": [] }', /failures is empty/],
    ['null.json', '{ "schema": "faultline.explore/1", "failures": [null] }', /failures\[0\]/],
    ['empty.txt', '', /bad schedule: character 1/],
  ] as const) {
    test(name, async () => {
      assert.match(await refusalOf(['replay', fileIn(folder, name, text)]), message);
    });
  }
});
