/**
 * A worker that is killed in the middle of a run: a report, and no hang.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';

import { torture, torturePools } from '../support/torture.js';

const pools = torturePools();
after(() => pools.end());

test('a worker that is killed ends the run, with what it waited for and held', async () => {
  const workers: Worker[] = [];
  process.on('worker', (worker: Worker) => workers.push(worker));
  let counted = 0;
  const running = torture('rwsem', pools, {
    timing: { durationMs: 3_600_000 },
    options: {
      onProgress: (_done, operations) => {
        counted = operations;
      },
    },
  });
  while (counted === 0) await sleep(10);
  // a worker may have no member: the pool is larger than the crew
  for (const worker of workers) await worker.terminate();
  const { violation } = await running;
  assert.equal(violation?.detector, 'lost worker');
  assert.match(violation.what, /^cpu \d \((writer|reader) \d\) lost its worker thread/);
  assert.equal(violation.cpus.length, 4);
});
