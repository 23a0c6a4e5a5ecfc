/**
 * What the CPUs of a case run.
 *
 * Protocol   The leader goes through the steps. It performs those of drivers itself, and gives the others to their
 *            CPUs: a word in the world says which step is to be performed, and the CPU clears it when it is done. A
 *            step in the background is not waited for: the leader goes on when it is done, or when every CPU that
 *            is busy sleeps, so that nothing more will happen by itself; and so it does after steps that let others
 *            go on. What was logged until then belongs to the step. Two faults on one page of a device can go round in circles:
 *            then the log is full, and the leader goes on as well.
 *
 * @module
 */
import { park, read, readOnce, unpark, write, writeOnce } from '#memory';

import { type Cpu, cpuArea } from '../machine/cpu.js';
import { EVERYBODY } from '../machine/limits.js';
import { beginWait, checkHalted, endWait, TASK_RUNNING } from '../machine/sched.js';
import { CpuArea } from '../machine/types.js';
import { WAIT_TURN } from '../machine/wait-kind.js';
import { element } from '../memory/layout.js';
import { fput } from '../mm/file.js';
import { FOLL_PIN } from '../mm/gup.js';
import type { File } from '../mm/types.js';
import { type CastCase, type CastStep, LEADER } from './cast.js';
import { detachProcess, DRIVER_STEPS } from './driver-steps.js';
import { putKept } from './kept-pages.js';
import { endAllProcesses, endOrphan, enterStep, leaveStep, PROCESS_STEPS } from './processes.js';
import { resumePaused } from './recorder.js';
import { type PageState, snapshotOf } from './snapshot.js';
import type { Answer } from './step.js';
import { SYSTEM_CALLS } from './system-calls.js';
import {
  ConformHook,
  ConformWorld,
  HOOK_KINDS,
  hookOf,
  IDS_MAX,
  isAlive,
  isLogFull,
  mmOf,
  PROCS_MAX,
  STOP,
} from './world.js';

export { runConformNoise } from './noise.js';

/** What every CPU of a case is given. */
export interface MemberArgs {
  readonly world: ConformWorld;
  readonly cast: CastCase;
}

/** What a step has answered on the CPU that performed it. */
export type Answers = Readonly<Record<number, Answer>>;

/** What the leader has seen of a step. */
export interface StepMarks {
  /** Callbacks logged before it, and until the next. */
  readonly firstEvent: number;
  readonly endEvent: number;
  /** A step of the background: it had ended before the next. */
  readonly isDone: boolean;
  /** Each process's pages; undefined where none were asked for, or something was still going on. */
  readonly snapshot?: Readonly<Record<string, readonly PageState[]>>;
}

/** What a member of the crew returns: the leader also has the marks of all steps. */
export interface MemberReport {
  readonly answers: Answers;
  readonly marks: readonly StepMarks[];
}

/** Steps after which others go on. */
const SETTLES: ReadonlySet<string> = new Set(['resume', 'kill', 'process_mrelease', 'wait_gone']);

/**
 * Looks at sleeping CPUs before they count as blocked, and the time between two. One that was about to sleep, and has
 * been woken before it did, looks the same until the host lets it run.
 */
const LOOKS = 6;
const LOOK_MS = 5;

/** The program of every CPU of a case. */
export function runConformMember(cpu: Cpu, args: unknown): MemberReport {
  const { world, cast } = args as MemberArgs;
  return cpu.id === LEADER ? lead(cpu, world, cast) : follow(cpu, world, cast);
}

// --- those who are led ---

function follow(cpu: Cpu, world: ConformWorld, { steps }: CastCase): MemberReport {
  const answers: Record<number, Answer> = {};
  const command = element(ConformWorld.commands, cpu.id);
  for (;;) {
    const asked = awaitCommand(cpu, world);
    if (asked === STOP) return { answers, marks: [] };
    const step = steps[asked - 1];
    enterStep(cpu, world);
    if (step !== undefined) answers[asked - 1] = performStep(cpu, world, step);
    leaveStep(cpu, world);
    writeOnce(cpu, world, command, 0); // pairs with isBusy
    unpark(cpu, world, command, EVERYBODY);
  }
}

/** The number of the step to perform, plus 1, or STOP. Sleeps. */
function awaitCommand(cpu: Cpu, world: ConformWorld): number {
  const command = element(ConformWorld.commands, cpu.id);
  beginWait(cpu, WAIT_TURN, world);
  let asked = readOnce(cpu, world, command);
  while (asked === 0) {
    park(cpu, world, command, 0, Infinity);
    checkHalted(cpu);
    asked = readOnce(cpu, world, command);
  }
  endWait(cpu);
  return asked;
}

/** Performs a step on this CPU. Sleeps. */
export function performStep(cpu: Cpu, world: ConformWorld, step: CastStep): Answer {
  const { input, proc } = step;
  const call = SYSTEM_CALLS[input.op];
  if (call !== undefined) return call(cpu, world, mmOf(cpu, world, proc), input);
  const change = PROCESS_STEPS[input.op];
  if (change !== undefined) return change(cpu, world, proc, input, step.childCpu);
  return DRIVER_STEPS[input.op]?.(cpu, world, proc, input) ?? { result: 0 };
}

// --- who leads ---

function lead(cpu: Cpu, world: ConformWorld, cast: CastCase): MemberReport {
  const answers: Record<number, Answer> = {};
  const marks: StepMarks[] = [];
  const followers = cast.cpus.map((_, id) => id).filter((id) => id !== LEADER);
  cast.steps.forEach((step, index) => {
    const firstEvent = readOnce(cpu, world, ConformWorld.events);
    if (step.cpu === LEADER) {
      if (step.input.op === 'join') awaitStep(cpu, world, cast.steps[step.joins]);
      else if (step.input.op === 'wait_gone') awaitAll(cpu, world, followers);
      answers[index] = performStep(cpu, world, step);
    } else {
      command(cpu, world, step.cpu, index + 1);
      if (!step.isAsync) awaitIdle(cpu, world, step.cpu);
    }
    if (step.isAsync || SETTLES.has(step.input.op)) settle(cpu, world, followers);
    endOrphan(cpu, world);
    const isQuiet = !followers.some((id) => isBusy(cpu, world, id));
    marks.push({
      firstEvent,
      endEvent: readOnce(cpu, world, ConformWorld.events),
      isDone: !isBusy(cpu, world, step.cpu),
      ...(step.wantsSnapshot && isQuiet && { snapshot: snapshots(cpu, world, cast) }),
    });
  });
  endCase(cpu, world, followers);
  return { answers, marks };
}

function command(cpu: Cpu, world: ConformWorld, id: number, value: number): void {
  writeOnce(cpu, world, element(ConformWorld.commands, id), value);
  unpark(cpu, world, element(ConformWorld.commands, id), 1);
}

function isBusy(cpu: Cpu, world: ConformWorld, id: number): boolean {
  return id !== LEADER && readOnce(cpu, world, element(ConformWorld.commands, id)) !== 0; // pairs with follow
}

/** Waits until the CPU has done what it was told. Sleeps. */
function awaitIdle(cpu: Cpu, world: ConformWorld, id: number): void {
  const told = element(ConformWorld.commands, id);
  beginWait(cpu, WAIT_TURN, world);
  for (;;) {
    const value = readOnce(cpu, world, told);
    if (value === 0) break;
    park(cpu, world, told, value, Infinity);
    checkHalted(cpu);
  }
  endWait(cpu);
}

function awaitStep(cpu: Cpu, world: ConformWorld, step: CastStep | undefined): void {
  if (step !== undefined && step.cpu !== LEADER) awaitIdle(cpu, world, step.cpu);
}

function awaitAll(cpu: Cpu, world: ConformWorld, ids: readonly number[]): void {
  for (const id of ids) awaitIdle(cpu, world, id);
}

/** Waits until every CPU is idle or sleeps. Sleeps. */
function settle(cpu: Cpu, world: ConformWorld, ids: readonly number[]): void {
  beginWait(cpu, WAIT_TURN, world);
  let looks = 0;
  let before = '';
  while (looks < LOOKS && !isLogFull(cpu, world)) {
    const busy = ids.filter((id) => isBusy(cpu, world, id));
    if (busy.length === 0) break;
    const now = busy.map((id) => `${id}:${sleepOf(cpu, id)}`).join();
    looks = now.includes('awake') || now !== before ? 0 : looks + 1;
    before = now;
    park(cpu, world, ConformWorld.sd, readOnce(cpu, world, ConformWorld.sd), LOOK_MS); // nobody wakes us
    checkHalted(cpu);
  }
  endWait(cpu);
}

/** Which sleep the CPU is in, or that it is awake. */
function sleepOf(cpu: Cpu, id: number): string {
  const area = cpuArea(id);
  const isAwake = readOnce(cpu, area, CpuArea.state) === TASK_RUNNING;
  return isAwake ? 'awake' : String(readOnce(cpu, area, CpuArea.waitSerial));
}

function snapshots(
  cpu: Cpu,
  world: ConformWorld,
  cast: CastCase,
): Record<string, readonly PageState[]> {
  const states: Record<string, readonly PageState[]> = {};
  for (let proc = 0; proc < PROCS_MAX; proc++) {
    if (!isAlive(cpu, world, proc)) continue;
    states[`p${proc}`] = snapshotOf(cpu, world, mmOf(cpu, world, proc), 0, cast.pages);
  }
  return states;
}

/** Gives back all that the case has taken. Sleeps. */
function endCase(cpu: Cpu, world: ConformWorld, followers: readonly number[]): void {
  for (const kind of HOOK_KINDS) write(cpu, hookOf(world, kind), ConformHook.action, 0);
  do {
    resumePaused(cpu, world);
    settle(cpu, world, followers);
  } while (followers.some((id) => isBusy(cpu, world, id)));
  endOrphan(cpu, world);
  endAllProcesses(cpu, world);
  for (let proc = 0; proc < PROCS_MAX; proc++) detachProcess(cpu, world, proc);
  for (let id = 0; id < IDS_MAX; id++) {
    const file = read(cpu, world, element(ConformWorld.files, id)) as File;
    if (file !== 0) fput(cpu, file);
  }
  putKept(cpu, world, 0);
  putKept(cpu, world, FOLL_PIN);
  for (const id of followers) command(cpu, world, id, STOP);
  writeOnce(cpu, world, ConformWorld.noiseEnds, 1);
}
