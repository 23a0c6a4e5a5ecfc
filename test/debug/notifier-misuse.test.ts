/**
 * What lockdep reports of violations of the notifier protocol, against what it reported of the same ones in a
 * Linux 6.12.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { MISUSES, type MisuseSeen } from '../programs/notifier-misuse.js';

/** One boot of the real kernel. */
interface Recorded {
  readonly name: string;
  readonly reported: boolean;
  readonly messages: readonly string[];
  readonly firstReport: readonly string[];
}

const RECORDED = new URL('../../../test/data/linux/lockdep-hmm-6.12.json', import.meta.url);
const SCRIPT = fileURLToPath(new URL('../programs/notifier-misuse.js', import.meta.url));
const { results } = JSON.parse(readFileSync(RECORDED, 'utf8')) as { results: Recorded[] };

/** What the code itself says where it was an assertion of the kernel's own. */
const ASSERTIONS: Readonly<Record<string, RegExp>> = {
  'fault-without-mmap-lock': /^cpu 0: mmap_lock .* should be held, and is not$/,
  'sleep-in-nonblockable':
    /^cpu 0: sleeping function called from invalid context \(non_block_count/,
  'blockable-callback-fails': /^misuser: invalidate refused a range that may block$/,
  'list-start-fails': /^listener: invalidateRangeStart refused a range that may block$/,
};

/** The steps of the scenario: `lock(a)`, by CPU. */
function scenarioOf(lines: readonly string[]): string[] {
  const named = (text: string): string => text.replace('&mm->', '').replace('&c->', '');
  return lines.filter((line) => /^\s+r?lock\(.*\);$/.test(line)).map(named);
}

describe('violations of the notifier protocol', () => {
  let seen: Readonly<Record<string, MisuseSeen>> = {};
  before(async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [
      '--conditions=faultline-checked',
      SCRIPT,
    ]);
    seen = JSON.parse(stdout) as Record<string, MisuseSeen>;
  });

  for (const { name, reported, messages, firstReport } of results) {
    const [message = ''] = messages;
    test(`${name}: ${reported ? message : 'nothing'}`, () => {
      assert.ok(MISUSES.has(name));
      const { reports, bug } = seen[name]!;
      if (!reported) {
        assert.deepEqual([reports, bug], [[], null]);
        return;
      }
      const lockdep = /possible (?:recursive|circular) lock\w+/.exec(message)?.[0];
      if (lockdep === undefined) {
        assert.match(bug ?? 'nothing', ASSERTIONS[name]!);
        return;
      }
      const [first = ''] = reports;
      assert.ok(first.startsWith(lockdep), first);
      assert.deepEqual(scenarioOf(first.split('\n')), scenarioOf(firstReport));
    });
  }

  test('are reported with the stacks of what was done, and of what had been seen before', () => {
    const [report = ''] = seen['user-lock-over-fault']!.reports;
    const [now = '', before = ''] = report.split('was taken under');
    assert.match(now, /\n {4}at mmuIntervalReadBegin /);
    assert.match(before, /\n {4}at mutexLock .*\n {4}at Object.invalidate /);
    assert.match(report, /cpu 0 holds:\n #0: ulock$/);
  });
});
