/**
 * Loads a driver of the user's for `--driver MODULE`.
 *
 * A module may do anything when it is loaded: throw, wait for ever, spin, end the process. So it is loaded
 * in a thread of its own first, which can be given up on; what it does only in the main thread shows after
 * that.
 *
 * @module
 */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';

import { EXIT_USAGE, FaultlineError, type LoadedDriver, type SvmDriver } from 'faultline';

import { type DriverProblem, problemOf } from './driver-problem.js';

/**
 * The driver that a module exports.
 * @param limitMs how long it may take to load; unit: milliseconds
 * @throws FaultlineError naming the module and what is wrong with it
 */
export async function loadDriver(path: string, limitMs: number): Promise<LoadedDriver> {
  const file = resolve(path);
  const stats = statSync(file, { throwIfNoEntry: false });
  if (stats === undefined) throw bad(`--driver ${path}: no such file`);
  if (!stats.isFile()) throw bad(`--driver ${path}: is not a file`);
  const url = pathToFileURL(file).href;
  const problem = (await probe(url, limitMs)) ?? (await problemOf(url));
  if (problem !== undefined) {
    const place = problem.line === undefined ? '' : `:${problem.line}`;
    throw bad(`--driver ${path}${place}: ${problem.message}`);
  }
  const { driver } = (await import(url)) as { readonly driver: SvmDriver };
  return { url, driver };
}

/** What is wrong with the module, if anything. */
async function probe(url: string, limitMs: number): Promise<DriverProblem | undefined> {
  const worker = new Worker(new URL('./driver-probe.js', import.meta.url), { workerData: url });
  try {
    return await new Promise((settle) => {
      const timer = setTimeout(() => {
        settle({ message: `it is not loaded after ${limitMs / 1000} s` });
      }, limitMs);
      worker.on('message', settle);
      worker.on('error', (error) => {
        settle({ message: `cannot be loaded: ${error.message}` });
      });
      worker.on('exit', (code) => {
        clearTimeout(timer);
        settle({ message: whyEnded(code) });
      });
    });
  } finally {
    await worker.terminate();
  }
}

/** Node's exit code of a module whose top level awaits what nothing can bring. */
const UNSETTLED_AWAIT = 13;

function whyEnded(code: number): string {
  if (code === UNSETTLED_AWAIT) return 'awaits something that never comes';
  return `ends the thread that loads it, with exit code ${code}`;
}

function bad(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_DRIVER', message, EXIT_USAGE);
}
