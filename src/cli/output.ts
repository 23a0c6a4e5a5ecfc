/**
 * Where results go.
 *
 * @module
 */
import {
  accessSync,
  chmodSync,
  constants,
  lstatSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';

import { EXIT_USAGE, FaultlineError } from 'faultline';

import { reasonOf } from '../base/reason.js';

/** What people read: stdout, or stderr if stdout is taken by JSON. */
export function say(text: string, json: string | undefined): void {
  outputFor(json).write(`${text}\n`);
}

/** Whether what people read may have colours. */
export function wantsColor(json: string | undefined): boolean {
  return outputFor(json).isTTY && (process.env['NO_COLOR'] ?? '') === '';
}

/** How wide it may be; a file or a pipe takes any width. Unit: characters. */
export function outputWidth(json: string | undefined): number {
  const stream = outputFor(json);
  return stream.isTTY && stream.columns > 0 ? stream.columns : Number.POSITIVE_INFINITY;
}

function outputFor(json: string | undefined): NodeJS.WriteStream {
  return json === '-' ? process.stderr : process.stdout;
}

/**
 * Makes sure that a result can be written, before minutes are spent on measuring it.
 * @param inputs the files that are read, by the option that names them
 * @throws FaultlineError
 */
export function checkJsonTarget(
  target: string | undefined,
  inputs: Readonly<Record<string, string | undefined>>,
): void {
  checkTarget('--json', target, inputs);
}

/** The same for the file that another option names. */
export function checkTarget(
  option: string,
  target: string | undefined,
  inputs: Readonly<Record<string, string | undefined>>,
): void {
  if (target === undefined || target === '-') return;
  writing(option, target, () => {
    const destination = resolveTarget(target);
    for (const [option, input] of Object.entries(inputs)) {
      if (input !== undefined && isSameFile(destination.file, input)) {
        throw new Error(`it is the input of ${option}`);
      }
    }
    if (destination.isPlain) replaceFile(destination, undefined);
  });
}

/** True if two results would be written to one place. */
export function isSameTarget(one: string, other: string): boolean {
  return resolve(one) === resolve(other);
}

function isSameFile(file: string, input: string): boolean {
  const real = (path: string): string | undefined =>
    statSync(path, { throwIfNoEntry: false }) && realpathSync(path);
  const found = real(input);
  return found !== undefined && found === real(file);
}

/**
 * Writes a result: to stdout for `-`, else to a file, which is complete or not touched.
 * @throws FaultlineError
 */
export function writeJson(target: string, result: unknown): void {
  writeTarget('--json', target, `${JSON.stringify(result, null, 2)}\n`);
}

/** The same for any text and option. */
export function writeTarget(option: string, target: string, text: string): void {
  if (target === '-') {
    process.stdout.write(text);
    return;
  }
  writing(option, target, () => {
    const destination = resolveTarget(target);
    if (destination.isPlain) replaceFile(destination, text);
    else writeFileSync(destination.file, text);
  });
}

/** Where a result goes. */
interface Destination {
  readonly file: string;
  /** It may be replaced; a pipe or a device is written to. */
  readonly isPlain: boolean;
  /** Permissions of the file that is there; undefined if none is. */
  readonly mode?: number;
}

/** The file that a name leads to. */
function resolveTarget(target: string): Destination {
  const stats = statSync(target, { throwIfNoEntry: false });
  if (stats === undefined) return { file: endOfLink(target), isPlain: true };
  if (stats.isDirectory()) throw new Error('it is a directory');
  accessSync(target, constants.W_OK);
  return stats.isFile()
    ? { file: realpathSync(target), isPlain: true, mode: stats.mode & 0o7777 }
    : { file: target, isPlain: false };
}

/** Where a link that leads to no file would lead; the name itself if it is no link. */
function endOfLink(name: string): string {
  if (lstatSync(name, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return name;
  return endOfLink(resolve(realpathSync(dirname(name)), readlinkSync(name)));
}

/** Puts a complete file in the place of another; without a text, only tries whether it could. */
function replaceFile({ file, mode }: Destination, text: string | undefined): void {
  const partial = `${file}.partial-${process.pid}`;
  try {
    writeFileSync(partial, text ?? '', { flag: 'wx', ...(mode !== undefined && { mode: 0o600 }) });
    if (mode !== undefined) chmodSync(partial, mode); // what is asked for at creation, umask cuts
    if (text !== undefined) renameSync(partial, file);
  } finally {
    rmSync(partial, { force: true });
  }
}

function writing(option: string, target: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    const message = `${option} ${target}: cannot be written: ${reasonOf(error)}`;
    throw new FaultlineError('FAULTLINE_BAD_OUTPUT', message, EXIT_USAGE);
  }
}
