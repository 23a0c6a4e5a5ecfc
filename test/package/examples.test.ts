/**
 * The programs under examples/ run as their readme says. (package.test.ts looks at their types.)
 *
 * @module
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { faultline, MEETING, ONE_POINT, ROOT, sharedFaultline, start } from '../support/cli.js';

const EXAMPLES = join(ROOT, 'examples');

describe('locks in plain workers', () => {
  for (const [build, ...conditions] of [
    ['parallel'],
    ['checked', '--conditions=faultline-checked'],
    ['turnstile', '--conditions=faultline-turnstile'],
  ] as const) {
    test(`lose no coin in the ${build} build`, async () => {
      const main = join(EXAMPLES, 'locks-in-plain-workers/main.mjs');
      const { code, stdout, stderr } = await start(process.execPath, [...conditions, main]).done;
      assert.deepEqual([code, stderr], [0, '']);
      const [, threads, transfers] = /^(\d+) threads, (\d+) transfers, 8000 of 8000 coins\n$/.exec(
        stdout,
      )!;
      assert.ok(Number(threads) >= 2);
      assert.equal(Number(transfers), Number(threads) * 20_000);
    });
  }
});

describe('a driver of one’s own', () => {
  const driver = (name: string): string[] => ['--driver', join(EXAMPLES, 'own-driver', name)];

  for (const name of ['driver.mjs', 'fault-driver.mjs', 'module-driver.mjs']) {
    test(`${name}, which is right, has no stale access`, async () => {
      const args = ['bench', 'svm', 'fault-invalidate', ...ONE_POINT, ...driver(name)];
      const { code, stdout, stderr } = await sharedFaultline(args);
      assert.deepEqual([code, stderr], [0, ''], stdout);
    });
  }

  test('that forgets to clear is found out', async () => {
    const args = ['bench', 'svm', ...MEETING, ...driver('forgetful-driver.mjs')];
    const { code, stdout } = await faultline(args);
    assert.equal(code, 1);
    assert.match(stdout, /^violation: svm .*: \d+ device accesses through a mapping/m);
  });
});

describe('a lock of one’s own', () => {
  const lock = (name: string): string[] => [
    ...['torture', 'lock', '--cpus', '4', '--noise', '9', '--watchdog', '10'],
    ...['--lock', join(EXAMPLES, 'own-lock', name)],
  ];

  test('that is right passes', async () => {
    const { code, stdout, stderr } = await sharedFaultline([
      ...lock('ticket-lock.mjs'),
      '--duration',
      '1',
    ]);
    assert.deepEqual([code, stderr], [0, ''], stdout);
    assert.match(stdout, /^--- lock: End of test: SUCCESS/m);
  });

  test('that draws its tickets in two steps is found out', async () => {
    const args = [...lock('broken-ticket-lock.mjs'), '--duration', '60'];
    const { code, stdout } = await sharedFaultline(args);
    assert.equal(code, 1, stdout);
    assert.match(stdout, /^BUG: /m);
  });
});
