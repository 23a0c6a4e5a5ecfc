/**
 * Pools of workers: one worker for each member of a crew, and none left when it has ended.
 *
 * A pool serves one crew, or one after the other: starting a worker takes longer than a short run.
 *
 * @module
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { MessagePort, Worker } from 'node:worker_threads';

import type { Piscina } from 'piscina';

/** The builds of `#memory` and `#debug`. */
export type Build = 'parallel' | 'checked' | 'turnstile';

/** What a worker runs; by the package's own name, so that the conditions of the build choose the file. */
export const WORKER = import.meta.resolve('faultline/worker');
const LOADER = import.meta.resolve('#load-worker');

/** How a task is given to a worker. */
export interface TaskOptions {
  /** The function of the worker's file; by default its default. */
  readonly name?: string;
  readonly transferList?: readonly MessagePort[];
}

/** Exactly `size` workers that run the file at the URL `worker`, each one task at a time. */
export class WorkerPool {
  readonly size: number;
  readonly #module: string;
  readonly #piscina: Piscina;
  /** The workers it began with; Piscina puts new ones in the place of those that end. */
  readonly #threads: readonly Worker[];
  #ended: Promise<void> | undefined;
  #hasFailed = false;
  /** Tasks that have not come back. */
  #running = 0;

  constructor(size: number, build: Build, worker: string = WORKER) {
    // loaded with the first crew: every worker loads this module too, and makes none
    const require = createRequire(import.meta.url);
    const piscina = require('piscina') as { readonly Piscina: typeof Piscina };
    this.size = size;
    this.#module = worker;
    this.#piscina = new piscina.Piscina({
      filename: fileURLToPath(LOADER),
      minThreads: size,
      maxThreads: size,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
      execArgv: build === 'parallel' ? [] : [`--conditions=faultline-${build}`],
    });
    this.#threads = [...this.#piscina.threads];
    this.#piscina.on('error', () => (this.#hasFailed = true)); // between two crews nobody else listens
  }

  /** True once it can serve no crew any more. */
  get hasEnded(): boolean {
    return this.#hasFailed || this.#ended !== undefined;
  }

  /** True while it runs a task. */
  get isBusy(): boolean {
    return this.#running > 0;
  }

  /** Runs a task; what it returns. @throws Error that says why there is nothing */
  async run(
    task: unknown,
    { name = 'default', transferList = [] }: TaskOptions = {},
  ): Promise<unknown> {
    const transferred = { transferList: [...transferList] };
    const named = { module: this.#module, entry: name, task };
    this.#running++;
    try {
      return await (this.#piscina.run(named, transferred) as Promise<unknown>);
    } catch (error) {
      if (error instanceof Error && error.message !== '') throw error;
      throw new Error('what it returned cannot be sent', { cause: error });
    } finally {
      this.#running--;
    }
  }

  /** Calls the listener when a worker fails outside of its task; returns what ends that. */
  onError(listener: (error: Error) => void): () => void {
    this.#piscina.on('error', listener);
    return () => this.#piscina.off('error', listener);
  }

  /** Ends all workers, also those that still run, and waits until they are gone. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    do {
      await this.#piscina.destroy();
      await Promise.all(this.#threads.map(threadEnded)); // the pool forgets those that failed
    } while (this.#piscina.threads.length > 0); // or puts new ones in their place when they are gone
  }
}

/** Pools for crews of all builds, started when first needed and kept from run to run. */
export class WorkerPools {
  readonly #size: number;
  readonly #pools = new Map<Build, WorkerPool>();

  /** `size`: members of the crew that has most. */
  constructor(size: number) {
    this.#size = size;
  }

  /** The pool of that build; a new one if the last did not come back whole. */
  for(build: Build): WorkerPool {
    const known = this.#pools.get(build);
    if (known !== undefined && !known.hasEnded) return known;
    const pool = new WorkerPool(this.#size, build);
    this.#pools.set(build, pool);
    return pool;
  }

  async end(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.end()));
  }
}

function threadEnded(worker: Worker): Promise<void> {
  return new Promise((resolve) => {
    if (worker.threadId === -1) resolve();
    else worker.once('exit', resolve);
  });
}
