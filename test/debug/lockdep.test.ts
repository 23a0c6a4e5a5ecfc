/**
 * lockdep case by case; on several CPUs at once; and not at all in the parallel build.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { lockReports, MachineFailure } from '../../src/host/failure.js';
import {
  keepLockReport,
  LOCK_REPORT_CHARACTERS,
  LOCK_REPORTS_MAX,
  lockReportCount,
  lockReportTexts,
} from '../../src/machine/lock-report.js';
import { nonBlockEnd, nonBlockStart } from '../../src/machine/sched.js';
import { warningTexts } from '../../src/machine/warn.js';
import { backwards, forwards, setupOrders } from '../programs/lock-order-crew.js';
import type { LockdepSeen } from '../programs/lockdep-cases.js';
import { programUrl, runProgram } from '../support/crew.js';
import { bootCpu } from '../support/machine.js';

const SCRIPT = fileURLToPath(new URL('../programs/lockdep-cases.js', import.meta.url));
const ROOT = new URL('../../../', import.meta.url);

/** First lines of what is reported of each case. */
const EXPECTED: Readonly<Record<string, readonly string[]>> = {
  'what is tried may come out of order': [],
  'what was tried is held, and counts for what is taken next': [
    'possible circular locking dependency: A -> B -> A',
  ],
  'under what was tried, the locks further out count too': [
    'possible circular locking dependency: A -> B -> A',
  ],
  'under a recursive read, the locks further out count too': [
    'possible circular locking dependency: A -> B -> A',
  ],
  'locks of one class, with a subclass': [],
  'subclasses in both orders': ['possible circular locking dependency: A -> A/1 -> A'],
  'locks of one class, under a lock around all of them': [],
  'the lock around all of them is not held': ['nested lock was not taken: the one around A'],
  'a path that is not taken': ['possible circular locking dependency: A -> B -> A'],
  'given back in the order they were taken': ['possible circular locking dependency: B -> C -> B'],
  'read in both orders, after a downgrade': ['possible circular locking dependency: A -> B -> A'],
  'the same mistake twice': ['possible circular locking dependency: A -> B -> A'],
  'two mistakes': [
    'possible circular locking dependency: A -> B -> A',
    'possible circular locking dependency: B -> C -> B',
  ],
  'a wait for readers under a lock that a reader takes': [
    'possible circular locking dependency: A -> domain -> A',
  ],
  'a wait for readers inside of a reader': ['possible recursive locking: domain'],
  'readers inside of readers': [],
  'a flush under a lock that the work takes': [
    'possible circular locking dependency: A -> domain -> A',
  ],
  'a map that is not held': ['bad unlock balance: a map is given back that is not held'],
  'sleeping in a non-blocking section': [
    'cpu 0: sleeping function called from invalid context (non_block_count 1)',
  ],
  'freeing what holds a lock': ['held lock freed: A'],
  'an interrupt takes what is held where it may come': [
    'inconsistent lock state: A {IN-HARDIRQ-W} and {HARDIRQ-ON-W}',
  ],
  'an interrupt takes what is held where it may not come': [],
  GFP_KERNEL: [
    'possible circular locking dependency: A -> fs_reclaim -> mmu_notifier_invalidate_range_start -> A',
  ],
  GFP_NOFS: ['possible circular locking dependency: A -> mmu_notifier_invalidate_range_start -> A'],
  GFP_NOIO: ['possible circular locking dependency: A -> mmu_notifier_invalidate_range_start -> A'],
  GFP_NOWAIT: [],
  GFP_ATOMIC: [],
  'GFP_KERNEL where I/O is not allowed': [
    'possible circular locking dependency: A -> mmu_notifier_invalidate_range_start -> A',
  ],
  'GFP_KERNEL in reclaim': [],
};

describe('lockdep', () => {
  let seen: LockdepSeen = { cases: {}, counts: {}, waits: {} };
  before(async () => {
    const args = ['--conditions=faultline-checked', SCRIPT];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    seen = JSON.parse(stdout) as LockdepSeen;
  });

  test('has no cases but these', () => {
    assert.deepEqual(Object.keys(seen.cases).sort(), Object.keys(EXPECTED).sort());
  });

  for (const [name, expected] of Object.entries(EXPECTED)) {
    test(`${name}: ${expected.length === 0 ? 'nothing' : expected.join('; ')}`, () => {
      assert.deepEqual(seen.cases[name], expected);
    });
  }

  test('goes on after a report, and makes each once', () => {
    assert.equal(seen.counts['the same mistake twice'], 1);
    assert.equal(seen.counts['two mistakes'], 2);
  });

  test('knows what may wait inside of what', () => {
    assert.deepEqual(seen.waits, {
      'hard interrupt': ['mutex'],
      'hard interrupt, not threaded': ['spin', 'mutex'],
      'soft interrupt': ['mutex'],
      RCU: ['mutex'],
      raw: ['spin', 'mutex'],
      spin: ['mutex'],
      mutex: [],
    });
  });
});

describe('on several CPUs', () => {
  const run = (build: 'checked' | 'parallel', entry: readonly string[]) =>
    runProgram({
      cpus: 2,
      build,
      module: programUrl('lock-order-crew'),
      entry,
      setup: setupOrders,
    });

  test('an order on one and the other on another are reported, with both stacks', async () => {
    const { machine } = await run('checked', [forwards.name, backwards.name]);
    const reports = lockReports(machine.cpu);
    assert.equal(reports.length, 1, reports.join('\n'));
    const [report = ''] = reports;
    assert.match(report, /^possible circular locking dependency: crew->a -> crew->b -> crew->a\n/);
    assert.match(report, /cpu 1 takes crew->a while it holds crew->b:\n/);
    const [now = '', earlier = ''] = report.split('was taken under');
    assert.match(now, /at mutexLock .*src\/sync\/mutex\.ts:\d+:\d+/);
    assert.match(now, /at backwards .*test\/programs\/lock-order-crew\.ts:\d+:\d+/);
    assert.match(earlier, /at forwards .*test\/programs\/lock-order-crew\.ts:\d+:\d+/);
    assert.ok(
      report.includes(
        [
          '       CPU0                    CPU1',
          '       ----                    ----',
          '  lock(crew->b);',
          '                               lock(crew->a);',
          '                               lock(crew->b);',
          '  lock(crew->a);',
          ' *** DEADLOCK ***',
        ].join('\n'),
      ),
      report,
    );
  });

  test('many orders that agree are learned by all at once, and none is reported', async () => {
    const { machine } = await run('checked', ['learn', 'learn']);
    assert.deepEqual(lockReports(machine.cpu), []);
  });

  test('a machine that stops tells what was reported before', async () => {
    const failure = await run('checked', [forwards.name, 'backwardsAndDie']).catch(
      (error: unknown) => error,
    );
    assert.ok(failure instanceof MachineFailure);
    assert.match(failure.message, /\n {2}possible circular locking dependency: crew->a/);
  });

  test('nothing is reported at full speed', async () => {
    const { machine } = await run('parallel', [forwards.name, backwards.name]);
    assert.deepEqual(lockReports(machine.cpu), []);
  });
});

describe('reports', () => {
  test('are kept as they were written, the first of them; a long one is cut', () => {
    const cpu = bootCpu();
    for (let i = 0; i < LOCK_REPORTS_MAX + 2; i++) keepLockReport(cpu, i + 1, `${i} – ∞`);
    assert.equal(lockReportCount(cpu), LOCK_REPORTS_MAX + 2);
    assert.deepEqual(
      lockReportTexts(cpu),
      Array.from({ length: LOCK_REPORTS_MAX }, (_, i) => `${i} – ∞`),
    );
    const other = bootCpu();
    keepLockReport(other, 1, 'x'.repeat(LOCK_REPORT_CHARACTERS + 10));
    assert.equal(lockReportTexts(other)[0]?.length, LOCK_REPORT_CHARACTERS);
  });

  test('the end of a non-blocking section that never began is a warning', () => {
    const cpu = bootCpu();
    nonBlockStart(cpu);
    nonBlockEnd(cpu);
    assert.deepEqual(warningTexts(cpu), []);
    nonBlockEnd(cpu);
    assert.deepEqual(warningTexts(cpu), ['cpu 0: non_block_end without non_block_start']);
    assert.equal(cpu.nonBlockCount, 0);
  });
});

test('the parallel build has nothing of it', () => {
  const code = (file: string): string => {
    const text = readFileSync(new URL(`dist/${file}`, ROOT), 'utf8');
    return text.replace(/\/\*[^]*?\*\//g, '').replace(/\/\/.*$/gm, '');
  };
  const parts = /lockdepAcquire|LockGraph|mightAllocChecked|\.onFree|\.onAlloc/;
  assert.doesNotMatch(code('kernel.js'), parts);
  for (const part of ['lockdepAcquire', 'LockGraph', 'mightAllocChecked', '.onFree']) {
    assert.ok(code('kernel.checked.js').includes(part), part);
    assert.ok(code('faultline.turnstile.js').includes(part), part);
  }
});
