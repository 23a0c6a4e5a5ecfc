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
import { findCycle, lockName, snapshotCpus } from '../../src/debug/wait-graph.js';
import * as control from '../../src/explore/control.js';
import { Judge } from '../../src/explore/judge.js';
import { setPlan } from '../../src/explore/plan.js';
import { VirtualPrograms } from '../../src/explore/virtual-program.js';
import { lockReportTexts } from '../../src/machine/lock-report.js';

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
        const names = cycle.map(({ waitObject }) => lockName(cpu, waitObject));
        const firsts = texts.map((text) => text.split('\n')[0] ?? '');
        const isThere = firsts.some(
          (first) => first.includes('circular') && names.every((lock) => first.includes(lock)),
        );
        if (!isThere) missed.push(`${name}: ${names.join(', ')} in ${firsts.join('; ')}`);
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
