/**
 * The worker threads of this process: how many are alive, and one less.
 *
 * @module
 */
import { subscribe } from 'node:diagnostics_channel';
import type { Worker } from 'node:worker_threads';

const live = new Set<Worker>();

subscribe('worker_threads', (message) => {
  const { worker } = message as { readonly worker: Worker };
  live.add(worker);
  worker.once('exit', () => {
    live.delete(worker);
  });
});

/** Worker threads that have been started, since this module was loaded, and have not ended. */
export function liveWorkers(): number {
  return live.size;
}

/** Ends one of them under whatever it runs, if there is one. */
export function loseWorker(): void {
  const [worker] = live;
  if (worker !== undefined) void worker.terminate();
}
