/**
 * A worker that is killed in the middle of a run: a report, and no hang.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BroadcastChannel, type Worker } from 'node:worker_threads';

import { driver, STOPPED } from '../programs/stopping-driver.js';
import { programUrl } from '../support/crew.js';
import { torture, torturePools } from '../support/torture.js';

const pools = torturePools();
after(() => pools.end());

const workers: Worker[] = [];
process.on('worker', (worker: Worker) => workers.push(worker));

test('a worker that is killed ends the run, with what it waited for and held', async () => {
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

test('one that is killed while it holds mmap_lock is named with it, and nobody waits for ever', async () => {
  const stopped = new BroadcastChannel(STOPPED);
  const killed = new Promise<void>((resolve, reject) => {
    stopped.onmessage = (event) => {
      stopped.close();
      const { data } = event as { readonly data: number };
      const worker = workers.find(({ threadId }) => threadId === data);
      worker?.terminate().then(() => {
        resolve();
      }, reject);
    };
  });
  const running = torture('mm', pools, {
    timing: { durationMs: 3_600_000 },
    options: { driver: { url: programUrl('stopping-driver'), driver } },
  });
  await killed;
  const { violation } = await running;
  assert.equal(violation?.detector, 'lost worker');
  assert.match(
    violation.what,
    /^cpu \d \(cpu \d\) lost its worker thread: .*; it runs; holds mmap_lock;/,
  );
  const [lost] = /^cpu \d/.exec(violation.what)!;
  // who waits for the lock of another address space may have been about to get it: that one nobody holds
  for (const { cpu, doing } of violation.cpus) {
    if (`cpu ${cpu}` === lost) assert.match(doing, /^runs; holds mmap_lock/);
    else assert.match(doing, /^(waits for|runs|has ended)/);
  }
});
