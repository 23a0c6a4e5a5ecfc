/**
 * Loads a driver of the user's for `--driver MODULE`.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { EXIT_USAGE, FaultlineError } from '../base/bug.js';
import { type SvmDriver } from '../drivers/svm/driver.js';
import { type LoadedDriver } from '../workloads/measure.js';

/** @throws FaultlineError naming the module and what is wrong with it */
export async function loadDriver(path: string): Promise<LoadedDriver> {
  const file = resolve(path);
  if (!existsSync(file)) throw bad(`--driver ${path}: no such file`);
  const url = pathToFileURL(file).href;
  let exports: Record<string, unknown>;
  try {
    exports = (await import(url)) as Record<string, unknown>;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
    throw bad(`--driver ${path}: cannot be loaded: ${reason}`);
  }
  const { driver } = exports;
  const problem = whatIsWrong(driver);
  if (problem !== undefined) throw bad(`--driver ${path}: ${problem}`);
  return { url, driver: driver as SvmDriver };
}

function whatIsWrong(driver: unknown): string | undefined {
  if (typeof driver !== 'object' || driver === null) return "it exports no object named 'driver'";
  const { opsName, invalidate, fault } = driver as Partial<Record<keyof SvmDriver, unknown>>;
  if (typeof opsName !== 'string' || opsName === '') return 'driver.opsName is not a name';
  if (typeof invalidate !== 'function') return 'driver.invalidate is not a function';
  if (typeof fault !== 'function') return 'driver.fault is not a function';
  return undefined;
}

function bad(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_DRIVER', message, EXIT_USAGE);
}
