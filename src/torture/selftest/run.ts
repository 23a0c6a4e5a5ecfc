/**
 * Runs the lock selftests on a worker of the checked build.
 *
 * @module
 */
import { Crew } from '../../host/crew.js';
import { bootMachine } from '../../machine/boot.js';
import type { SelftestCell } from './cases.js';
import { selftestCells, type SelftestTable, selftestTable } from './table.js';

/** Name of the module with the cases; kernel.ts has it. */
export const SELFTEST_MODULE = 'faultline:selftest';

/** What was seen of each case: the first line of each report. @throws MachineFailure if the worker dies */
export async function runCells(cells: readonly SelftestCell[]): Promise<string[][]> {
  const member = {
    name: 'selftest',
    module: SELFTEST_MODULE,
    entry: 'runSelftestCases',
    args: cells,
  };
  const crew = new Crew(bootMachine({ cpus: 1, ramBytes: 0 }), [member], { build: 'checked' });
  try {
    await crew.ready();
    crew.start();
    const [result] = await crew.results();
    return result?.value as string[][];
  } finally {
    await crew.abandon();
  }
}

/** Runs all of them, and draws the table. */
export async function runSelftest(): Promise<SelftestTable> {
  return selftestTable(await runCells(selftestCells()));
}
