/**
 * Loads what the user brings: `--driver MODULE`, `--program MODULE`.
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

import {
  EXIT_USAGE,
  FaultlineError,
  type LoadedDriver,
  type LoadedLock,
  type SvmDriver,
  type TortureLock,
} from 'faultline';

import { type ModuleKind, type ModuleProblem, problemOf } from './module-problem.js';

/**
 * The driver that a module exports.
 * @param limitMs how long it may take to load; unit: milliseconds
 * @throws FaultlineError naming the module and what is wrong with it
 */
export async function loadDriver(path: string, limitMs: number): Promise<LoadedDriver> {
  const url = await checkModule(path, 'driver', limitMs);
  const { driver } = (await import(url)) as { readonly driver: SvmDriver };
  return { url, driver };
}

/** The lock that a module exports; limits and errors as above. */
export async function loadLock(path: string, limitMs: number): Promise<LoadedLock> {
  const url = await checkModule(path, 'lock', limitMs);
  const { lock } = (await import(url)) as { readonly lock: TortureLock };
  return { url, lock };
}

/** The URL of a module that exports a program to explore; limits and errors as above. */
export function checkProgramModule(path: string, limitMs: number): Promise<string> {
  return checkModule(path, 'program', limitMs);
}

/** The URL of a module that exports what is wanted. */
async function checkModule(path: string, kind: ModuleKind, limitMs: number): Promise<string> {
  const file = resolve(path);
  const stats = statSync(file, { throwIfNoEntry: false });
  if (stats === undefined) throw bad(kind, `--${kind} ${path}: no such file`);
  if (!stats.isFile()) throw bad(kind, `--${kind} ${path}: is not a file`);
  const url = pathToFileURL(file).href;
  const problem = (await probe(url, kind, limitMs)) ?? (await problemOf(url, kind));
  if (problem === undefined) return url;
  const place = problem.line === undefined ? '' : `:${problem.line}`;
  throw bad(kind, `--${kind} ${path}${place}: ${problem.message}`);
}

/** What is wrong with the module, if anything. */
async function probe(
  url: string,
  kind: ModuleKind,
  limitMs: number,
): Promise<ModuleProblem | undefined> {
  const workerData = { url, kind };
  const worker = new Worker(new URL('./module-probe.js', import.meta.url), { workerData });
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

function bad(kind: ModuleKind, message: string): FaultlineError {
  return new FaultlineError(`FAULTLINE_BAD_${kind.toUpperCase()}`, message, EXIT_USAGE);
}
