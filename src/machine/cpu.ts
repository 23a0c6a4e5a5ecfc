/**
 * The emulated CPU: the first argument of every kernel function, and its `current`.
 *
 * One worker is one CPU and runs one task. The last CPU of a machine is the boot CPU: the main thread,
 * which sets the machine up and watches it. What other CPUs may see of it is its CpuArea in shared
 * memory; what only it needs (counts that are back at zero whenever the program is between kernel
 * calls) are plain fields here.
 *
 * @module
 */
import type { Ptr } from '../memory/layout.js';
import { type MemoryHandle, MemoryPort } from '../memory/port.js';
import { CpuArea, MACHINE, Machine } from './types.js';

/** What watches a CPU's locks, where something does (debug/lockdep); called from this layer. */
export interface LockWatch {
  /** An allocation with these flags is about to be made. */
  readonly onAlloc: (cpu: Cpu, gfp: number) => void;
  /** These words are about to be given back to their allocator. */
  readonly onFree: (cpu: Cpu, at: number, words: number) => void;
}

/** Who is told when a CPU reaches a named point of its program or of the kernel: a litmus run. */
export interface PointWatcher {
  /** It may hold the CPU up for a while; it touches nothing of the machine. */
  reach(name: string): void;
}

/** A CPU as its own thread has it. Made by `bootMachine` and `attachCpu`; no other thread may use it. */
export class Cpu extends MemoryPort {
  readonly id: number;
  /** What other CPUs see of this one; its address names the task. */
  readonly area: CpuArea;
  /** This CPU's part of the per-CPU region. Unit: word index. */
  readonly percpu: number;
  /** The Page of frame 0, and the first word of frame 0. */
  readonly pages: number;
  readonly frames: number;
  /** The first frame of devices' memory; those before are the machine's own. */
  readonly deviceFirst: number;
  /** Nesting of sections that may not sleep. @kernel preempt_count */
  preemptCount = 0;
  /** Nesting of sections that may not block for other reasons. @kernel current->non_block_count */
  nonBlockCount = 0;
  /** Scopes that restrict allocations: PF_MEMALLOC*; machine/gfp.ts. @kernel current->flags */
  memallocFlags = 0;
  /** Null in the parallel build, and until the CPU first takes a lock. */
  lockWatch: LockWatch | null = null;
  /** Nesting of RCU read sections, in which nothing may sleep. @kernel current->rcu_read_lock_nesting */
  rcuDepth = 0;
  /** Locks held, as entries in CpuArea.held. */
  heldDepth = 0;
  /** Places in wait queues in use, out of CpuArea.waitEntries. */
  waitDepth = 0;
  /** Waits that the recorded one hides: kind and object of each, outermost first; machine/sched.ts. */
  readonly outerWaits: number[] = [];
  /** SCRATCH_WORDS words for the use of one function that calls nobody; machine/stack.ts. */
  readonly scratch: number;
  /** This CPU's kernel stack, and its first free word; machine/stack.ts. */
  readonly stack: number;
  stackTop: number;
  /** What the last load of the program on this CPU read; mm/access.ts. */
  loaded = 0;
  /** The last access of the program that failed was to memory that is gone (SIGBUS), not one it may not make (SIGSEGV). */
  faultIsBus = false;
  /** Why mm/gup.ts got no page; 0 = it did. */
  gupError = 0;
  /** Mistake that the machine has, 0 = none; base/mutants.ts. */
  readonly mutant: number;
  /** Told of points that this CPU reaches; null where nobody asks. */
  points: PointWatcher | null = null;
  /** Ops tables by index; machine/ops-table.ts. */
  readonly opsTables: object[] = [];
  readonly opsIndices = new Map<object, number>();
  /** kmem_cache of each struct layout, filled on first use; machine/slab.ts. */
  readonly slabs = new Map<string, Ptr<'kmem_cache'>>();

  constructor(handle: MemoryHandle, id: number) {
    super(handle);
    this.id = id;
    this.area = cpuArea(id);
    // not through the door: it would see this object half made, and V8 would never again take all CPUs
    // for objects of one shape, which costs every access
    const { words } = this;
    const machineWord = (field: number): number => words[MACHINE + field] ?? 0;
    this.percpu = machineWord(Machine.percpu) + id * machineWord(Machine.percpuStride);
    this.stack = this.percpu + machineWord(Machine.stacks);
    this.stackTop = this.stack;
    this.scratch = this.percpu + machineWord(Machine.scratch);
    this.pages = machineWord(Machine.pages);
    this.frames = machineWord(Machine.frames);
    this.deviceFirst = machineWord(Machine.deviceFirst);
    this.mutant = machineWord(Machine.mutant);
  }
}

/** Where the areas of CPUs are. */
export const CPU_AREAS = MACHINE + Machine.words;

/** The area of CPU `id`. */
export function cpuArea(id: number): CpuArea {
  return (CPU_AREAS + id * CpuArea.words) as CpuArea;
}

/** The CPU whose area this is. */
export function cpuOfArea(area: CpuArea): number {
  return (area - CPU_AREAS) / CpuArea.words;
}
