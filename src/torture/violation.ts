/**
 * From what ended a run to what is said of it.
 *
 * @module
 */
import { describeCpu, snapshotCpus } from '../debug/wait-graph.js';
import type { Crew } from '../host/crew.js';
import type { MachineFailure } from '../host/failure.js';
import { WORKER } from '../host/pool.js';
import type { Cpu } from '../machine/cpu.js';
import { glance, textLeftAt } from '../memory/turn-token.js';
import {
  B_ENDED,
  B_FAIL_CPU,
  B_FAIL_INVARIANT,
  B_FAIL_OTHERS,
  B_FAIL_TEXT,
  B_FAILED,
  B_PHASE,
  PHASE_OVER,
} from './block.js';
import type { LostWakeUp } from './rest.js';
import type { CpuPlace, Detector, Violation } from './result.js';
import { PHASE_SAFETY } from './target.js';

/** Where a violation is looked at from. */
export interface Scene {
  readonly boot: Cpu;
  readonly block: Int32Array;
  readonly stacks: ReadonlyMap<number, readonly string[]>;
  readonly nameOf: (cpu: number) => string;
  /** Since the start. Unit: seconds. */
  readonly atSeconds: number;
  /** The line to paste. */
  readonly command: string;
}

/** What was found, before it is known where everybody was. */
export interface Finding {
  readonly detector: Detector;
  readonly what: string;
  readonly evidenceTitle: string;
  readonly evidence: readonly string[];
}

/** The four parts. */
export function violationOf(scene: Scene, finding: Finding): Violation {
  const { block, atSeconds, command } = scene;
  const named = textLeftAt(block, B_FAIL_INVARIANT);
  const isSaid = finding.detector === 'invariant' && glance(block, B_FAILED) !== 0;
  const numbered = /\b(?:INV|LT|M)-\d+\b/.exec(finding.what)?.[0];
  return {
    ...finding,
    invariant: isSaid && named !== '' ? named : (numbered ?? null),
    phase: phaseOf(block),
    atSeconds,
    cpus: placesOf(scene),
    command,
  };
}

function phaseOf(block: Int32Array): Violation['phase'] {
  const phase = glance(block, B_PHASE);
  if (phase === PHASE_OVER || glance(block, B_ENDED) !== 0) return 'teardown';
  return phase === PHASE_SAFETY ? 'safety' : 'liveness';
}

function placesOf(scene: Scene): CpuPlace[] {
  const { boot, nameOf } = scene;
  const all = snapshotCpus(boot);
  return all.map((snapshot) => ({
    cpu: snapshot.cpu,
    name: nameOf(snapshot.cpu),
    doing: describeCpu(boot, snapshot, all),
    stack: scene.stacks.get(snapshot.cpu) ?? [],
  }));
}

/** Where the frames of each CPU were, as far as they are the kernel's or the target's. */
export function stacksOf(crew: Crew): ReadonlyMap<number, readonly string[]> {
  const stacks = [...crew.stacks()];
  return new Map(
    stacks.map(([cpu, frames]) => [
      cpu,
      frames
        .filter((frame) => !frame.includes('/src/torture/member.ts:'))
        .map((frame) => frame.replace(ROOT, '')),
    ]),
  );
}
const ROOT = new URL('../../', WORKER).href;

/** What the failure of a machine means here. */
export function findingOf(failure: MachineFailure, scene: Scene): Finding {
  const [summary = '', ...details] = failure.message.split('\n');
  switch (failure.kind) {
    case 'died':
      return deathFinding(summary, scene);
    case 'deadlock': {
      const names = summary.replace(/^deadlock: /, '').split(' -> ');
      const parties = details.filter((line) => names.some((name) => line.trim().startsWith(name)));
      return finding('wait-for graph', summary, 'Who waits for whom:', parties);
    }
    case 'stalled':
      return finding('watchdog', summary, 'Who got nowhere:', [summary.replace(/^stalled: /, '')]);
    case 'lost worker':
      return finding('lost worker', summary, 'What it left behind:', [
        summary.replace(/^.*; it /, 'it '),
      ]);
  }
}

function finding(
  detector: Detector,
  what: string,
  evidenceTitle: string,
  evidence: readonly string[],
): Finding {
  return { detector, what, evidenceTitle, evidence };
}

/** A CPU died: because of a rule of the target's or of the kernel's, or of an error of somebody's. */
function deathFinding(summary: string, scene: Scene): Finding {
  const { block, stacks, nameOf } = scene;
  if (glance(block, B_FAILED) !== 0) {
    const cpu = glance(block, B_FAIL_CPU);
    const set = glance(block, B_FAIL_OTHERS);
    const others = Array.from({ length: 32 }, (_, id) => id).filter((id) => (set >>> id) & 1);
    const parties = [cpu, ...others].flatMap((id) => accessOf(nameOf(id), stacks.get(id) ?? []));
    return finding('invariant', textLeftAt(block, B_FAIL_TEXT), 'Who met whom:', parties);
  }
  const died = /^(.*) died in .*?: (\w+): (.*) \(holds (.*)\)$/s.exec(summary);
  const [, who = '', error = '', message = summary] = died ?? [];
  const detector = error === 'KernelBug' ? 'invariant' : 'exception';
  return finding(detector, message, 'Who has found it:', [who === '' ? summary : who]);
}

/** The two innermost places of a CPU: what it did, and on whose behalf. */
function accessOf(name: string, stack: readonly string[]): string[] {
  if (stack.length === 0) return [`${name}, somewhere: it came too late to say where`];
  return [name, ...stack.slice(0, 2).map((frame) => `  ${frame}`)];
}

/** Who says that: the first line of a report of the checked build. */
export function detectorOfText(first: string): Detector {
  if (/data race/i.test(first)) return 'data race';
  if (/use.after.free|double.free|out.of.bounds/i.test(first)) return 'use after free';
  return /leak/i.test(first) ? 'leak' : 'lockdep';
}

/** What a report of the checked build is about, by its first line. */
export function reportFinding(text: string): Finding {
  const [first = '', ...rest] = text.split('\n');
  const detector = detectorOfText(first);
  const evidenceTitle = detector === 'lockdep' ? 'The locks:' : 'The accesses:';
  return { detector, what: first.trim(), evidenceTitle, evidence: rest };
}

/** CPUs that sleep for a lock that is free. */
export function lostFinding({ lock, cpus }: LostWakeUp): Finding {
  const names = cpus.map((cpu) => `cpu ${cpu}`).join(', ');
  return {
    detector: 'wait-for graph',
    what: `lost wake-up: ${names} sleeps for ${lock}, which is free, and everybody else has stopped`,
    evidenceTitle: 'Who waits for whom:',
    evidence: [`${names} -> ${lock} -> nobody`],
  };
}
