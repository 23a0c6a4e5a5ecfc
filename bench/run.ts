/**
 * `npm run bench`: what faultline costs, beside what it is compared with.
 *
 *   npm run bench                          all of it, about five minutes
 *   npm run bench -- locks boot            these parts only
 *   npm run bench -- failures              what a driver's failed bind leaves, in each historical form
 *   npm run bench -- checked               what it costs to have everything checked
 *   npm run bench -- mutants               which strategy finds which planted mistake
 *   npm run bench -- yardstick --rounds 3  with other numbers
 *
 * @module
 */
import { Argument, Command, InvalidArgumentError } from 'commander';
import { tuneEngine } from 'faultline';

import { describeEnvironment, environmentLine } from '../src/report/environment.js';
import { allocationReport } from './allocation.js';
import { bootReport } from './boot.js';
import { checkedTable } from './checked.js';
import { exploreTable } from './explore.js';
import { failureTable } from './failures.js';
import { lockTable } from './locks.js';
import { mutantTable } from './mutants.js';
import { buildYardstick } from './native.js';
import { percpuRefTable } from './percpu-ref.js';
import { endProgress, showProgress } from './progress.js';
import { type YardstickOptions, yardstickTable } from './yardstick.js';

const PARTS: Readonly<Record<string, (options: YardstickOptions) => Promise<string>>> = {
  locks: lockTable,
  'percpu-ref': percpuRefTable,
  boot: bootReport,
  allocation: allocationReport,
  checked: checkedTable,
  explore: exploreTable,
  failures: failureTable,
  mutants: mutantTable,
  yardstick: async (options) => (buildYardstick() ? yardstickTable(options) : ''),
};

/** Without being asked for; the table of mutants takes a quarter of an hour. */
const USUAL = Object.keys(PARTS).filter((name) => name !== 'mutants');

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('It must be a positive number.');
  return value;
}

async function measure(names: readonly string[], options: YardstickOptions): Promise<void> {
  console.log(environmentLine(describeEnvironment('wasm', 1)));
  for (const name of names) {
    const part = PARTS[name];
    if (part === undefined) continue;
    showProgress(name);
    const text = await part(options);
    endProgress();
    if (text !== '') console.log(`\n${text}`);
  }
}

tuneEngine();
await new Command('bench')
  .addArgument(
    new Argument('[parts...]', 'what to measure')
      .choices(Object.keys(PARTS))
      .default(USUAL, 'all but mutants'),
  )
  .option('--rounds <n>', 'pairs of runs with the yardstick', positive, 5)
  .option('--seconds <s>', 'length of each of these runs', positive, 2)
  .action(measure)
  .parseAsync();
