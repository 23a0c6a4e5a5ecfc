/**
 * Schedules per second of both engines, beside Relacy's on a model of the same protocol; and how many DPOR
 * needs to exhaust it, beside full search.
 *
 * @module
 */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { exploreProgram, type ExploreReport } from 'faultline';

import { formatCount } from '../src/report/format.js';
import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';

const run = promisify(execFile);
const SOURCE = fileURLToPath(
  new URL('../../bench/peers/interval_retry_relacy.cpp', import.meta.url),
);
const BUILD = fileURLToPath(new URL('../../bench/build/', import.meta.url));
const BINARY = `${BUILD}interval_retry`;
const HEADER = '/usr/include/relacy/relacy.hpp';

const PROGRAM = { name: 'lt-5' };
const VIRTUAL_TARGET = 100_000;
const WORKERS_TARGET = 10_000;
/** DPOR is meant to need at most this share of the schedules of full search. */
const DPOR_SHARE = 1 / 20;
const RELACY_SCHEDULES = 500_000;
/** Full search is given up on after so long. Unit: seconds. */
const FULL_SEARCH_SECONDS = 20;

/** Two tables. */
export async function exploreTable({ seconds }: { readonly seconds: number }): Promise<string> {
  return `${await rateTable(seconds)}\n\n${await searchTable()}`;
}

async function rateTable(seconds: number): Promise<string> {
  const rows: (readonly (string | number)[])[] = [];
  for (const [engine, target] of [
    ['virtual', VIRTUAL_TARGET],
    ['workers', WORKERS_TARGET],
  ] as const) {
    showProgress(`explore: ${engine} engine`);
    const { schedulesPerSecond } = await exploreProgram(PROGRAM, {
      engine,
      strategy: 'random',
      seconds,
    });
    const verdict = schedulesPerSecond >= target ? 'met' : 'missed';
    rows.push([`${engine} engine`, formatCount(schedulesPerSecond), formatCount(target), verdict]);
  }
  const relacy = await relacyRate();
  rows.push(['Relacy, C++, of a model of it', relacy, '', '']);
  return textTable({
    head: ['lt-5, random walk', 'schedules/s', 'target', ''],
    colAligns: ['left', 'right', 'right', 'left'],
    rows,
  });
}

/** Schedules per second, or why there is no such figure. */
async function relacyRate(): Promise<string> {
  showProgress('explore: Relacy');
  if (!existsSync(HEADER)) return 'relacy-dev is not installed';
  mkdirSync(BUILD, { recursive: true });
  const built = spawnSync('g++', ['-O2', '-std=gnu++11', '-w', SOURCE, '-o', BINARY]);
  if (built.status !== 0) return 'g++ did not build it';
  const startedAt = performance.now();
  await run(BINARY, [String(RELACY_SCHEDULES), '0']);
  return formatCount(RELACY_SCHEDULES / ((performance.now() - startedAt) / 1000));
}

async function searchTable(): Promise<string> {
  showProgress('explore: DPOR and full search');
  const [dpor, full] = [
    await search('dpor', FULL_SEARCH_SECONDS),
    await search('dfs', FULL_SEARCH_SECONDS),
  ];
  const rows: (readonly (string | number)[])[] = [];
  for (const { strategy, schedules, seconds, exhausted } of [dpor, full]) {
    const end = exhausted ? 'exhausted' : 'given up: there are more';
    rows.push([strategy, String(schedules), seconds.toFixed(2), end]);
  }
  const share = dpor.schedules / full.schedules;
  const verdict = dpor.exhausted && share <= DPOR_SHARE ? 'met' : 'missed';
  const table = textTable({
    head: ['lt-5, every schedule', 'schedules', 'seconds', ''],
    colAligns: ['left', 'right', 'right', 'left'],
    rows,
  });
  return `${table}\nDPOR needs ${(100 * share).toPrecision(2)} % of them at most (target: ${100 * DPOR_SHARE} %, ${verdict})`;
}

function search(strategy: 'dpor' | 'dfs', seconds: number): Promise<ExploreReport> {
  return exploreProgram(PROGRAM, { strategy, seconds });
}
