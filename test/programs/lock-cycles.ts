/**
 * Explores random programs over locks, and looks in every deadlock whether lockdep has reported its locks: a
 * process of the turnstile build (`--conditions=faultline-turnstile`).
 *
 *   node --conditions=faultline-turnstile dist/test/programs/lock-cycles.js FROM TO SCHEDULES
 *
 * Explores `locks-FROM` up to, but without, `locks-TO`. What it saw is a line of JSON.
 *
 * @module
 */
import { readOwn } from '#memory';

import { classIndex, lockGraphOf } from '../../src/debug/lockdep/graph.js';
import { findClass, newSearch } from '../../src/debug/lockdep/search.js';
import { findCycle, lockName, snapshotCpus } from '../../src/debug/wait-graph.js';
import * as control from '../../src/explore/control.js';
import { Judge } from '../../src/explore/judge.js';
import { setPlan } from '../../src/explore/plan.js';
import { VirtualPrograms } from '../../src/explore/virtual-program.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockReportTexts } from '../../src/machine/lock-report.js';
import { Spinlock } from '../../src/machine/types.js';

/** What was seen. */
export interface CyclesSeen {
  readonly schedules: number;
  /** Schedules that ended in a deadlock, and of these, with a cycle in the wait-for graph. */
  readonly deadlocks: number;
  readonly cycles: number;
  /** Programs of which lockdep has reported, and of which some schedule deadlocked. */
  readonly reported: readonly string[];
  readonly deadlocked: readonly string[];
  /** Cycles that lockdep has not reported. */
  readonly missed: readonly string[];
}

const [from = 0, to = 0, schedules = 0] = process.argv.slice(2).map(Number);
const reported = new Set<string>();
const deadlocked = new Set<string>();
const missed: string[] = [];
let ran = 0;
let deadlocks = 0;
let cycles = 0;

/** True if strong paths lead from each lock to the next, and back to the first. */
function isInGraph(cpu: Cpu, locks: readonly number[]): boolean {
  const graph = lockGraphOf(cpu);
  const indices = locks.map((lock) =>
    classIndex(cpu, graph, readOwn(cpu, lock as Spinlock, Spinlock.lockClass), 0),
  );
  const search = newSearch();
  return indices.every((index, i) => {
    const next = indices[(i + 1) % indices.length]!;
    return findClass(cpu, graph, search, index, false, next, false) >= 0;
  });
}

for (let seed = from; seed < to; seed++) {
  const name = `locks-${seed}`;
  const programs = await VirtualPrograms.load({ name });
  const { engine, program } = programs.part(null, 0);
  const judge = new Judge(engine, program, { races: false });
  const { cpu } = engine.world.machine;
  for (let run = 1; run <= schedules; run++) {
    setPlan(engine.control, { rule: control.RULE_RANDOM, random: 7919 * run, stepLimit: 5000 });
    engine.run();
    ran++;
    const { failure } = judge.judge();
    const texts = lockReportTexts(cpu);
    if (texts.length > 0) reported.add(name);
    if (failure?.kind === 'deadlock') {
      deadlocks++;
      deadlocked.add(name);
      if ((failure.lockReports?.length ?? 0) === 0) missed.push(`${name}: ${failure.message}`);
      const cycle = findCycle(snapshotCpus(cpu));
      if (cycle !== undefined) {
        cycles++;
        const locks = cycle.map(({ waitObject }) => waitObject);
        if (!isInGraph(cpu, locks)) {
          missed.push(`${name}: ${locks.map((lock) => lockName(cpu, lock)).join(', ')}`);
        }
      }
    } else if (failure !== undefined) {
      missed.push(`${name}: ${failure.message}`);
    }
    engine.restore();
  }
}
const seen: CyclesSeen = {
  schedules: ran,
  deadlocks,
  cycles,
  reported: [...reported],
  deadlocked: [...deadlocked],
  missed,
};
console.log(JSON.stringify(seen));
