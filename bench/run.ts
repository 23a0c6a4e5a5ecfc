/**
 * `npm run bench`: what faultline costs, beside what it is compared with.
 *
 *   npm run bench                          all of it, about five minutes
 *   npm run bench -- locks boot            these parts only
 *   npm run bench -- failures              what a driver's failed bind leaves, in each historical form
 *   npm run bench -- checked               what it costs to have everything checked
 *   npm run bench -- mutants               which strategy finds which planted mistake
 *   npm run bench -- yardstick --rounds 3  with other numbers
 *   npm run bench -- scaling --json FILE   what many VMAs and many intervals cost; the figures as JSON too
 *
 * @module
 */
import { Argument, Command, InvalidArgumentError } from 'commander';
import { tuneEngine } from 'faultline';

import { writeJson } from '../src/cli/output.js';
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
import { scalingReport } from './scaling.js';
import { type YardstickOptions, yardstickTable } from './yardstick.js';

/** What a part has measured: its table, and the figures where it has them apart. */
type Measured = string | { readonly text: string; readonly figures: object };

const PARTS: Readonly<Record<string, (options: YardstickOptions) => Measured | Promise<Measured>>> =
  {
    locks: lockTable,
    'percpu-ref': percpuRefTable,
    boot: bootReport,
    allocation: allocationReport,
    checked: checkedTable,
    explore: exploreTable,
    failures: failureTable,
    mutants: mutantTable,
    scaling: scalingReport,
    yardstick: async (options) => (buildYardstick() ? yardstickTable(options) : ''),
  };

/** Without being asked for; the table of mutants takes a quarter of an hour. */
const USUAL = Object.keys(PARTS).filter((name) => name !== 'mutants');

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('It must be a positive number.');
  return value;
}

interface MeasureOptions extends YardstickOptions {
  readonly json?: string;
}

async function measure(names: readonly string[], options: MeasureOptions): Promise<void> {
  const environment = describeEnvironment('wasm', 1);
  const figures: Record<string, object> = {};
  console.log(environmentLine(environment));
  for (const name of names) {
    const part = PARTS[name];
    if (part === undefined) continue;
    showProgress(name);
    const measured = await part(options);
    endProgress();
    const text = typeof measured === 'string' ? measured : measured.text;
    if (typeof measured !== 'string') figures[name] = measured.figures;
    if (text !== '') console.log(`\n${text}`);
  }
  if (options.json !== undefined) {
    writeJson(options.json, { schema: 'faultline.cost/1', environment, ...figures });
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
  .option('--json <file>', 'write the figures of the parts that have them apart: scaling')
  .action(measure)
  .parseAsync();
