/**
 * The command line as its users have it: a process of its own, from which nothing is known but what it
 * prints, what it writes, and how it ends.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';

import type { BenchResult } from '../../src/report/bench-result.js';
import { COMMAND_END, type CommandRequest } from './command-protocol.js';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const SERVER = fileURLToPath(new URL('../programs/command-server.js', import.meta.url));
const FAKE_TERMINAL = new URL('./fake-terminal.js', import.meta.url).href;

/** A process that is not done by then is killed, and its test fails. */
const TIMEOUT_MS = 60_000;

/** Options of the shortest useful measurement: one point of three rounds. */
export const ONE_POINT = [
  '--duration',
  '0.2',
  '--warmup',
  '0',
  '--range-pages',
  '1',
  '--overlap',
  '1',
];
/** The same, without saying which points. */
export const SHORT = ['--duration', '0.2', '--warmup', '0'];
/** A measurement in which the two sides meet often, also on a busy machine. */
export const MEETING = [
  '--duration',
  '1',
  '--warmup',
  '0',
  '--arena-pages',
  '64',
  '--overlap',
  '1',
];

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** What it sees as a terminal of that many characters: stdout and stderr. */
  readonly terminal?: number;
}

export interface Finished {
  /** null if a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly done: Promise<Finished>;
  /** Resolves when stdout and stderr together have text that matches. */
  readonly said: (text: RegExp) => Promise<void>;
}

/** Starts a program. */
export function start(command: string, args: readonly string[], options: RunOptions = {}): Running {
  const inherited = { ...process.env };
  delete inherited['NO_COLOR'];
  delete inherited['NODE_TEST_CONTEXT']; // a test runner of its own reports to us, and not to ours
  const child = spawn(command, args, {
    cwd: options.cwd ?? ROOT,
    env: { ...inherited, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  const done = new Promise<Finished>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (signal === 'SIGKILL') {
        reject(new Error(`${args.join(' ')} did not end:\n${stdout}${stderr}`));
      } else {
        resolve({ code, signal, stdout, stderr });
      }
    });
  });
  const said = async (text: RegExp): Promise<void> => {
    const heard = new Promise<void>((resolve) => {
      const listen = (): void => {
        if (text.test(stdout + stderr)) resolve();
      };
      child.stdout.on('data', listen);
      child.stderr.on('data', listen);
      listen();
    });
    const ended = done.then(({ stdout, stderr }) => {
      assert.match(stdout + stderr, text);
    });
    await Promise.race([heard, ended]);
  };
  return { child, done, said };
}

/** Starts `faultline …`. */
export function startFaultline(args: readonly string[], options: RunOptions = {}): Running {
  const { terminal } = options;
  const fake = terminal === undefined ? [] : ['--import', FAKE_TERMINAL];
  const env = { ...options.env, ...(terminal && { FAKE_COLUMNS: String(terminal) }) };
  return start(process.execPath, [...fake, MAIN, ...args], { ...options, env });
}

/** Runs `faultline …` to its end. */
export function faultline(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return startFaultline(args, options).done;
}

/** Commands that are run in one process, one after the other. */
interface CommandServer {
  readonly hasEnded: () => boolean;
  readonly run: (request: CommandRequest) => Promise<Finished>;
  readonly end: () => Promise<void>;
}

function startServer(): CommandServer {
  const child = spawn(process.execPath, [SERVER], { stdio: ['pipe', 'pipe', 'pipe'] });
  const texts = { stdout: '', stderr: '' };
  let onText = (): void => undefined;
  let hasEnded = false;
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      texts[name] += text;
      onText();
    });
  }
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => {
      hasEnded = true;
      onText();
      resolve();
    });
  });
  const outputOfRun = (): Finished | undefined => {
    const [stdout = '', code] = texts.stdout.split(COMMAND_END);
    const [stderr = '', rest] = texts.stderr.split(COMMAND_END);
    if (code?.endsWith('\n') !== true || rest?.endsWith('\n') !== true) return undefined;
    return { code: Number(code), signal: null, stdout, stderr };
  };
  const run = (request: CommandRequest): Promise<Finished> =>
    new Promise((resolve, reject) => {
      Object.assign(texts, { stdout: '', stderr: '' });
      const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
      onText = () => {
        const finished = outputOfRun();
        if (finished === undefined && !hasEnded) return;
        clearTimeout(timer);
        onText = () => undefined;
        if (finished !== undefined) resolve(finished);
        else reject(new Error(`${request.args.join(' ')}: ${texts.stdout}${texts.stderr}`));
      };
      child.stdin.write(`${JSON.stringify(request)}\n`);
    });
  const end = (): Promise<void> => {
    child.stdin.end();
    return ended;
  };
  return { hasEnded: () => hasEnded, run, end };
}

let server: CommandServer | undefined;
let lastRun: Promise<unknown> = Promise.resolve();
after(() => server?.end());

/**
 * Runs `faultline …` to its end in a process that the test file's other runs of this kind share: it starts once. For
 * tests of what a command does and says; those of how a process ends take `faultline`.
 */
export function sharedFaultline(
  args: readonly string[],
  { cwd = ROOT }: Pick<RunOptions, 'cwd'> = {},
): Promise<Finished> {
  const finished = lastRun.then(() => {
    if (server === undefined || server.hasEnded()) server = startServer();
    return server.run({ args, cwd });
  });
  lastRun = finished.catch(() => undefined);
  return finished;
}

/**
 * Runs something with a watchdog that soon loses patience. The watchdog waits for modules, too: on a machine so busy
 * that one is not loaded by then, a more patient one follows.
 */
export async function impatiently<R extends { readonly stderr: string }>(
  run: (watchdog: readonly string[]) => Promise<R>,
): Promise<R> {
  for (let seconds = 2; ; seconds *= 4) {
    const finished = await run(['--watchdog', String(seconds)]);
    if (seconds > 20 || !finished.stderr.includes(' is not loaded after ')) return finished;
  }
}

/** The command, so. */
export function impatientFaultline(args: readonly string[]): Promise<Finished> {
  return impatiently((watchdog) => sharedFaultline([...args, ...watchdog]));
}

/** Runs it with `--json -`, which must end well, and returns the result. */
export async function resultOf(
  args: readonly string[],
  options: Pick<RunOptions, 'cwd'> = {},
): Promise<BenchResult> {
  const { code, stdout, stderr } = await sharedFaultline([...args, '--json', '-'], options);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as BenchResult;
}

/**
 * Runs it, in the process of all such runs or with `alone` in one of its own; it must refuse with that exit code and
 * one line on stderr, which is returned.
 */
export async function refusalOf(
  args: readonly string[],
  options: Pick<RunOptions, 'cwd'> & { readonly code?: number; readonly alone?: boolean } = {},
): Promise<string> {
  const run = options.alone === true ? faultline : sharedFaultline;
  const { code, stdout, stderr } = await run(args, options);
  assert.equal(code, options.code ?? 2, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, /^faultline: [^\n]+\n$/, 'one line');
  return stderr.trimEnd();
}

/** A folder of this test file's own, gone when its tests are done. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'faultline-test-'));
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

/** Modules of the folder can import the package by its name: by a file's they would get another copy of it. */
export function linkPackage(folder: string): void {
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/faultline'));
}

/** Writes a file into a folder; its path. */
export function fileIn(folder: string, name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}
