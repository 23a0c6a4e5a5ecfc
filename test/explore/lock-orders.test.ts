/**
 * INV-38: whatever deadlock an exploration comes upon, if it is a cycle of locks, lockdep reports it too.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { CyclesSeen } from '../programs/lock-cycles.js';
import { exploreProgram } from '../support/exploration.js';

const SCRIPT = fileURLToPath(new URL('../programs/lock-cycles.js', import.meta.url));

describe('lockdep under exploration', () => {
  test('reports the locks of every cycle that random programs deadlock in (INV-38)', async () => {
    const args = ['--conditions=faultline-turnstile', SCRIPT, '0', '120', '60'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const seen = JSON.parse(stdout) as CyclesSeen;
    assert.deepEqual(seen.missed, []);
    assert.ok(seen.cycles > 300, `${seen.cycles} cycles were looked at`);
    assert.ok(seen.deadlocked.length > 20, `${seen.deadlocked.length} programs deadlock`);
    for (const name of seen.deadlocked) assert.ok(seen.reported.includes(name), name);
  });

  test('reports LT-15, of which no schedule deadlocks', async () => {
    const more = { program: 'lt-15', random: 200, pct: 200 };
    const { outcomes } = await exploreProgram({ ...more, mutant: 'M-alloc-locked' });
    const report =
      'possible circular locking dependency: driver->lock -> fs_reclaim -> mmu_notifier_invalidate_range_start -> driver->lock';
    assert.deepEqual(outcomes, { [report]: 400 });
  });
});
