/**
 * Logs replayed by the command line: recorded ones, and copies in which one answer was changed.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import type { ReplayReport } from '../../../src/workloads/strace/replay.js';
import { faultline, fileIn, resultOf, scratchFolder, sharedFaultline } from '../../support/cli.js';
import {
  RECORDED,
  RECORDED_FOLDER,
  recordedLog,
  recordedText,
  textOf,
} from '../../support/strace-logs.js';

const folder = scratchFolder();
const AT_ONCE = ['--speed', '0'];

async function replay(file: string, ...args: readonly string[]): Promise<ReplayReport> {
  const { strace, points } = await resultOf(['bench', '--strace', file, ...args]);
  assert.deepEqual(points, []);
  return strace!;
}

const recorded = (name: string): string => join(RECORDED_FOLDER, `${name}.strace`);

describe('a recorded log', () => {
  for (const name of RECORDED) {
    test(`of ${name} ends as it was recorded, with devices faulting all over it`, async () => {
      const report = await replay(recorded(name), ...AT_ONCE);
      assert.equal(report.outcomeDifferenceCount, 0);
      assert.deepEqual(report.outcomeDifferences, []);
      assert.equal(report.staleAccesses, 0);
      const exits = recordedLog(name).calls.filter((call) => call.name === 'exit_group').length;
      assert.equal(report.replayed, recordedLog(name).calls.length - exits - report.skipped.length);
      const byKind = Object.values(report.byKind).reduce((sum, count) => sum + count, 0);
      assert.equal(byKind, report.replayed);
      assert.ok(report.call.samples > 0);
      assert.ok(report.invalidations > 0);
    });
  }

  test('is summed up for people', async () => {
    const { code, stdout } = await faultline(['bench', '--strace', recorded('xz'), ...AT_ONCE]);
    assert.equal(code, 0);
    assert.match(stdout, /^seed 1; as fast as it can, under 2 device threads on 1 device, random/m);
    assert.match(
      stdout,
      /xz\.strace: 1 process, 3 threads, 1 address space on 3 CPUs; 60 calls in [0-9.]+ s \(recorded: 2\.78 s\)$/m,
    );
    assert.match(stdout, /^│ mmap +│ +43 │$/m);
    assert.match(stdout, /^│ invalidation, as the devices saw them │ count │$/m);
    assert.match(stdout, /of which stale: 0$/m);
    assert.match(stdout, /^every call ended as in the log$/m);
  });

  for (const pattern of ['random', 'sequential', 'zipf']) {
    test(`can be faulted over in the pattern ${pattern}, by several devices`, async () => {
      const devices = ['--devices', '2', '--fault-threads', '3'];
      const report = await replay(recorded('xz'), '--speed', '8', '--pattern', pattern, ...devices);
      assert.deepEqual([report.outcomeDifferenceCount, report.staleAccesses], [0, 0]);
      assert.ok(report.deviceFaults > 0);
    });
  }

  test('can be replayed without devices’ faults', async () => {
    const report = await replay(recorded('xz'), ...AT_ONCE, '--fault-threads', '0');
    assert.deepEqual([report.deviceFaults, report.deviceAccesses], [0, 0]);
    assert.equal(report.outcomeDifferenceCount, 0);
  });

  test('is replayed at the speed that is asked for, and a pause in it is no stall', async () => {
    const log = fileIn(
      folder,
      'pause.strace',
      '7 1700000100.000000 brk(NULL) = 0x5000000\n7 1700000108.000000 brk(0x5001000) = 0x5001000\n',
    );
    const report = await replay(log, '--watchdog', '3', '--speed', '2', '--fault-threads', '0');
    assert.deepEqual([report.replayed, report.outcomeDifferenceCount], [2, 0]);
    assert.ok(report.seconds >= 4, 'a call may come late, and never early');
  });
});

/** A copy of a log with one line replaced. */
function tampered(name: string, line: number, change: (text: string) => string): string {
  const lines = recordedText(name).trimEnd().split('\n');
  const before = lines[line - 1]!;
  const after = change(before);
  assert.notEqual(after, before);
  lines[line - 1] = after;
  return fileIn(folder, `${name}-${line}.strace`, `${lines.join('\n')}\n`);
}

/** Line of the last call that matches. */
function lastLine(name: string, call: RegExp): number {
  return (
    recordedText(name)
      .trimEnd()
      .split('\n')
      .findLastIndex((line) => call.test(line)) + 1
  );
}

const ANONYMOUS = /mmap\(NULL, \d+, .*MAP_ANONYMOUS, -1, 0\) = 0x/;
const FIXED = /mmap\(0x.*MAP_FIXED.* = 0x/;

/** What is wrong with the answer of line `line`, and of no other. */
async function assertOnlyDifference(
  file: string,
  expected: { line: number; call: string; logged: string | RegExp; emulated: string | RegExp },
): Promise<void> {
  const args = ['bench', '--strace', file, ...AT_ONCE];
  const json = join(folder, 'tampered.json');
  const { code, stdout } = await sharedFaultline([...args, '--json', json]);
  assert.equal(code, 1, stdout);
  assert.match(stdout, /^1 call ended otherwise than in the log:$/m);
  const found = new RegExp(
    String.raw`^ {2}${file}:${expected.line}: ${expected.call} gave (\S+), in the log (\S+) \(the log: .+\)$`,
    'm',
  ).exec(stdout);
  assert.ok(found, stdout);
  const [, emulated, logged] = found;
  const same = (actual: string, wanted: string | RegExp): boolean =>
    typeof wanted === 'string' ? actual === wanted : wanted.test(actual);
  assert.ok(same(emulated!, expected.emulated), emulated);
  assert.ok(same(logged!, expected.logged), logged);
}

describe('a log with one false answer has exactly that one found:', () => {
  for (const name of ['xz', 'py'] as const) {
    test(`a mapping that failed and cannot have (${name})`, async () => {
      const line = lastLine(name, ANONYMOUS);
      const file = tampered(name, line, (text) =>
        text.replace(/ = 0x[0-9a-f]+$/, ' = -1 EEXIST (File exists)'),
      );
      await assertOnlyDifference(file, { line, call: 'mmap', logged: '-EEXIST', emulated: /^0x/ });
    });
  }

  test('a fixed mapping that came to lie elsewhere', async () => {
    const line = lastLine('xz', FIXED);
    const file = tampered('xz', line, (text) => text.replace(/0x[0-9a-f]+$/, '0x7f0000000000'));
    const [asked] = /0x[0-9a-f]+/.exec(recordedText('xz').split('\n')[line - 1]!)!;
    const logged = '0x7f0000000000';
    await assertOnlyDifference(file, { line, call: 'mmap', logged, emulated: asked });
  });

  test('a mapping that lies on another', async () => {
    const line = lastLine('xz', ANONYMOUS);
    const first = recordedText('xz')
      .split('\n')
      .find((text) => ANONYMOUS.test(text))!;
    const [taken] = /0x[0-9a-f]+$/.exec(first)!;
    const file = tampered('xz', line, (text) => text.replace(/0x[0-9a-f]+$/, taken));
    await assertOnlyDifference(file, { line, call: 'mmap', logged: taken, emulated: '-EEXIST' });
  });

  test('a protection that failed on pages that are there', async () => {
    const line = lastLine('xz', /mprotect\(.*, 16384, PROT_READ\) = 0$/); // of a mapped library
    const file = tampered('xz', line, (text) =>
      text.replace(/ = 0$/, ' = -1 ENOMEM (Cannot allocate memory)'),
    );
    await assertOnlyDifference(file, { line, call: 'mprotect', logged: '-ENOMEM', emulated: '0' });
  });
});

describe('what a log does not explain is no finding:', () => {
  const MAP = 'PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS';

  /** A log of one thread with a heap and a mapping at 0x70000000, written to a file. */
  function logWith(name: string, ...lines: readonly string[]): string {
    const begin = ['brk(NULL) = 0x5000000', `mmap(NULL, 8192, ${MAP}, -1, 0) = 0x70000000`];
    return fileIn(folder, name, textOf(...[...begin, ...lines].map((line) => `7 ${line}`)));
  }

  test('a refusal by a limit, a file or a privilege, after which all is as it was', async () => {
    const file = logWith(
      'refused.strace',
      'mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) = -1 EBADF (Bad file descriptor)',
      'mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3, 0) = -1 ENODEV (No such device)',
      `mmap(NULL, 4096, ${MAP}, -1, 0) = -1 ENOMEM (Cannot allocate memory)`,
      `mmap(0x70000000, 8192, ${MAP}|MAP_FIXED, -1, 0) = -1 ENOMEM (Cannot allocate memory)`,
      'mprotect(0x70000000, 8192, PROT_READ|PROT_WRITE) = 0',
      'mlock(0x70000000, 8192) = -1 EPERM (Operation not permitted)',
      'mlockall(MCL_CURRENT) = -1 ENOMEM (Cannot allocate memory)',
      'munlockall() = -1 (errno 531)',
      'madvise(0x70000000, 4096, MADV_DONTNEED) = 0', // would fail on locked memory
      'mremap(0x70000000, 8192, 16384, 0) = -1 ENOMEM (Cannot allocate memory)',
      'mremap(0x70000000, 8192, 16384, MREMAP_MAYMOVE) = -1 ENOMEM (Cannot allocate memory)',
      `mmap(0x70002000, 4096, ${MAP}|MAP_FIXED_NOREPLACE, -1, 0) = 0x70002000`,
      'mremap(0x70000000, 8192, 16384, MREMAP_MAYMOVE) = -1 ENOMEM (Cannot allocate memory)',
      'msync(0x70000000, 12288, MS_SYNC) = 0',
      'brk(0x5001000) = 0x5000000',
      'brk(NULL) = 0x5000000',
    );
    const { code, stdout } = await sharedFaultline(['bench', '--strace', file, ...AT_ONCE]);
    assert.equal(code, 0, stdout);
    assert.match(
      stdout,
      /^replayed, but how they ended is unexplained:\n {2}line 3: mmap fails with EBADF, /m,
    );
    assert.match(stdout, /^every other call ended as in the log$/m);
    const report = await replay(file, ...AT_ONCE);
    assert.deepEqual([report.replayed, report.outcomeDifferenceCount], [18, 0]);
    assert.deepEqual(report.skipped, []);
    assert.deepEqual(
      report.unexplained.map(({ line }) => line),
      [3, 4, 5, 6, 8, 9, 10, 12, 13, 15, 17],
    );
  });

  test('a mapping that failed although the emulated one does not', async () => {
    const line = lastLine('xz', ANONYMOUS);
    const file = tampered('xz', line, (text) =>
      text.replace(/ = 0x[0-9a-f]+$/, ' = -1 ENOMEM (Cannot allocate memory)'),
    );
    const report = await replay(file, ...AT_ONCE);
    assert.deepEqual(report.outcomeDifferences, []);
    assert.deepEqual(report.unexplained, [
      { line, name: 'mmap', reason: 'fails with ENOMEM, for a reason that is not in the log' },
    ]);
  });

  test('but a contradiction beside it is one', async () => {
    const file = logWith(
      'both.strace',
      'mlock(0x70000000, 4096) = -1 EPERM (Operation not permitted)',
      'mincore(0x70000000, 4096, NULL) = -1 ENOMEM (Cannot allocate memory)',
    );
    const expected = { line: 4, call: 'mincore', logged: '-ENOMEM', emulated: '0' };
    await assertOnlyDifference(file, expected);
  });

  test('calls that are not emulated are counted, and those on no memory apart', async () => {
    const file = logWith(
      'others.strace',
      'shmat(3, NULL, 0) = 0x7f0000000000',
      'madvise(0x70000000, 4096, MADV_REMOVE) = 0',
      'mbind(0x70000000, 4096, MPOL_DEFAULT, NULL, 0, 0) = 0',
      'shmat(4, NULL, 0) = 0x7f0000001000',
      'read(0, "", 1) = 0',
    );
    const { code, stdout } = await sharedFaultline(['bench', '--strace', file, ...AT_ONCE]);
    assert.equal(code, 0, stdout);
    assert.match(stdout, /^not emulated: shmat 2, madvise\(MADV_REMOVE\) 1, mbind 1$/m);
    assert.match(stdout, /^no calls on memory: read 1$/m);
    assert.match(stdout, /^every call ended as in the log$/m);
  });
});

describe('the report says', () => {
  test('how many of the births were vforks', async () => {
    const log = recordedLog('gcc');
    const vforks = log.calls.filter(({ name }) => name === 'vfork').length;
    assert.ok(vforks > 0);
    const { code, stdout } = await sharedFaultline([
      'bench',
      '--strace',
      recorded('gcc'),
      ...AT_ONCE,
    ]);
    assert.equal(code, 0, stdout);
    assert.match(stdout, new RegExp(`^│ vfork +│ +${vforks} │$`, 'm'));
    assert.doesNotMatch(stdout, /^│ thread /m);
    assert.equal((await replay(recorded('gcc'), ...AT_ONCE)).byKind['vfork'], vforks);
  });

  for (const [speed, words] of [
    ['1', 'at recorded speed'],
    ['8', 'at 8 times the recorded speed'],
  ] as const) {
    test(`that it replays ${words}`, async () => {
      const log = fileIn(
        folder,
        'short.strace',
        '7 1700000100.000000 brk(NULL) = 0x5000000\n7 1700000100.200000 brk(0x5001000) = 0x5001000\n',
      );
      const { stdout } = await sharedFaultline(['bench', '--strace', log, '--speed', speed]);
      assert.match(stdout, new RegExp(`^seed 1; ${words}, under 2 device threads`, 'm'));
    });
  }
});
