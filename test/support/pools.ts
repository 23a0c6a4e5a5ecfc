/**
 * Workers that the crews and explorations of a test file share, one after the other: a worker takes longer to load
 * the kernel layers than most tests take.
 *
 * @module
 */
import { after } from 'node:test';

import { type Build, WorkerPool } from '../../src/host/pool.js';

interface Shared {
  readonly pool: WorkerPool;
  readonly build: Build;
  readonly worker: string | undefined;
}

const shared: Shared[] = [];

after(endPools);

/** Ends them all; the file's own end does that, too. */
export async function endPools(): Promise<void> {
  await Promise.all(shared.map(({ pool }) => pool.end()));
}

/** Workers that nobody uses, which run the file at the URL `worker`: `size` or more, or exactly so many. */
export function idlePool(
  size: number,
  build: Build,
  { worker, exactly = false }: { readonly worker?: string; readonly exactly?: boolean } = {},
): WorkerPool {
  const isFit = ({ pool, ...of }: Shared): boolean =>
    of.build === build &&
    of.worker === worker &&
    (exactly ? pool.size === size : pool.size >= size) &&
    !pool.isBusy &&
    !pool.hasEnded;
  const known = shared.find(isFit);
  if (known !== undefined) return known.pool;
  const pool = new WorkerPool(size, build, worker);
  shared.push({ pool, build, worker });
  return pool;
}
