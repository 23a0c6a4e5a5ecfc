/**
 * The test runner behind `npm test`: every compiled `*.test.js` under this folder, two files at a time.
 *
 *   node dist/test/run.js            all of them
 *   node dist/test/run.js sync/rw    those whose path has the text in it
 *
 * Each file runs in a process of its own. One that is not done after FILE_TIMEOUT_MS is killed and counts
 * as failed, by its name. A run in which no test ran has failed, too. The files that took longest, and what failed,
 * and why, stand once more at the end.
 *
 * @module
 */
import { readdirSync } from 'node:fs';
import { sep } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('.', import.meta.url));
const FILES_AT_ONCE = 2;
const FILE_TIMEOUT_MS = 180_000;
/** So many of the files that took longest are named. */
const LONGEST = 10;

/** The part used here of what node:test reports. */
interface TestEvent {
  readonly type: string;
  readonly data: {
    readonly name?: string;
    readonly nesting?: number;
    readonly details?: {
      readonly type?: string;
      readonly error?: { readonly failureType?: string; readonly cause?: unknown };
    };
  };
}

interface FileResult {
  readonly name: string;
  readonly passed: number;
  readonly seconds: number;
  /** One text for each: what failed and why. */
  readonly failures: readonly string[];
}

const REASON_LINES = 12;

function describeFailure(name: string, event: TestEvent): string {
  const cause = event.data.details?.error?.cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  const lines = reason.split('\n').slice(0, REASON_LINES);
  return [`${name}: ${event.data.name}`, ...lines].join('\n    ');
}

function testFiles(filter: string): string[] {
  return readdirSync(ROOT, { recursive: true, encoding: 'utf8' })
    .map((file) => file.split(sep).join('/'))
    .filter((file) => file.endsWith('.test.js') && file.includes(filter))
    .sort();
}

/** Runs one file, then prints its report in one piece. */
async function runFile(name: string): Promise<FileResult> {
  const path = fileURLToPath(new URL(name, import.meta.url));
  const startedAt = performance.now();
  const late = new AbortController();
  const timer = setTimeout(() => {
    late.abort(new Error(`${name} was not done after ${FILE_TIMEOUT_MS / 1000} s`));
  }, FILE_TIMEOUT_MS);
  const reporter = new spec();
  let passed = 0;
  const failures: string[] = [];
  for await (const item of run({ files: [path], signal: late.signal })) {
    const { type, data } = item as TestEvent;
    if (type === 'test:diagnostic' && data.nesting === 0) continue; // totals: we print our own
    const isTest = data.details?.type !== 'suite' && data.name !== path; // an empty file passes as its path
    if (type === 'test:pass' && isTest) passed++;
    const isParent = data.details?.error?.failureType === 'subtestsFailed';
    if (type === 'test:fail' && !isParent) failures.push(describeFailure(name, { type, data }));
    reporter.write(item);
  }
  clearTimeout(timer);
  reporter.end();
  let report = '';
  for await (const chunk of reporter) report += String(chunk);
  const seconds = (performance.now() - startedAt) / 1000;
  process.stdout.write(`\n${name} (${seconds.toFixed(1)} s)\n${report}`);
  return { name, passed, seconds, failures };
}

async function runFiles(names: readonly string[]): Promise<FileResult[]> {
  const waiting = [...names];
  const results: FileResult[] = [];
  const worker = async (): Promise<void> => {
    for (;;) {
      const name = waiting.shift();
      if (name === undefined) return;
      results.push(await runFile(name));
    }
  };
  await Promise.all(Array.from({ length: FILES_AT_ONCE }, worker));
  return results;
}

function longest(results: readonly FileResult[]): string {
  const inOrder = [...results].sort((one, other) => other.seconds - one.seconds);
  const named = inOrder
    .slice(0, LONGEST)
    .map(({ name, seconds }) => `${name.replace(/\.test\.js$/, '')} ${seconds.toFixed(1)}`);
  return `longest, in seconds: ${named.join(', ')}`;
}

const filter = process.argv[2] ?? '';
const startedAt = performance.now();
const results = await runFiles(testFiles(filter));
const passed = results.reduce((sum, result) => sum + result.passed, 0);
const failures = results.flatMap((result) => result.failures);
const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
console.log(`\n${passed} tests passed in ${results.length} files, ${seconds} s`);
if (results.length > 1) console.log(longest(results));
if (failures.length > 0) console.log(`${failures.length} failed:\n${failures.join('\n')}`);
if (passed === 0) console.log(filter === '' ? 'no test ran' : `no test ran that matches ${filter}`);
if (failures.length > 0 || passed === 0) process.exitCode = 1;
