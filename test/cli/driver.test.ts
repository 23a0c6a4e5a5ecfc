/**
 * Driver modules with something wrong in them: what is said, the exit code, and that it ends.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import {
  faultline,
  fileIn,
  impatientFaultline,
  MEETING,
  ONE_POINT,
  refusalOf,
  scratchFolder,
  sharedFaultline,
  SHORT,
} from '../support/cli.js';
import { RECORDED_FOLDER } from '../support/strace-logs.js';

const folder = scratchFolder();
const IMPORT = `import { defineOps, svmDriver } from ${JSON.stringify(import.meta.resolve('faultline'))};\n`;

/** A driver like the real one, but for some members. */
function driverWith(members: string): string {
  return `${IMPORT}export const driver = defineOps({ ...svmDriver, opsName: 'mine', ${members} });\n`;
}

/** Modules that are refused: name, text, what is said. */
const REFUSED: readonly (readonly [string, string, RegExp])[] = [
  [
    'has a syntax error',
    'const a = 1;\nexport const driver = {;\n',
    /:2: cannot be loaded: Unexpected/,
  ],
  ['exports nothing', 'const a = 1;\n', /: it exports no object named 'driver'/],
  ['exports something else', 'export const driver = 7;\n', /: it exports no object named 'driver'/],
  [
    'exports half a driver',
    "export const driver = { opsName: 'x' };\n",
    /driver\.invalidate is not/,
  ],
  [
    'has no name',
    'export const driver = { invalidate() {}, fault() {} };\n',
    /driver\.opsName is not/,
  ],
  ['throws', "\n\nthrow new Error('no luck\\ntoday');\n", /:3: cannot be loaded: no luck$/],
  ['throws no error', 'throw null;\n', /: cannot be loaded: null$/],
  ['imports what is not there', "import 'no-such-package';\n", /no-such-package/],
  ['imports what faultline has not', IMPORT.replace('svmDriver', 'svmPilot'), /svmPilot/],
  ['ends the process', 'process.exit(7);\n', /ends the thread that loads it, with exit code 7/],
  ['waits for ever', 'await new Promise(() => {});\n', /: awaits something that never comes$/],
  [
    'waits for ever with a timer',
    'await new Promise(() => setInterval(() => {}, 1e3));\n',
    /is not loaded after 1 s/,
  ],
  ['spins for ever', 'for (;;);\n', /is not loaded after 1 s/],
];

describe('a module that cannot be used is refused in one line, if it', () => {
  for (const [index, [name, text, message]] of REFUSED.entries()) {
    test(name, async () => {
      const file = fileIn(folder, `refused-${index}.mjs`, text);
      const hangs = name.startsWith('spins') || name.endsWith('with a timer');
      const patience = hangs ? ['--watchdog', '1'] : []; // else a busy machine would look like a hang
      const line = await refusalOf(['bench', '--driver', file, ...patience]);
      assert.ok(line.startsWith(`faultline: --driver ${file}:`), line);
      assert.match(line, message);
    });
  }

  test('throws in the main thread only', async () => {
    const text = `import { isMainThread } from 'node:worker_threads';
${driverWith('')}
if (isMainThread) throw new Error('not here');`;
    const file = fileIn(folder, 'main-only.mjs', text);
    const line = await refusalOf(['bench', '--driver', file]);
    assert.match(line, /main-only\.mjs:5: cannot be loaded: not here$/);
  });

  test('is not there', async () => {
    const line = await refusalOf(['bench', '--driver', 'no-such.mjs']);
    assert.match(line, /--driver no-such\.mjs: no such file$/);
  });

  test('is a folder', async () => {
    mkdirSync(join(folder, 'folder.mjs'));
    const line = await refusalOf(['bench', '--driver', 'folder.mjs'], { cwd: folder });
    assert.match(line, /--driver folder\.mjs: is not a file$/);
  });
});

/** Runs into a failure of the machine: exit code 1, nothing of a result, and a report whose first line is returned. */
async function failureOf(
  file: string,
  args: readonly string[],
  run: typeof impatientFaultline = sharedFaultline,
): Promise<{ summary: string; details: string }> {
  const { code, stdout, stderr } = await run(['bench', ...args, '--driver', file]);
  assert.equal(code, 1, stderr);
  assert.doesNotMatch(stdout, /│/);
  const [summary = '', ...details] = stderr.trimEnd().split('\n');
  return { summary, details: details.join('\n') };
}

const WORKLOADS: readonly (readonly [string, readonly string[]])[] = [
  ['fault-invalidate', [...ONE_POINT, '--overlap', '1']],
  ['svm', ['svm', ...SHORT]],
  ['a replay', ['--strace', join(RECORDED_FOLDER, 'py.strace'), '--speed', '0']],
];

test('a fault that gives up with -EBUSY is the device’s to replay', async () => {
  const file = fileIn(
    folder,
    'impatient.mjs',
    driverWith(`
  fault(cpu, context, request) {
    return (count = (count + 1) % 3) === 0 ? -16 : svmDriver.fault(cpu, context, request);
  },`).replace('export', 'let count = 0;\nexport'),
  );
  const { code, stdout, stderr } = await sharedFaultline(['bench', ...ONE_POINT, '--driver', file]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /│ faults\/s/);
});

describe('a driver that fails in the middle of', () => {
  const throwing = fileIn(
    folder,
    'throwing.mjs',
    driverWith(`
  invalidate(cpu) {
    throw new Error('my invalidate failed');
  },`),
  );
  const spinning = fileIn(folder, 'spinning.mjs', driverWith('invalidate() { for (;;); },'));

  for (const [name, args] of WORKLOADS) {
    test(`${name} by throwing is named with its place, and none of our frames`, async () => {
      const { summary, details } = await failureOf(throwing, args);
      assert.match(
        summary,
        /^faultline: cpu \d+ \(.+\) died in invalidate at \S+throwing\.mjs:4:11: Error: my invalidate failed \(holds .*mmap_lock.*\)$/,
      );
      assert.doesNotMatch(details, /src\/(?:notifier|host|mm)|node_modules|node:/);
    });

    test(`${name} by never returning is ended by the watchdog`, async () => {
      const { summary } = await failureOf(spinning, args, impatientFaultline);
      assert.match(summary, /^faultline: stalled: cpu \d+ \(.+\) .*, for \d\.\d s$/);
    });
  }

  test('by never returning is noticed also if nothing is timed', async () => {
    const args = [...ONE_POINT, '--sample-every', '0'];
    const { summary } = await failureOf(spinning, args, impatientFaultline);
    assert.match(summary, /^faultline: stalled: cpu \d /);
  });

  test('by ending the process', async () => {
    const file = fileIn(folder, 'exiting.mjs', driverWith('invalidate() { process.exit(7); },'));
    const { summary } = await failureOf(file, ONE_POINT);
    assert.match(summary, /cpu \d \(.+\) lost its worker thread: worker exited with code: 7/);
  });

  test('by an error number that no fault there can have', async () => {
    const file = fileIn(folder, 'failing.mjs', driverWith('fault() { return -12; },'));
    const { summary } = await failureOf(file, ONE_POINT);
    assert.match(summary, /KernelBug: a device fault in the arena failed with -ENOMEM/);
  });
});

describe('in the main thread, a driver that', () => {
  const inMain = (statement: string): string =>
    `import { isMainThread } from 'node:worker_threads';\n${driverWith('')}\nif (isMainThread) ${statement}`;

  for (const [name, statement, message] of [
    [
      'throws in a timer',
      "setTimeout(() => { throw new Error('too late'); }, 300);",
      /^faultline: \S+late-0\.mjs:5: Error: too late\n$/,
    ],
    [
      'leaves a promise that fails',
      "setTimeout(() => { Promise.reject(new Error('broken')); }, 300);",
      /^faultline: \S+late-1\.mjs:5: Error: broken\n$/,
    ],
    [
      'throws what is no error',
      'setTimeout(() => { throw null; }, 300);',
      /^faultline: a module threw what is no error: null\n$/,
    ],
    [
      'ends the process',
      'setTimeout(() => process.exit(0), 300);',
      /^faultline: the process was ended before the run was over, with exit code 0: [^\n]+\n$/,
    ],
    [
      'ends the process when it is loaded',
      'process.exit(0);',
      /^faultline: the process was ended before the run was over, with exit code 0: [^\n]+\n$/,
    ],
    [
      'awaits what never comes',
      'await new Promise(() => {});',
      /^faultline: the process was ended before the run was over, with exit code \d+: [^\n]+\n$/,
    ],
  ] as const) {
    test(`${name} is what the run ends with, in a line`, async () => {
      const index = name === 'throws in a timer' ? 0 : 1; // the file's name is in the message
      const file = fileIn(folder, `late-${index}.mjs`, inMain(statement));
      const { code, stderr } = await faultline(['bench', '--duration', '60', '--driver', file]);
      assert.equal(code, 1, stderr);
      assert.match(stderr, message);
    });
  }

  test('has a timer that goes on does not keep the process', async () => {
    const file = fileIn(folder, 'ticking.mjs', inMain('setInterval(() => {}, 100);'));
    assert.equal((await faultline(['bench', ...ONE_POINT, '--driver', file])).code, 0);
  });
});

describe('a driver that', () => {
  test('does not invalidate has its stale accesses counted, and that is a violation', async () => {
    const file = fileIn(folder, 'idle.mjs', driverWith('invalidate() { return true; },'));
    const { code, stdout } = await faultline(['bench', 'svm', ...MEETING, '--driver', file]);
    assert.equal(code, 1);
    assert.match(
      stdout,
      /^violation: svm \(16 pages, overlap 1\): \d+ device accesses through a mapping/m,
    );
  });

  test('exports also what it took from faultline is no trouble', async () => {
    const text = `${driverWith('')}export { svmDriver };\nexport * from ${JSON.stringify(import.meta.resolve('faultline'))};`;
    const file = fileIn(folder, 'generous.mjs', text);
    assert.equal((await sharedFaultline(['bench', ...ONE_POINT, '--driver', file])).code, 0);
  });

  test('deadlocks on a lock of its own has the lock named in the report', async () => {
    const file = fileIn(
      folder,
      'deadlocking.mjs',
      `${IMPORT.replace('svmDriver', 'svmDriver, lockClass, allocPercpu, initMutex, mutexLock')}
const MINE = lockClass('my_driver->lock');
export const driver = defineOps({
  ...svmDriver,
  opsName: 'mine',
  invalidate(cpu, interval, range, seq) {
    const lock = allocPercpu(cpu, 32) + cpu.percpu;
    initMutex(cpu, lock, MINE);
    mutexLock(cpu, lock);
    mutexLock(cpu, lock);
    return true;
  },
});`,
    );
    const { summary, details } = await failureOf(file, [...ONE_POINT, '--watchdog', '5']);
    assert.match(`${summary}\n${details}`, /my_driver->lock/);
  });
});
