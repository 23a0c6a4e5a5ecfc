/**
 * The worker's side of a litmus run: one task of the program, iteration after iteration.
 *
 * Protocol   Task 0 makes the world; then all come to the gate, and again after every iteration. Who comes last
 *            judges the iteration, copies the memory back, decides how the next one is forced, and opens the
 *            gate. The main thread has no part in it.
 *
 *              task i                                   who comes last
 *                own CPU as at the start                  died? halted? check, observe: count
 *                [a random delay]                         memory := snapshot
 *                operations; at points of the window      enough? over := 1
 *                  wait for those before                  force := …; stages := 0
 *                come to the gate, wait  ◄──────────────  open the gate
 *
 *            A task that breaks a rule halts the machine: the others leave their sleeps and loops, and all
 *            meet at the gate as ever. A machine that was halted from outside (a deadlock) ends the run.
 * Invariant  I1  Between the gate's last arrival and its opening nobody touches the machine but who came last.
 *            I2  The number of a CPU's wait goes on from iteration to iteration, so that two looks of the
 *                watchdog never take the waits of two iterations for one.
 * Ordering   The gate orders everything: iterations see each other's memory through it.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import { clockMs, readOnce, relax, unpark, writeOnce } from '#memory';

import { reasonOf, textOf } from '../base/reason.js';
import { pick, scramble, seedFor, xorshift } from '../base/xorshift.js';
import { bootDeferred } from '../deferred/boot.js';
import { resetCpu } from '../explore/engine.js';
import type { ExploreProgram, Window } from '../explore/program.js';
import { programNamed } from '../explore/programs/registry.js';
import { countAllocations, describeLeak } from '../machine/allocations.js';
import { Cpu, cpuArea, type PointWatcher } from '../machine/cpu.js';
import { EVERYBODY } from '../machine/limits.js';
import { lockReportCount, lockReportTexts } from '../machine/lock-report.js';
import { registerOps } from '../machine/ops-table.js';
import { HALT_PANIC, haltMachine, MachineHalted, noteProgress } from '../machine/sched.js';
import { CpuArea, MACHINE, Machine, Spinlock } from '../machine/types.js';
import { WAIT_SPINLOCK } from '../machine/wait-kind.js';
import type { MemoryHandle } from '../memory/port.js';
import {
  awaitGate,
  awaitStage,
  comeToGate,
  gateNumber,
  openGate,
  passStage,
  resetStages,
  stagesPassed,
} from '../memory/rendezvous.js';
import { Shadow } from '../memory/shadow.js';
import { ShadowRestorer } from '../memory/shadow-restore.js';
import { glance, leaveText, leaveWord, textLeftAt } from '../memory/turn-token.js';
import { bootMm } from '../mm/boot.js';
import {
  B_END,
  B_ENDED_MS,
  B_FIRST_VIOLATION,
  B_FORCE,
  B_GATE,
  B_HALTED,
  B_ITERATIONS,
  B_LOCK_REPORTS,
  B_OUTCOMES,
  B_OVER,
  B_REACHED,
  B_SEED,
  B_SETUP,
  B_STAGES,
  B_STARTED_MS,
  B_STOP,
  B_TEXTS,
  B_VIOLATED_MS,
  B_VIOLATIONS,
  B_WORLD,
  END_ALL,
  END_OUTSIDE,
  END_SECONDS,
  END_VIOLATION_COUNT,
  END_VIOLATION_TIME,
  FORCE_BOTH,
  FORCE_DELAYS,
  FORCE_NONE,
  FORCE_ORDER,
  LT_CAME,
  LT_DIED,
  LT_MESSAGE,
  MESSAGE_MAX,
  OUTCOMES_MAX,
  SETUP_MAX,
  taskAt,
  TEXT_LOCK_REPORT,
  TEXT_OUTCOME,
  TEXT_RULE,
  textAt,
  TEXTS_MAX,
  TX_COUNT,
  TX_KIND,
  TX_TEXT,
} from './block.js';
import { AFTER_VIOLATION_ITERATIONS, AFTER_VIOLATION_MS } from './litmus.js';
import { Restorer } from './restore.js';
import { withoutPlaces } from './rule.js';

/** What each member is given; structured-cloned. */
export interface LitmusMemberArgs {
  readonly handle: MemoryHandle;
  /** Name of the program. */
  readonly program: string;
  readonly window: Window;
  readonly block: Int32Array;
  /** As long as the memory. */
  readonly snapshot: Int32Array;
  /** As long as the notes of the memory's shadow, if it is watched. */
  readonly shadow?: Int32Array;
  readonly seed: number;
  /** Iterations that are wanted. */
  readonly iterations: number;
  /** The run ends after so long, whatever has been seen. Unit: seconds. */
  readonly seconds: number;
}

/** Iterations between two looks at the clock. */
const CLOCK_EVERY = 16;
/** Shares, of 8, of the ways an iteration is forced; with some of each no order is hidden. */
const FORCES: readonly number[] = [
  FORCE_ORDER,
  FORCE_ORDER,
  FORCE_ORDER,
  FORCE_ORDER,
  FORCE_BOTH,
  FORCE_BOTH,
  FORCE_DELAYS,
  FORCE_NONE,
];
/** A random delay is up to 2 to the power of one below this; most are short. Unit: turns of a loop, some 2 ns. */
const DELAY_POWERS = 14;
/** How long a point of the order is waited for; the less the more often it was in vain. Unit: milliseconds. */
const PATIENCE_MS = 5;
const PATIENCE_MIN_MS = 0.1;
/** … in the first iteration, which may be the last. */
const PATIENCE_FIRST_MS = 100;
/** How long a point is waited for that should never come in order. */
const CHANCE_MS = 0.02;
/** How often a task that has died wakes the others, so that they see it. */
const WAKE_EVERY_MS = 1;
/** Looks before a worker sleeps, while there is a core for each. */
const SPINS = 4000;

/** Runs one task of the program on this CPU, until there are iterations enough. */
export function runLitmus(cpu: Cpu, args: unknown): void {
  const given = args as LitmusMemberArgs;
  const program = programNamed(given.program);
  if (program === undefined) throw new Error(`there is no program ${given.program}`);
  new LitmusMember(cpu, program, given).run();
}

class LitmusMember implements PointWatcher {
  readonly #cpu: Cpu;
  readonly #boot: Cpu;
  readonly #program: ExploreProgram;
  readonly #args: LitmusMemberArgs;
  readonly #block: Int32Array;
  readonly #tasks: number;
  /** This task's own words. */
  readonly #own: number;
  readonly #spins: number;
  readonly #points: readonly string[];
  readonly #ordered: number;
  readonly #outcomes: ReadonlyMap<string, number>;
  readonly #forbidden: ReadonlySet<string>;
  readonly #restorer: Restorer;
  #slabs: Cpu['slabs'] = new Map();
  #allocations: Int32Array | undefined;
  #world = 0;
  #force = FORCE_NONE;
  #random = 1;
  #patienceMs = PATIENCE_MS;

  constructor(cpu: Cpu, program: ExploreProgram, args: LitmusMemberArgs) {
    const outcomes = program.outcomes ?? [];
    this.#cpu = cpu;
    this.#program = program;
    this.#args = args;
    this.#block = args.block;
    this.#tasks = program.tasks.length;
    this.#own = taskAt(cpu.id);
    this.#spins = this.#tasks <= availableParallelism() ? SPINS : 0;
    this.#points = [...args.window.order, ...(args.window.chance ?? [])];
    this.#ordered = args.window.order.length;
    this.#outcomes = new Map(outcomes.slice(0, OUTCOMES_MAX).map(({ name }, at) => [name, at]));
    this.#forbidden = new Set(
      outcomes.filter(({ grade }) => grade === 'FORBIDDEN').map(({ name }) => name),
    );
    this.#boot = new Cpu(args.handle, this.#tasks);
    const { handle, shadow } = args;
    const watched = handle.shadow && shadow && new ShadowRestorer(handle.shadow, shadow);
    this.#restorer = new Restorer(cpu, args.snapshot, watched);
    registerOps(this.#boot, [program.ops ?? {}]);
    registerOps(cpu, [program.ops ?? {}]);
  }

  run(): void {
    if (this.#cpu.id === 0) this.#makeWorld();
    this.#meet(() => {
      this.#begin();
    });
    this.#learnWorld();
    while (this.#block[B_OVER] === 0) {
      this.#iterate();
      this.#meet(() => {
        this.#takeStock();
      });
    }
  }

  // --- the world ---

  #makeWorld(): void {
    const boot = this.#boot;
    const { handle } = this.#args;
    if (handle.shadow !== undefined) boot.shadow = new Shadow(handle.shadow, boot.id);
    try {
      bootMm(boot);
      bootDeferred(boot);
      this.#block[B_WORLD] = this.#program.setup(boot);
      leaveText(this.#block, B_SETUP, SETUP_MAX, JSON.stringify([...boot.slabs]));
    } catch (error) {
      this.#block[B_OVER] = 1;
      leaveText(this.#block, B_SETUP, SETUP_MAX, `setup: ${reasonOf(error)}`);
    }
    boot.shadow = null; // what it does from now on is done while nobody runs
  }

  /** The world is there, and nobody has touched it. */
  #begin(): void {
    this.#restorer.take();
    this.#block[B_SEED] = seedFor(this.#args.seed, 0);
    this.#block[B_STARTED_MS] = this.#now();
    this.#block[B_ENDED_MS] = this.#now();
    this.#prepareNext();
    this.#block[B_FORCE] = FORCE_ORDER; // a deadlock ends the run, at once maybe
  }

  #learnWorld(): void {
    if (this.#block[B_OVER] !== 0) return;
    const slabs = JSON.parse(textLeftAt(this.#block, B_SETUP)) as Iterable<[string, never]>;
    this.#slabs = new Map(slabs);
    this.#world = this.#block[B_WORLD] ?? 0;
    resetCpu(this.#boot, this.#slabs);
    resetCpu(this.#cpu, this.#slabs);
    if (this.#program.leakFree === true) this.#allocations = countAllocations(this.#boot);
  }

  // --- one iteration ---

  #iterate(): void {
    const cpu = this.#cpu;
    this.#force = this.#block[B_FORCE] ?? FORCE_NONE;
    this.#random = seedFor(this.#block[B_SEED] ?? 1, cpu.id);
    cpu.points = this;
    noteProgress(cpu, (this.#block[B_ITERATIONS] ?? 0) + 1);
    this.#delay();
    try {
      for (const { run } of this.#program.tasks[cpu.id]?.operations ?? []) run(cpu, this.#world);
    } catch (error) {
      this.#leave(error);
    }
    cpu.points = null;
    resetCpu(cpu, this.#slabs);
  }

  /** A rule was broken, or the machine was halted because of one. */
  #leave(error: unknown): void {
    if (error instanceof MachineHalted) return;
    this.#block[this.#own + LT_DIED] = 1;
    leaveText(this.#block, this.#own + LT_MESSAGE, MESSAGE_MAX, messageOf(error));
    haltMachine(this.#cpu, HALT_PANIC);
  }

  /** They would look at the machine by themselves, but not soon. */
  #wakeOthers(): void {
    const cpu = this.#cpu;
    for (let task = 0; task < this.#tasks; task++) {
      const area = cpuArea(task);
      const isSpinlock = readOnce(cpu, area, CpuArea.waitKind) === WAIT_SPINLOCK;
      const lock = readOnce(cpu, area, CpuArea.waitObject) as Spinlock;
      if (isSpinlock) unpark(cpu, lock, Spinlock.value, EVERYBODY);
      else unpark(cpu, area, CpuArea.state, EVERYBODY);
    }
  }

  reach(name: string): void {
    const points = this.#points;
    this.#delay();
    for (let at = points.indexOf(name); at >= 0; at = points.indexOf(name, at + 1)) {
      if (stagesPassed(this.#block, B_STAGES) > at) continue;
      if ((this.#force & FORCE_ORDER) !== 0) this.#awaitPoint(at);
      passStage(this.#block, B_STAGES, at);
    }
  }

  /** Waits for those before; for a point that should not come in order, when the window is there. */
  #awaitPoint(at: number): void {
    const block = this.#block;
    const patienceMs = block[B_ITERATIONS] === 0 ? PATIENCE_FIRST_MS : this.#patienceMs;
    const stage = Math.min(at, this.#ordered);
    const isInOrder = awaitStage(block, B_STAGES, stage, this.#spins, patienceMs);
    this.#patienceMs = isInOrder ? PATIENCE_MS : Math.max(PATIENCE_MIN_MS, this.#patienceMs / 2);
    if (isInOrder && at > this.#ordered) {
      awaitStage(block, B_STAGES, at, this.#spins, CHANCE_MS);
    }
  }

  #delay(): void {
    if ((this.#force & FORCE_DELAYS) === 0) return;
    this.#random = xorshift(this.#random);
    const chosen = scramble(this.#random);
    const turns = pick(chosen, 1 << pick(chosen >>> 16, DELAY_POWERS));
    for (let turn = 0; turn < turns; turn++) relax(this.#cpu);
  }

  // --- between two iterations ---

  /** Waits until all have come; who comes last does the work meanwhile (I1). */
  #meet(work: () => void): void {
    const block = this.#block;
    const number = gateNumber(block, B_GATE);
    leaveWord(block, this.#own + LT_CAME, number + 1);
    if (comeToGate(block, B_GATE, this.#tasks)) {
      work();
      openGate(block, B_GATE);
      return;
    }
    const hasDied = block[this.#own + LT_DIED] !== 0;
    const slice = hasDied ? WAKE_EVERY_MS : Number.POSITIVE_INFINITY;
    while (!awaitGate(block, B_GATE, number, this.#spins, slice)) {
      if (hasDied) this.#wakeOthers();
    }
  }

  #takeStock(): void {
    const block = this.#block;
    const violations = block[B_VIOLATIONS] ?? 0;
    const wasJudged = this.#judge();
    // what was halted because it could not go on has ended, too; what was interrupted has not
    if (wasJudged || glance(block, B_STOP) === 0) {
      if (stagesPassed(block, B_STAGES) >= this.#ordered) this.#count(B_REACHED);
      this.#count(B_ITERATIONS);
      if (!wasJudged) this.#count(B_HALTED);
    }
    if (violations === 0 && block[B_VIOLATIONS] !== 0) {
      block[B_FIRST_VIOLATION] = block[B_ITERATIONS] ?? 0;
      block[B_VIOLATED_MS] = this.#now();
    }
    const isStopped = !wasJudged || glance(block, B_STOP) !== 0;
    const end = isStopped ? END_OUTSIDE : this.#endOf();
    if (isStopped || end !== END_OUTSIDE) {
      block[B_OVER] = 1;
      block[B_END] = end;
      block[B_ENDED_MS] = this.#now();
      return;
    }
    this.#restore();
    this.#prepareNext();
  }

  /** Why there is no next iteration; END_OUTSIDE if there is one. */
  #endOf(): number {
    const block = this.#block;
    const iterations = block[B_ITERATIONS] ?? 0;
    const { iterations: wanted, seconds } = this.#args;
    if (iterations >= wanted) return END_ALL;
    if (block[B_VIOLATIONS] !== 0) {
      const since = iterations - (block[B_FIRST_VIOLATION] ?? 0);
      if (since >= AFTER_VIOLATION_ITERATIONS) return END_VIOLATION_COUNT;
      const sinceMs = this.#now() - (block[B_VIOLATED_MS] ?? 0);
      if (sinceMs >= AFTER_VIOLATION_MS) return END_VIOLATION_TIME;
    }
    if (iterations % CLOCK_EVERY !== 0) return END_OUTSIDE;
    const isLate = this.#now() - (block[B_STARTED_MS] ?? 0) >= seconds * 1000;
    return isLate ? END_SECONDS : END_OUTSIDE;
  }

  #prepareNext(): void {
    const block = this.#block;
    const seed = xorshift(block[B_SEED] ?? 1);
    block[B_SEED] = seed;
    block[B_FORCE] = FORCES[scramble(seed) & (FORCES.length - 1)] ?? FORCE_NONE;
    resetStages(block, B_STAGES);
  }

  #restore(): void {
    const cpu = this.#boot;
    const serials = Array.from({ length: this.#tasks }, (_, task) =>
      readOnce(cpu, cpuArea(task), CpuArea.waitSerial),
    );
    this.#restorer.restore();
    serials.forEach((serial, task) => {
      writeOnce(cpu, cpuArea(task), CpuArea.waitSerial, serial); // I2
    });
  }

  // --- the verdict on one iteration ---

  /** False if it did not end: the machine was halted from outside. */
  #judge(): boolean {
    const block = this.#block;
    const said = new Set<string>(); // two tasks may have died of the same
    for (let task = 0; task < this.#tasks; task++) {
      const own = taskAt(task);
      if (block[own + LT_DIED] === 0) continue;
      block[own + LT_DIED] = 0;
      said.add(withoutPlaces(textLeftAt(block, own + LT_MESSAGE)));
    }
    for (const text of said) this.#note(text, TEXT_RULE);
    if (said.size > 0) {
      this.#count(B_VIOLATIONS);
      return true;
    }
    if (readOnce(this.#boot, MACHINE, Machine.halted) !== 0) return false;
    this.#judgeEnd();
    return true;
  }

  #judgeEnd(): void {
    const boot = this.#boot;
    let violated: string | undefined;
    let report: string | undefined;
    let outcome: string | undefined;
    try {
      violated = this.#program.check?.(boot, this.#world) ?? this.#leak();
      if (violated === undefined) report = this.#lockReport();
      const isFine = violated === undefined && report === undefined;
      const { outcomes, observe } = this.#program;
      if (isFine && outcomes !== undefined) outcome = observe?.(boot, this.#world);
    } catch (error) {
      violated = messageOf(error);
    }
    resetCpu(boot, this.#slabs);
    if (violated !== undefined) this.#note(withoutPlaces(violated), TEXT_RULE);
    else if (report !== undefined) this.#note(report, TEXT_LOCK_REPORT);
    else if (outcome === undefined || this.#isAllowed(outcome)) return;
    this.#count(B_VIOLATIONS);
  }

  #leak(): string | undefined {
    if (this.#allocations === undefined) return undefined;
    const lost = describeLeak(this.#boot, this.#allocations, countAllocations(this.#boot));
    return lost === '' ? undefined : `not given back: ${lost}`;
  }

  /**
   * What lockdep has found in this iteration. What it has learned is not put back with the rest, and what it has
   * reported it reports once.
   */
  #lockReport(): string | undefined {
    if (this.#program.validatesLocks === false) return undefined;
    const known = this.#block[B_LOCK_REPORTS] ?? 0;
    this.#block[B_LOCK_REPORTS] = lockReportCount(this.#boot);
    return lockReportTexts(this.#boot)[known]?.split('\n')[0];
  }

  /** Counts the outcome; false if it is forbidden, or not declared. */
  #isAllowed(outcome: string): boolean {
    const at = this.#outcomes.get(outcome);
    if (at === undefined) {
      this.#note(outcome, TEXT_OUTCOME);
      return false;
    }
    this.#count(B_OUTCOMES + at);
    return !this.#forbidden.has(outcome);
  }

  /** Counts a text. */
  #note(text: string, kind: number): void {
    const block = this.#block;
    const used = block[B_TEXTS] ?? 0;
    let entry = 0;
    while (entry < used && textLeftAt(block, textAt(entry) + TX_TEXT) !== cut(text)) entry++;
    if (entry === TEXTS_MAX) return;
    if (entry === used) {
      block[B_TEXTS] = used + 1;
      block[textAt(entry) + TX_KIND] = kind;
      leaveText(block, textAt(entry) + TX_TEXT, MESSAGE_MAX, text);
    }
    this.#count(textAt(entry) + TX_COUNT);
  }

  #count(at: number): void {
    leaveWord(this.#block, at, (this.#block[at] ?? 0) + 1); // the main thread glances at some
  }

  #now(): number {
    return Math.round(clockMs(this.#boot));
  }
}

function cut(text: string): string {
  return text.slice(0, MESSAGE_MAX);
}

/** As an exploration says it: a rule of the kernel that is broken speaks for itself. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return textOf(error);
  return error.name === 'KernelBug' ? error.message : `${error.name}: ${error.message}`;
}
