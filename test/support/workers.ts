/**
 * How many worker threads of this process are alive.
 *
 * @module
 */
import { subscribe } from 'node:diagnostics_channel';
import type { Worker } from 'node:worker_threads';

let live = 0;

subscribe('worker_threads', (message) => {
  const { worker } = message as { readonly worker: Worker };
  live++;
  worker.once('exit', () => {
    live--;
  });
});

/** Worker threads that have been started, since this module was loaded, and have not ended. */
export function liveWorkers(): number {
  return live;
}
