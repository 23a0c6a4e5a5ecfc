/**
 * Runs the cases of a corpus, several at a time, each on a machine of its own, and compares.
 *
 * A machine boots for each case, so that nothing of one can show in another; the workers that are its CPUs stay. A
 * case that ends its machine (a bug, a deadlock) has failed, and the others go on.
 *
 * @module
 */
import { read, readAddress, readOnce } from '#memory';

import { FaultlineError } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import { bootDeferred } from '../deferred/boot.js';
import { bootDevices } from '../device/boot.js';
import { Crew } from '../host/crew.js';
import { MachineFailure } from '../host/failure.js';
import { type Build, WorkerPool } from '../host/pool.js';
import { type BootedMachine, bootMachine } from '../machine/boot.js';
import type { Cpu } from '../machine/cpu.js';
import { element } from '../memory/layout.js';
import type { AtomicsForm } from '../memory/native.js';
import { bootMemremap } from '../memremap/core.js';
import { bootMm } from '../mm/boot.js';
import { VA_MAX } from '../notifier/mmu-notifier-range.js';
import { assertNoLeak, assertNoWarning, framesAccountedFor } from '../workloads/leak.js';
import { type CastCase, castCase, fits, LEADER, unsupportedOp, usesDevices } from './cast.js';
import {
  compareCase,
  type Difference,
  eventName,
  type SeenEvent,
  type SeenStep,
} from './compare.js';
import type { RecordedCase } from './corpus.js';
import { addDevices, DEVICE_BYTES, devicePagesInUse, giveDevices } from './devices.js';
import type { MemberReport } from './member.js';
import { beginFirstProcess } from './processes.js';
import {
  ARENA,
  ConformEvent,
  ConformWorld,
  EVENT_KINDS,
  eventAt,
  freeWorld,
  keptEvents,
  makeWorld,
  PROCS_MAX,
  showSoftDirty,
} from './world.js';

/** How a case ended. */
export interface CaseResult {
  readonly name: string;
  readonly category: string;
  readonly outcome: 'passed' | 'failed' | 'unsupported';
  /** The first operation that is not implemented. */
  readonly unsupported?: string;
  readonly differences: readonly Difference[];
}

export interface ConformOptions {
  /** Cases that run at the same time. */
  readonly parallel: number;
  readonly tlb: boolean;
  /** Address spaces that are torn at beside each case. */
  readonly noise?: number;
  readonly atomics: AtomicsForm;
  readonly build: Build;
  /** Give up on a case that goes no further for so long. */
  readonly stallMs: number;
  readonly signal?: AbortSignal;
  /** Workers for so many CPUs; by default new ones of the build, which are ended with the run. */
  readonly pool?: (size: number) => WorkerPool;
  readonly onResult?: (result: CaseResult, done: number) => void;
}

/** Runs the cases; results come in the order of the cases, and end early if the run was aborted. */
export async function runCorpus(
  cases: readonly RecordedCase[],
  options: ConformOptions,
): Promise<CaseResult[]> {
  const results = new Array<CaseResult | undefined>(cases.length);
  let next = 0;
  let done = 0;
  const size = cpusNeeded(cases) + (options.noise ?? 0);
  const lane = async (): Promise<void> => {
    const workers = new Workers(size, options);
    try {
      for (let index = next++; index < cases.length && options.signal?.aborted !== true;) {
        const one = cases[index];
        if (one !== undefined) {
          const result = await runCase(one, options, workers);
          results[index] = result;
          options.onResult?.(result, ++done);
        }
        index = next++;
      }
    } finally {
      await workers.end();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, lane));
  return results.filter((result) => result !== undefined);
}

/** CPUs of the largest case. */
function cpusNeeded(cases: readonly RecordedCase[]): number {
  const supported = cases.filter((one) => unsupportedOp(one) === undefined);
  return Math.max(
    1,
    ...supported
      .map(castCase)
      .filter(fits)
      .map(({ cpus }) => cpus.length),
  );
}

/** The workers of one lane; new ones after a case that has ended them. */
class Workers {
  readonly #size: number;
  readonly #options: ConformOptions;
  #pool: WorkerPool | undefined;

  constructor(size: number, options: ConformOptions) {
    this.#size = size;
    this.#options = options;
  }

  get pool(): WorkerPool {
    const { pool, build } = this.#options;
    if (this.#pool === undefined || this.#pool.hasEnded) {
      this.#pool = pool?.(this.#size) ?? new WorkerPool(this.#size, build);
    }
    return this.#pool;
  }

  async end(): Promise<void> {
    if (this.#options.pool === undefined) await this.#pool?.end();
    this.#pool = undefined;
  }
}

/**
 * How often a case is tried: once it has to come out as recorded. One with steps in the background was recorded on one
 * CPU, where who is woken runs later than who wakes; here both run at once. And some a real kernel did not always do
 * alike.
 */
function triesOf(recorded: RecordedCase, { steps }: CastCase): number {
  if (recorded['racy'] === true) return 8;
  return steps.some(({ isAsync }) => isAsync) ? 4 : 1;
}

async function runCase(
  recorded: RecordedCase,
  options: ConformOptions,
  workers: Workers,
): Promise<CaseResult> {
  const { name, category } = recorded;
  const unsupported = unsupportedOp(recorded);
  if (unsupported !== undefined) {
    return { name, category, outcome: 'unsupported', unsupported, differences: [] };
  }
  const cast = castCase(recorded);
  let differences = [failureOf('too many processes, threads and steps in the background')];
  for (let tries = triesOf(recorded, cast); tries > 0 && fits(cast); tries--) {
    differences = await differencesOf(recorded, cast, options, workers);
    if (differences.length === 0) break;
  }
  return { name, category, outcome: differences.length === 0 ? 'passed' : 'failed', differences };
}

function failureOf(message: string): Difference {
  return { step: 0, op: 'case', field: 'machine', expected: 'no failure', actual: message };
}

/** Enough for the largest window, several processes, and the log. Unit: bytes. */
const RAM_BYTES = 48 << 20;
const SWAP_BYTES = 16 << 20;

async function differencesOf(
  recorded: RecordedCase,
  cast: CastCase,
  options: ConformOptions,
  workers: Workers,
): Promise<Difference[]> {
  const { atomics, noise = 0 } = options;
  const hasDevices = usesDevices(cast);
  const deviceBytes = hasDevices ? DEVICE_BYTES : 0;
  const sizes = { ramBytes: RAM_BYTES, swapBytes: SWAP_BYTES, deviceBytes };
  const machine = bootMachine({ cpus: cast.cpus.length + noise, ...sizes, atomics });
  const boot = machine.cpu;
  bootMm(boot);
  bootDeferred(boot);
  if (hasDevices) {
    bootDevices(boot);
    bootMemremap(boot);
  }
  const devices = hasDevices ? addDevices(boot) : [];
  const before = framesAccountedFor(boot);
  const world = prepare(boot, cast);
  giveDevices(boot, world, devices);
  try {
    const reports = await runCrew(machine, world, cast, options, workers);
    const seen = seenSteps(boot, world, cast, reports);
    const kept = devicePagesInUse(boot, world);
    freeWorld(boot, world);
    const differences = compareCase(recorded, seen, options);
    if (differences.length > 0) return differences;
    assertNoWarning(boot);
    assertNoLeak(boot, before);
    if (kept > 0) return [failureOf(`${kept} pages of devices were not given back`)];
    return [];
  } catch (error) {
    if (error instanceof MachineFailure || error instanceof FaultlineError) {
      return [failureOf(error.message)];
    }
    throw error;
  }
}

function prepare(boot: Cpu, cast: CastCase): ConformWorld {
  const world = makeWorld(boot);
  if (world === 0 || !beginFirstProcess(boot, world, cast.cpus.indexOf('p0'))) {
    throw new FaultlineError('FAULTLINE_OUT_OF_MEMORY', `${cast.name}: no memory to begin with`);
  }
  if (cast.showsSoftDirty) showSoftDirty(boot, world);
  return world;
}

const MEMBERS = 'faultline:conform';

async function runCrew(
  machine: BootedMachine,
  world: ConformWorld,
  cast: CastCase,
  options: ConformOptions,
  workers: Workers,
): Promise<MemberReport[]> {
  const members = cast.cpus.map((name) => ({
    name,
    module: MEMBERS,
    entry: 'runConformMember',
    args: { world, cast },
  }));
  for (let i = 0; i < (options.noise ?? 0); i++) {
    const entry = 'runConformNoise';
    members.push({ name: `beside ${i}`, module: MEMBERS, entry, args: { world, cast } });
  }
  const crew = new Crew(machine, members, {
    pool: workers.pool,
    watchdog: { stallMs: options.stallMs },
    ...(options.signal && { signal: options.signal }),
  });
  try {
    await crew.ready();
    crew.start();
    const results = await crew.results();
    return results.map(({ value }) => value as MemberReport);
  } catch (error) {
    await crew.abandon();
    throw error;
  }
}

/** What the members saw, step by step. */
function seenSteps(
  boot: Cpu,
  world: ConformWorld,
  cast: CastCase,
  reports: readonly MemberReport[],
): SeenStep[] {
  const log = loggedEvents(boot, world, cast.pages);
  return cast.steps.map((step, index): SeenStep => {
    const marks = reports[LEADER]?.marks[index];
    const answer = reports.map(({ answers }) => answers[index]).find((one) => one !== undefined);
    const events = log.slice(marks?.firstEvent ?? 0, marks?.endEvent ?? 0);
    return { step, answer, marks, events: events.filter((one) => one !== undefined) };
  });
}

/** The log; undefined where a callback was about nothing of the arena's window. */
function loggedEvents(
  boot: Cpu,
  world: ConformWorld,
  pages: number,
): readonly (SeenEvent | undefined)[] {
  const count = keptEvents(readOnce(boot, world, ConformWorld.events));
  return Array.from({ length: count }, (_, index) => {
    const event = eventAt(boot, world, index);
    const kind = EVENT_KINDS[read(boot, event, ConformEvent.kind)];
    if (kind === undefined) return undefined;
    const start = readAddress(boot, event, ConformEvent.start);
    const end = readAddress(boot, event, ConformEvent.end);
    const isInside = start < ARENA + pages * PAGE_SIZE && end > ARENA;
    if (kind !== 'release' && !isInside) return undefined;
    return { kind, ...procField(boot, world, event), ...fieldsOf(boot, event, kind) };
  });
}

function procField(boot: Cpu, world: ConformWorld, event: ConformEvent): { proc?: string } {
  const mm = read(boot, event, ConformEvent.mm);
  for (let proc = 1; proc < PROCS_MAX; proc++) {
    if (read(boot, world, element(ConformWorld.mms, proc)) === mm) return { proc: `p${proc}` };
  }
  return {};
}

/** MIGRATE and EXCLUSIVE have an owner; of the others the kernel says nothing. */
const OWNED: ReadonlySet<string> = new Set(['MIGRATE', 'EXCLUSIVE']);

function fieldsOf(boot: Cpu, event: ConformEvent, kind: string): Record<string, unknown> {
  if (kind === 'release') return {};
  const span = {
    start: pageOrOpen(readAddress(boot, event, ConformEvent.start), 0),
    end: pageOrOpen(readAddress(boot, event, ConformEvent.end), VA_MAX),
  };
  if (kind === 'migrate_to_ram' || kind === 'page_free') {
    const device = `dev${read(boot, event, ConformEvent.id)}`;
    const isWrite = read(boot, event, ConformEvent.event) !== 0;
    return { ...span, device, ...(kind === 'migrate_to_ram' && { write: isWrite }) };
  }
  if (kind !== 'interval' && kind !== 'start' && kind !== 'end') return span;
  const name = eventName(read(boot, event, ConformEvent.event));
  const owner = read(boot, event, ConformEvent.owner);
  const answer = read(boot, event, ConformEvent.answer);
  return {
    ...span,
    event: name,
    blockable: read(boot, event, ConformEvent.blockable) !== 0,
    ...(OWNED.has(name) && { owner: owner === 0 ? null : `dev${owner - 1}` }),
    ...(kind === 'interval' && {
      id: read(boot, event, ConformEvent.id),
      seq: read(boot, event, ConformEvent.seq),
      prevSeq: read(boot, event, ConformEvent.prevSeq),
    }),
    ...(answer !== 0 && { ret: answer }),
  };
}

function pageOrOpen(va: number, open: number): number | null {
  return va === open ? null : (va - ARENA) / PAGE_SIZE;
}
