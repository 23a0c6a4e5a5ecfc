/**
 * What is left when a bind fails: every driver of device memory, in each of its historical forms, at every point.
 *
 * @module
 */
import {
  type BindArena,
  type BindFailures,
  bindFailures,
  bootBindFailures,
  bootMachine,
  type Cpu,
  Crew,
  runKworker,
  stopKworkers,
} from 'faultline';

import { textTable } from '../src/report/table.js';

const LEFT_WIDTH = 76;
const LEGEND = `points         allocations and registrations of the bind; each failed once
bound again    after so many of these failures the same range could be bound again; where undoing would have waited
               for ever, once the count had been killed by hand
left behind    what a failed bind leaves, and the first point at which it does`;

/** A crew's member: fails what can. */
export function walkBinds(cpu: Cpu, arena: BindArena): BindFailures[] {
  const rows = bindFailures(cpu, arena);
  stopKworkers(cpu);
  return rows;
}

/** A crew's member: runs what is done later. */
export function serve(cpu: Cpu): number {
  return runKworker(cpu);
}

async function walk(): Promise<readonly BindFailures[]> {
  const machine = bootMachine({ cpus: 2, ramBytes: 2 << 20 });
  const args = bootBindFailures(machine.cpu);
  const module = import.meta.url;
  const members = [walkBinds.name, serve.name].map((entry) => ({
    name: entry,
    module,
    entry,
    args,
  }));
  const crew = new Crew(machine, members);
  await crew.ready();
  crew.start();
  const [walked] = await crew.results();
  return (walked?.value ?? []) as readonly BindFailures[];
}

/** A row for each driver and form. */
export async function failureTable(): Promise<string> {
  const rows: (readonly (string | number)[])[] = [];
  for (const { what, form, failures, rebound, left } of await walk()) {
    const again = rebound === failures.length ? 'all' : `${rebound} of ${failures.length}`;
    rows.push([what, form, failures.length, again, left.join('\n') || '-']);
  }
  const table = textTable({
    head: ['what', 'Linux', 'points', 'bound again', 'left behind'],
    colAligns: ['left', 'left', 'right', 'right', 'left'],
    rows,
    lastWidth: LEFT_WIDTH,
  });
  return `${table}\n${LEGEND}`;
}
