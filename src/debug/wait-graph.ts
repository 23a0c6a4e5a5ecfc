/**
 * Who waits for whom, read from the CPUs' areas while they run.
 *
 * Protocol   A CPU that blocks records what it waits for (machine/sched.ts); a CPU that holds a lock has
 *            it in its stack (debug/held-locks.ts), and so it has the work item and the kthread it runs, and
 *            the bank of SRCU readers it is in; what else it has begun and is to end, an invalidation say, is
 *            beside that (debug/begun.ts). A waits for B if B holds what A waits for, or if A waits for
 *            B's own progress (a TLB shootdown, an RCU grace period). A cycle of such edges, in which no CPU's wait
 *            has changed between two looks, is a deadlock. Whoever has been woken waits for nobody: a
 *            reader that was granted its lock may not have had a core since.
 * Ordering   The snapshot is not atomic. A CPU in a real deadlock does not move, so what two snapshots
 *            agree on (same waitSerial) is true of all CPUs of a cycle at once.
 * Deviation  Who can end the wait for a completion, for references or for a wait queue is not recorded; such a
 *            wait has no edge, and only its length can give it away. What the layers above know of it they
 *            say (explainWait).
 *
 * @module
 */
import { read, readOnce, readOwn } from '#memory';

import { type Cpu, cpuArea, cpuOfArea } from '../machine/cpu.js';
import { lockClassName } from '../machine/lock-class.js';
import { TASK_RUNNING, waitKindName } from '../machine/sched.js';
import {
  BEGUN_MAX,
  CpuArea,
  HELD_LOCKS_MAX,
  LOCK_CLASS_WORD,
  MACHINE,
  Machine,
  Page,
  Spinlock,
} from '../machine/types.js';
import {
  WAIT_COMPLETION,
  WAIT_DEVICE_FENCE,
  WAIT_DMA_FENCE,
  WAIT_DRIVER,
  WAIT_FAULT_BUFFER,
  WAIT_INVALIDATION,
  WAIT_KTHREAD,
  WAIT_MODULE,
  WAIT_MUTEX,
  WAIT_NEXT_KTHREAD,
  WAIT_NEXT_WORK,
  WAIT_NONE,
  WAIT_PAGE,
  WAIT_PAGE_LOCK,
  WAIT_PERCPU_REF,
  WAIT_PERCPU_RWSEM_READ,
  WAIT_PERCPU_RWSEM_WRITE,
  WAIT_QUEUE,
  WAIT_RCU,
  WAIT_REAPER,
  WAIT_REFERENCES,
  WAIT_REPLAY,
  WAIT_RWSEM_READ,
  WAIT_RWSEM_WRITE,
  WAIT_SHOOTDOWN,
  WAIT_SPINLOCK,
  WAIT_SRCU,
  WAIT_WORK,
  WAIT_WORKQUEUE,
} from '../machine/wait-kind.js';
import { element, member } from '../memory/layout.js';

/** One CPU at one moment. */
export interface CpuSnapshot {
  readonly cpu: number;
  readonly waitKind: number;
  readonly waitObject: number;
  /** Tells this wait from the CPU's other ones. */
  readonly waitSerial: number;
  readonly progress: number;
  /** Turns of long loops. */
  readonly resched: number;
  readonly finished: boolean;
  /** Asleep or spinning; not so if it has been woken and is about to go on. */
  readonly blocked: boolean;
  /** Locks held, outermost first. */
  readonly held: readonly number[];
  /** What it has begun and others wait for the end of (debug/begun.ts). */
  readonly begun: readonly number[];
  /** Whoever has locked the page that it waits for; -1 if it waits for none. */
  readonly pageOwner?: number;
}

/** All CPUs that run tasks. */
export function snapshotCpus(cpu: Cpu): CpuSnapshot[] {
  const cpus = read(cpu, MACHINE, Machine.cpus);
  return Array.from({ length: cpus }, (_, id) => snapshotCpu(cpu, id));
}

/** One CPU. */
export function snapshotCpu(cpu: Cpu, id: number): CpuSnapshot {
  const area = cpuArea(id);
  const held: number[] = [];
  for (let i = 0; i < HELD_LOCKS_MAX; i++) {
    const lock = readOnce(cpu, area, element(CpuArea.held, i));
    if (lock === 0) break;
    held.push(lock);
  }
  const begun = Array.from({ length: BEGUN_MAX }, (_, i) =>
    readOnce(cpu, area, element(CpuArea.begun, i)),
  ).filter((object) => object !== 0);
  const state = readOnce(cpu, area, CpuArea.state);
  const waitKind = readOnce(cpu, area, CpuArea.waitKind);
  return {
    cpu: id,
    waitKind,
    waitObject: readOnce(cpu, area, CpuArea.waitObject),
    waitSerial: readOnce(cpu, area, CpuArea.waitSerial),
    resched: readOwn(cpu, area, CpuArea.resched),
    progress: readOnce(cpu, area, CpuArea.progress),
    finished: readOnce(cpu, area, CpuArea.finished) !== 0,
    blocked: !SLEEPING_WAITS.has(waitKind) || state !== TASK_RUNNING,
    held,
    begun,
    pageOwner: waitKind === WAIT_PAGE_LOCK ? pageOwner(cpu, area) : -1,
  };
}

/** The CPU that has locked the page that the CPU of the area waits for; its lock's word names it (sync/page-lock.ts). */
function pageOwner(cpu: Cpu, area: CpuArea): number {
  const page = readOnce(cpu, area, CpuArea.waitObject) as Page;
  const owner = page === 0 ? 0 : readOnce(cpu, member(page, Page.ptl), Spinlock.value);
  return owner === 0 ? -1 : Math.floor(cpuOfArea(owner as CpuArea));
}

/** Waits that end when whoever has the object in its stack of locks gives it back; and how it has it. */
const HOLDER_WAITS: ReadonlyMap<number, string> = new Map([
  [WAIT_SPINLOCK, 'held by'],
  [WAIT_MUTEX, 'held by'],
  [WAIT_RWSEM_READ, 'held by'],
  [WAIT_RWSEM_WRITE, 'held by'],
  [WAIT_PERCPU_RWSEM_READ, 'held by'],
  [WAIT_PERCPU_RWSEM_WRITE, 'held by'],
  [WAIT_SRCU, 'read by'],
  [WAIT_WORK, 'run by'],
  [WAIT_WORKQUEUE, 'run by'],
  [WAIT_KTHREAD, 'run by'],
  [WAIT_PERCPU_REF, 'run by'],
  [WAIT_REAPER, 'run by'],
  [WAIT_INVALIDATION, 'begun by'],
  [WAIT_MODULE, 'loaded by'],
  [WAIT_DRIVER, 'tried by'],
  [WAIT_REPLAY, 'served by'],
  [WAIT_DMA_FENCE, 'to be signalled by'],
]);
/** Of these, what nobody has is not free: nobody serves it. */
const SERVED_WAITS: ReadonlySet<number> = new Set([
  WAIT_WORK,
  WAIT_WORKQUEUE,
  WAIT_KTHREAD,
  WAIT_PERCPU_REF,
  WAIT_REAPER,
]);
const CPU_WAITS: ReadonlySet<number> = new Set([WAIT_SHOOTDOWN, WAIT_DEVICE_FENCE, WAIT_RCU]);

/** Waits that end by a wake-up, which sets the state before the CPU itself notices. */
const SLEEPING_WAITS: ReadonlySet<number> = new Set([
  WAIT_MUTEX,
  WAIT_RWSEM_READ,
  WAIT_RWSEM_WRITE,
  WAIT_COMPLETION,
  WAIT_QUEUE,
  WAIT_REPLAY,
  WAIT_FAULT_BUFFER,
  WAIT_INVALIDATION,
  WAIT_MODULE,
  WAIT_DRIVER,
  WAIT_PAGE,
  WAIT_PAGE_LOCK,
  WAIT_REAPER,
  WAIT_SRCU,
  WAIT_PERCPU_REF,
  WAIT_WORK,
  WAIT_WORKQUEUE,
  WAIT_KTHREAD,
  WAIT_NEXT_WORK,
  WAIT_NEXT_KTHREAD,
  WAIT_REFERENCES,
  WAIT_PERCPU_RWSEM_READ,
  WAIT_PERCPU_RWSEM_WRITE,
  WAIT_DMA_FENCE,
]);

/** The CPUs that can end the wait of `waiter`, as far as that is recorded. */
export function blockersOf(waiter: CpuSnapshot, all: readonly CpuSnapshot[]): number[] {
  const { pageOwner: owner = -1 } = waiter;
  if (waiter.waitKind === WAIT_PAGE_LOCK) return owner < 0 ? [] : [owner];
  if (CPU_WAITS.has(waiter.waitKind)) return [cpuOfArea(waiter.waitObject as CpuArea)];
  if (!HOLDER_WAITS.has(waiter.waitKind)) return [];
  const isWhose = ({ held, begun }: CpuSnapshot): boolean =>
    held.includes(waiter.waitObject) || begun.includes(waiter.waitObject);
  return all.filter(isWhose).map((other) => other.cpu);
}

/** The CPUs of a cycle of waits, in order, each waiting for the next; undefined if there is none. */
export function findCycle(all: readonly CpuSnapshot[]): CpuSnapshot[] | undefined {
  const byId = new Map(all.map((snapshot) => [snapshot.cpu, snapshot]));
  const done = new Set<number>();
  const path: CpuSnapshot[] = [];
  const visit = (snapshot: CpuSnapshot): CpuSnapshot[] | undefined => {
    const seenAt = path.indexOf(snapshot);
    if (seenAt >= 0) return path.slice(seenAt);
    if (done.has(snapshot.cpu)) return undefined;
    path.push(snapshot);
    for (const id of snapshot.blocked ? blockersOf(snapshot, all) : []) {
      const next = byId.get(id);
      const cycle = next && visit(next);
      if (cycle) return cycle;
    }
    path.pop();
    done.add(snapshot.cpu);
    return undefined;
  };
  for (const snapshot of all) {
    const cycle = visit(snapshot);
    if (cycle) return cycle;
  }
  return undefined;
}

/** The name of a lock's class. */
export function lockName(cpu: Cpu, lock: number): string {
  return lockClassName(readOnce(cpu, lock as Spinlock, LOCK_CLASS_FIELD));
}
const LOCK_CLASS_FIELD = LOCK_CLASS_WORD as typeof Spinlock.lockClass;

/** What more is to be said of what is waited for. Filled while modules load. */
const EXPLANATIONS = new Map<number, ((cpu: Cpu, object: number) => string)[]>();

/**
 * Has reports say something of what waits of the kind are for: what is left to be done, and by whom. `explain` gets
 * the object of the wait, changes nothing, and may be called while others run; '' for nothing. Once, at module level.
 */
export function explainWait(kind: number, explain: (cpu: Cpu, object: number) => string): void {
  EXPLANATIONS.set(kind, [...(EXPLANATIONS.get(kind) ?? []), explain]);
}

/** What a CPU does, in a line: `waits for mutex driver->lock, held by cpu 1; holds mmap_lock`. */
export function describeCpu(cpu: Cpu, snapshot: CpuSnapshot, all: readonly CpuSnapshot[]): string {
  const parts = [describeWait(cpu, snapshot, all)];
  const names = (objects: readonly number[]): string =>
    objects.map((object) => lockName(cpu, object)).join(', ');
  if (snapshot.held.length > 0) parts.push(`holds ${names(snapshot.held)}`);
  if (snapshot.begun.length > 0) parts.push(`has not ended ${names(snapshot.begun)}`);
  return parts.join('; ');
}

function describeWait(cpu: Cpu, snapshot: CpuSnapshot, all: readonly CpuSnapshot[]): string {
  const { waitKind, waitObject } = snapshot;
  if (snapshot.finished) return 'has ended';
  if (waitKind === WAIT_NONE) return 'runs';
  const how = HOLDER_WAITS.get(waitKind);
  const isNamed = how !== undefined && waitObject !== 0;
  const what = isNamed ? ` ${lockName(cpu, waitObject)}` : '';
  const more = (EXPLANATIONS.get(waitKind) ?? []).map((explain) => explain(cpu, waitObject));
  return `waits for ${waitKindName(waitKind)}${what}${byWhom(snapshot, all)}${more.join('')}`;
}

function byWhom(waiter: CpuSnapshot, all: readonly CpuSnapshot[]): string {
  const blockers = blockersOf(waiter, all);
  if (blockers.length === 0) return SERVED_WAITS.has(waiter.waitKind) ? ', which nobody runs' : '';
  const hasEnded = (id: number): boolean => all.find(({ cpu }) => cpu === id)?.finished === true;
  const names = blockers.map((id) => `cpu ${id}${hasEnded(id) ? ' (has ended)' : ''}`);
  return `, ${HOLDER_WAITS.get(waiter.waitKind) ?? 'of'} ${names.join(', ')}`;
}
