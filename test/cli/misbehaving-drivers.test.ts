/**
 * Drivers that load well and then answer nonsense, get nowhere, or throw what cannot be shown: the run ends,
 * says why, and a first Ctrl-C is enough.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  faultline,
  fileIn,
  ONE_POINT,
  scratchFolder,
  sharedFaultline,
  startFaultline,
} from '../support/cli.js';

const folder = scratchFolder();
const IMPORT = `import { defineSvmDriver } from ${JSON.stringify(import.meta.resolve('faultline'))};\n`;
let modules = 0;

function driverWith(members: string): string {
  const text = `${IMPORT}export const driver = defineSvmDriver({ opsName: 'mine', ${members} });\n`;
  return fileIn(folder, `driver-${modules++}.mjs`, text);
}

const SVM = ['bench', 'svm', '--duration', '0.3', '--warmup', '0', '--driver'];

describe('a run ends with exit code 1, and says why, if fault', () => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['returns nothing', 'fault() {}', /driver mine: fault answered undefined/],
    ['returns a promise', 'async fault() { return 0; }', /driver mine: fault answered object/],
    ['returns no error number', 'fault() { return 7; }', /driver mine: fault answered 7/],
    ['returns a symbol', 'fault() { return Symbol(); }', /driver mine: fault answered symbol/],
    ['maps nothing', 'fault() { return 0; }', /its driver answers 0, and maps nothing/],
    ['throws what has no text', 'fault() { throw Object.create(null); }', /cannot be shown/],
    [
      'throws an error with a broken stack',
      "fault() { const e = new Error('x'); e.stack = 5; throw e; }",
      /Error: x/,
    ],
    [
      'throws an error that cannot be read',
      "fault() { throw Object.defineProperty(new Error(), 'message', { get() { throw 1; } }); }",
      /cannot be shown/,
    ],
  ];
  for (const [name, members, message] of cases) {
    test(name, async () => {
      const { code, stderr } = await sharedFaultline([...SVM, driverWith(members)]);
      assert.match(stderr, message);
      assert.equal(code, 1, stderr);
    });
  }
});

test('… or if invalidate answers with something that is no answer', async () => {
  const driver = driverWith('async invalidate() { return true; }');
  const { code, stderr } = await faultline([...SVM, driver]);
  assert.match(stderr, /driver mine: invalidate answered object, not true or false/);
  assert.equal(code, 1);
});

describe('a member that there is not', () => {
  test('is refused when the driver is defined', async () => {
    const driver = driverWith('invalidat() { return true; }');
    const { code, stderr } = await sharedFaultline([...SVM, driver]);
    assert.match(stderr, /no member invalidat; there are opsName, invalidate, fault/);
    assert.equal(code, 2);
  });
});

test('one signal ends a measurement in which a CPU does not come back', async () => {
  const driver = driverWith('invalidate() { for (;;); }');
  const args = ['bench', 'svm', '--duration', '3600', '--warmup', '0', '--driver', driver];
  const running = startFaultline([...args, ...ONE_POINT.slice(4)]);
  await running.said(/1 point of/);
  running.child.kill('SIGINT');
  const { code, stdout } = await running.done;
  assert.equal(code, 130);
  assert.match(stdout, /interrupted/);
});
