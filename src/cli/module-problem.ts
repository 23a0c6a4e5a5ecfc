/**
 * What is wrong with a module of the user's, found out by loading it into this thread.
 *
 * @module
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import {
  type ExploreProgram,
  GRADES,
  isModule,
  LOCK_WORDS_MAX,
  type Outcome,
  type SvmDriver,
  TASKS_MAX,
  type TortureLock,
  unknownSymbolMessage,
  unknownSymbols,
} from 'faultline';

import { reasonOf, textOf } from '../base/reason.js';

/** Why a module cannot be used, and on which line of it, if that is known. */
export interface ModuleProblem {
  readonly message: string;
  readonly line?: number;
}

/** What a module is to export, and by that name. */
export type ModuleKind = 'driver' | 'program' | 'lock';

/** Loads a module; what is wrong with it, or undefined. */
export async function problemOf(url: string, kind: ModuleKind): Promise<ModuleProblem | undefined> {
  try {
    const exported = (await import(url)) as Readonly<Record<string, unknown>>;
    const message = CHECKS[kind](exported[kind]) ?? problemOfModules(exported);
    return message === undefined ? undefined : { message };
  } catch (error) {
    const line = error instanceof SyntaxError ? syntaxLine(url) : lineIn(url, error);
    const message = `cannot be loaded: ${reasonOf(error)}`;
    return line === undefined ? { message } : { message, line };
  }
}

const CHECKS: Readonly<Record<ModuleKind, (exported: unknown) => string | undefined>> = {
  driver: problemOfDriver,
  program: problemOfProgram,
  lock: problemOfLock,
};

function problemOfProgram(program: unknown): string | undefined {
  if (typeof program !== 'object' || program === null)
    return "it exports no object named 'program'";
  const { name, title, tasks, setup, check, observe, outcomes } = program as Partial<
    Record<keyof ExploreProgram, unknown>
  >;
  if (typeof name !== 'string' || !/^[\w.-]+$/.test(name)) {
    return 'program.name is not a name of letters, digits, dots and dashes';
  }
  if (!isText(title)) return 'program.title is not a text of printable characters';
  if (typeof setup !== 'function') return 'program.setup is not a function';
  if (check !== undefined && typeof check !== 'function') return 'program.check is not a function';
  if (observe !== undefined && typeof observe !== 'function') {
    return 'program.observe is not a function';
  }
  if (outcomes !== undefined && (!Array.isArray(outcomes) || !outcomes.every(isOutcome))) {
    return `program.outcomes is no list of { name, grade, description } with a grade of ${GRADES.join(', ')}`;
  }
  if (!Array.isArray(tasks) || tasks.length === 0) return 'program.tasks is not a list of tasks';
  if (tasks.length > TASKS_MAX) return `program.tasks has more than ${TASKS_MAX} tasks`;
  const wrong = tasks.findIndex((task) => !isTask(task));
  if (wrong >= 0) return `program.tasks[${wrong}] is no { name, operations }`;
  const runs = (tasks as ExploreProgram['tasks']).flatMap((task) => task.operations);
  const special = [setup, check, observe, ...runs.map(({ run }) => run)].find(isSpecial);
  if (special === undefined) return undefined;
  const named = (special as { name: string }).name;
  return `${named === '' ? 'a function' : named} of the program is async or a generator`;
}

/** True of an async function or a generator: programs block, and do not await. */
function isSpecial(value: unknown): boolean {
  return typeof value === 'function' && /(?:Async|Generator)/.test(value.constructor.name);
}

function isOutcome(outcome: unknown): boolean {
  if (typeof outcome !== 'object' || outcome === null) return false;
  const { name, grade, description } = outcome as Partial<Record<keyof Outcome, unknown>>;
  const isKnown = GRADES.some((known) => known === grade);
  return isText(name) && isText(description) && isKnown;
}

/** True for a text that a table can show. */
function isText(value: unknown): boolean {
  return typeof value === 'string' && !/\p{Cc}/u.test(value);
}

function isTask(task: unknown): boolean {
  if (typeof task !== 'object' || task === null) return false;
  const { name, operations } = task as Partial<Record<'name' | 'operations', unknown>>;
  const isOperation = (operation: unknown): boolean =>
    typeof (operation as { run?: unknown } | null)?.run === 'function';
  return isText(name) && Array.isArray(operations) && operations.every(isOperation);
}

function problemOfDriver(driver: unknown): string | undefined {
  if (typeof driver !== 'object' || driver === null) return "it exports no object named 'driver'";
  const { opsName, invalidate, fault } = driver as Partial<Record<keyof SvmDriver, unknown>>;
  if (typeof opsName !== 'string' || opsName === '') return 'driver.opsName is not a name';
  if (typeof invalidate !== 'function') return 'driver.invalidate is not a function';
  if (typeof fault !== 'function') return 'driver.fault is not a function';
  return undefined;
}

function problemOfLock(lock: unknown): string | undefined {
  if (typeof lock !== 'object' || lock === null) return "it exports no object named 'lock'";
  const { opsName, words, ...functions } = lock as Partial<Record<keyof TortureLock, unknown>>;
  if (typeof opsName !== 'string' || opsName === '') return 'lock.opsName is not a name';
  if (
    typeof words !== 'number' ||
    !Number.isInteger(words) ||
    words < 1 ||
    words > LOCK_WORDS_MAX
  ) {
    return `lock.words is not a number from 1 to ${LOCK_WORDS_MAX}`;
  }
  for (const name of ['init', 'lock', 'unlock'] as const) {
    if (typeof functions[name] !== 'function') return `lock.${name} is not a function`;
  }
  if ((functions.readLock === undefined) !== (functions.readUnlock === undefined)) {
    return 'lock.readLock and lock.readUnlock come together';
  }
  const special = Object.entries(functions).find(([, value]) => isSpecial(value));
  return special === undefined ? undefined : `lock.${special[0]} is async or a generator`;
}

/** Of the kernel modules that the file is: the first symbol that one needs and does not get. */
function problemOfModules(exported: Readonly<Record<string, unknown>>): string | undefined {
  const messages = Object.values(exported)
    .filter(isModule)
    .flatMap((module) =>
      unknownSymbols(module).map((symbol) => unknownSymbolMessage(module, symbol)),
    );
  return messages[0];
}

/** Where the module has a syntax error. The error that `import` throws does not say; `--check` does. */
function syntaxLine(url: string): number | undefined {
  const file = fileURLToPath(url);
  const { stderr } = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' });
  return lineIn(url, stderr);
}

/** The first line of the module that an error, or what was said about it, mentions. */
function lineIn(url: string, error: unknown): number | undefined {
  const stack = error instanceof Error ? (error.stack ?? '') : textOf(error);
  for (const name of [url, fileURLToPath(url)]) {
    const start = stack.indexOf(`${name}:`);
    if (start < 0) continue;
    const line = Number.parseInt(stack.slice(start + name.length + 1), 10);
    if (line > 0) return line;
  }
  return undefined;
}
