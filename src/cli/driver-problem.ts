/**
 * What is wrong with a driver module, found out by loading it into this thread.
 *
 * @module
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { type SvmDriver } from 'faultline';

import { reasonOf } from '../base/reason.js';

/** Why a module cannot be used, and on which line of it, if that is known. */
export interface DriverProblem {
  readonly message: string;
  readonly line?: number;
}

/** Loads a module; what is wrong with it, or undefined. */
export async function problemOf(url: string): Promise<DriverProblem | undefined> {
  try {
    const { driver } = (await import(url)) as { readonly driver?: unknown };
    const message = whatIsWrong(driver);
    return message === undefined ? undefined : { message };
  } catch (error) {
    const line = error instanceof SyntaxError ? syntaxLine(url) : lineIn(url, error);
    const message = `cannot be loaded: ${reasonOf(error)}`;
    return line === undefined ? { message } : { message, line };
  }
}

function whatIsWrong(driver: unknown): string | undefined {
  if (typeof driver !== 'object' || driver === null) return "it exports no object named 'driver'";
  const { opsName, invalidate, fault } = driver as Partial<Record<keyof SvmDriver, unknown>>;
  if (typeof opsName !== 'string' || opsName === '') return 'driver.opsName is not a name';
  if (typeof invalidate !== 'function') return 'driver.invalidate is not a function';
  if (typeof fault !== 'function') return 'driver.fault is not a function';
  return undefined;
}

/** Where the module has a syntax error. The error that `import` throws does not say; `--check` does. */
function syntaxLine(url: string): number | undefined {
  const file = fileURLToPath(url);
  const { stderr } = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' });
  return lineIn(url, stderr);
}

/** The first line of the module that an error, or what was said about it, mentions. */
function lineIn(url: string, error: unknown): number | undefined {
  const stack = error instanceof Error ? (error.stack ?? '') : String(error);
  for (const name of [url, fileURLToPath(url)]) {
    const start = stack.indexOf(`${name}:`);
    if (start < 0) continue;
    const line = Number.parseInt(stack.slice(start + name.length + 1), 10);
    if (line > 0) return line;
  }
  return undefined;
}
