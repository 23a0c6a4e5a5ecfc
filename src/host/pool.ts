/**
 * Pools of workers: one worker for each member of a crew, and none left when it has ended.
 *
 * @module
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Worker } from 'node:worker_threads';

import type { Piscina } from 'piscina';

/** The builds of `#memory` and `#debug`. */
export type Build = 'parallel' | 'checked' | 'turnstile';

/** What a worker runs; by the package's own name, so that the conditions of the build choose the file. */
export const WORKER = import.meta.resolve('faultline/worker');

/** A pool of exactly `members` workers that run the file at the URL `worker`, each one task. */
export function newPool(members: number, worker: string, build: Build): Piscina {
  // loaded with the first crew: every worker loads this module too, and makes none
  const require = createRequire(import.meta.url);
  const piscina = require('piscina') as { readonly Piscina: typeof Piscina };
  return new piscina.Piscina({
    filename: fileURLToPath(worker),
    minThreads: members,
    maxThreads: members,
    concurrentTasksPerWorker: 1,
    atomics: 'disabled',
    recordTiming: false,
    execArgv: build === 'parallel' ? [] : [`--conditions=faultline-${build}`],
  });
}

/** Ends all workers, also those that still run, and waits until they are gone. */
export async function endPool(pool: Piscina, threads: readonly Worker[]): Promise<void> {
  await pool.destroy();
  await Promise.all(threads.map(threadEnded)); // the pool forgets those that failed
}

function threadEnded(worker: Worker): Promise<void> {
  return new Promise((resolve) => {
    if (worker.threadId === -1) resolve();
    else worker.once('exit', resolve);
  });
}
