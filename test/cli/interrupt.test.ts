/**
 * Signals: the first ends the measurement and shows what there is, the second ends the process.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';

import type { BenchResult } from '../../src/report/bench-result.js';
import { fileIn, scratchFolder, startFaultline } from '../support/cli.js';
import { RECORDED_FOLDER } from '../support/strace-logs.js';

const folder = scratchFolder();
/** A terminal has a progress bar, whose label shows that a round has been measured. */
const terminal = 200;
const FOR_HOURS = ['--duration', '3600', '--warmup', '0'];
const MEASURING = /fault-invalidate, 1 page, overlap 0/;

describe('the first signal', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    test(`${signal} ends a measurement, and what was measured is shown and kept`, async () => {
      const json = join(folder, `${signal}.json`);
      const running = startFaultline(['bench', ...FOR_HOURS, '--json', json], { terminal });
      await running.said(MEASURING);
      running.child.kill(signal);
      const { code, stdout } = await running.done;
      assert.equal(code, 130);
      const text = stripVTControlCharacters(stdout);
      assert.match(text, /│ faults\/s │/);
      assert.match(text, /^interrupted: this is what was measured until then, 1 of 6 points$/m);
      const { interrupted, points } = JSON.parse(readFileSync(json, 'utf8')) as BenchResult;
      assert.equal(interrupted, true);
      assert.equal(points.length, 1);
      assert.equal(points[0]!.interrupted, true);
      assert.ok(points[0]!.faults > 0);
    });
  }

  test('ends a workload with engines and service threads, too', async () => {
    const running = startFaultline(['bench', 'svm', ...FOR_HOURS], { terminal });
    await running.said(/svm, 16 pages/);
    running.child.kill('SIGINT');
    const { code, stdout } = await running.done;
    assert.equal(code, 130, stdout);
  });

  test('ends a replay, however slow', async () => {
    const log = join(RECORDED_FOLDER, 'py.strace');
    const args = ['bench', '--strace', log, '--speed', '0.0001', '--json', '-'];
    const running = startFaultline(args, { terminal });
    await running.said(/[0-9] % · .* left · .*py\.strace/);
    running.child.kill('SIGINT');
    const { code, stdout, stderr } = await running.done;
    assert.equal(code, 130, stderr);
    assert.match(stripVTControlCharacters(stderr), /^interrupted: this is what was replayed/m);
    const { interrupted, strace } = JSON.parse(stdout) as BenchResult;
    assert.equal(interrupted, true);
    assert.equal(strace!.interrupted, true);
    assert.equal(strace!.outcomeDifferenceCount, 0);
  });
});

test('a signal before anything is measured ends it, with a line', async () => {
  // loading takes as long as the module does
  const driver = fileIn(
    folder,
    'slow.mjs',
    "import { writeSync } from 'node:fs';\nwriteSync(2, 'loading\\n');\nawait new Promise((done) => setTimeout(done, 3e4));",
  );
  const running = startFaultline(['bench', '--driver', driver, '--watchdog', '60']);
  await running.said(/loading/);
  running.child.kill('SIGTERM');
  const { code, stdout, stderr } = await running.done;
  assert.deepEqual([code, stdout], [130, '']);
  assert.match(stderr, /^faultline: interrupted before anything was measured$/m);
});

test('the second signal ends a process at once, whatever it does', async () => {
  const told = join(folder, 'told');
  const driver = fileIn(
    folder,
    'stuck.mjs',
    `import { defineOps, svmDriver } from ${JSON.stringify(import.meta.resolve('faultline'))};
    import { writeSync } from 'node:fs';
    export const driver = defineOps({
      ...svmDriver,
      opsName: 'stuck',
      invalidate() {
        writeSync(2, 'stuck now\\n');
        for (;;);
      },
    });`,
  );
  const args = ['bench', ...FOR_HOURS, '--driver', driver, '--watchdog', '3600', '--json', told];
  const running = startFaultline(args);
  await running.said(/stuck now/);
  running.child.kill('SIGINT');
  // two at once could be delivered as one
  await running.said(/ending; another signal ends it at once/);
  running.child.kill('SIGINT');
  const { code, signal } = await running.done;
  assert.deepEqual([code, signal], [130, null]);
});
