/**
 * Programs that hammer one lock each, on all CPUs at once, and look whether it keeps its word.
 *
 * What a lock protects is plain data: `left` and `right` are equal outside every section, and each
 * section counts them up by one, so that both a torn view and a lost update are seen.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { clearSignal, cpuRelax, sendSigkill } from '../../src/machine/sched.js';
import { CpuArea, MACHINE, Machine } from '../../src/machine/types.js';
import { WAIT_RWSEM_WRITE, WAIT_SPINLOCK } from '../../src/machine/wait-kind.js';
import { cacheline, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import {
  initMutex,
  Mutex,
  mutexLock,
  mutexLockKillable,
  mutexTrylock,
  mutexUnlock,
} from '../../src/sync/mutex.js';
import { OptimisticSpinQueue, osqLock, osqUnlock } from '../../src/sync/optimistic-spin-queue.js';
import {
  downgradeWrite,
  downRead,
  downReadKillable,
  downReadTrylock,
  downWrite,
  downWriteKillable,
  downWriteTrylock,
  initRwsem,
  Rwsem,
  upRead,
  upWrite,
} from '../../src/sync/rwsem.js';
import {
  initSpinlock,
  Spinlock,
  spinLock,
  spinTrylock,
  spinUnlock,
} from '../../src/sync/spinlock.js';

export const Arena = struct('test_arena', {
  spinlock: Spinlock,
  mutex: Mutex,
  rwsem: Rwsem,
  osq: OptimisticSpinQueue,
  line1: cacheline,
  left: word,
  right: word,
  writer: word, // the CPU that is in a section for writing, +1
  line2: cacheline,
  readers: word, // CPUs in a section for reading; atomic
  together: word, // sections in which there were several readers; atomic
  line3: cacheline,
  arrived: word, // at the gate
  running: word, // CPUs that have not done; what keeps the disturbers going
  sections: word, // of readers; atomic
});
export type Arena = Ptr<'test_arena'>;

const LOCK = lockClass('arena->lock');

/** Makes the arena's locks. */
export function initArena(cpu: Cpu, arena: Arena): Arena {
  initSpinlock(cpu, member(arena, Arena.spinlock), LOCK);
  initMutex(cpu, member(arena, Arena.mutex), LOCK);
  initRwsem(cpu, member(arena, Arena.rwsem), LOCK);
  return arena;
}

export const ROUNDS = 5000;
/** Rounds of a control at most: it stops as soon as it has seen what it is to see. */
const CONTROL_ROUNDS = 20_000_000;
/** A section is long now and then, so that others have to sleep. */
const LONG_EVERY = 64;
const LONG_SPINS = 3000;

/** Starts all CPUs as nearly at once as can be. */
function gate(cpu: Cpu, arena: Arena): void {
  fetchAdd(cpu, arena, Arena.running, 1);
  fetchAdd(cpu, arena, Arena.arrived, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let spins = 0; readOnce(cpu, arena, Arena.arrived) < cpus; spins++) cpuRelax(cpu, spins);
}

function linger(cpu: Cpu, round: number): void {
  const spins = round % LONG_EVERY === cpu.id ? LONG_SPINS : 0;
  for (let i = 0; i < spins; i++) cpuRelax(cpu, i);
}

/** A section that must be alone; returns 1 if it was not. */
function section(cpu: Cpu, arena: Arena, round: number): number {
  const left = read(cpu, arena, Arena.left);
  const torn = left !== read(cpu, arena, Arena.right);
  write(cpu, arena, Arena.left, left + 1);
  const before = read(cpu, arena, Arena.writer);
  write(cpu, arena, Arena.writer, cpu.id + 1);
  linger(cpu, round);
  const after = read(cpu, arena, Arena.writer);
  write(cpu, arena, Arena.writer, 0);
  write(cpu, arena, Arena.right, left + 1);
  const crowded = readOnce(cpu, arena, Arena.readers) !== 0;
  return torn || before !== 0 || after !== cpu.id + 1 || crowded ? 1 : 0;
}

/** A section that may have company, of readers; returns 1 if it saw a writer. */
function readSection(cpu: Cpu, arena: Arena, round: number): number {
  if (fetchAdd(cpu, arena, Arena.readers, 1) > 0) fetchAdd(cpu, arena, Arena.together, 1);
  const left = read(cpu, arena, Arena.left);
  linger(cpu, round);
  const right = read(cpu, arena, Arena.right);
  const writer = read(cpu, arena, Arena.writer);
  fetchAdd(cpu, arena, Arena.readers, -1);
  return left !== right || writer !== 0 ? 1 : 0;
}

/** The control: no lock, and so disturbed sooner or later; stops then. */
export function noLock(cpu: Cpu, arena: Arena): number {
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < CONTROL_ROUNDS && readOnce(cpu, arena, Arena.sections) === 0; i++) {
    disturbed += section(cpu, arena, i);
    if (disturbed > 0) fetchAdd(cpu, arena, Arena.sections, 1);
  }
  return disturbed;
}

export function spinlock(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.spinlock);
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS; i++) {
    if (i % 8 !== 0 || !spinTrylock(cpu, lock)) spinLock(cpu, lock);
    disturbed += section(cpu, arena, i);
    spinUnlock(cpu, lock);
  }
  return disturbed;
}

export function mutex(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.mutex);
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS; i++) {
    if (i % 8 !== 0 || !mutexTrylock(cpu, lock)) mutexLock(cpu, lock);
    disturbed += section(cpu, arena, i);
    mutexUnlock(cpu, lock);
  }
  return disturbed;
}

/** As mutex, while others send fatal signals. */
export function mutexKillable(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.mutex);
  let disturbed = 0;
  let interrupted = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS;) {
    if (mutexLockKillable(cpu, lock) !== 0) {
      interrupted++;
      clearSignal(cpu);
      continue;
    }
    disturbed += section(cpu, arena, i++);
    mutexUnlock(cpu, lock);
  }
  fetchAdd(cpu, arena, Arena.together, interrupted);
  fetchAdd(cpu, arena, Arena.running, -1);
  return disturbed;
}

/** Sends fatal signals to all CPUs before itself until those have done. */
export function killOthers(cpu: Cpu, arena: Arena): number {
  gate(cpu, arena);
  for (let i = 0; readOnce(cpu, arena, Arena.running) > 1; i++) {
    for (let spins = 0; spins < 2000; spins++) cpuRelax(cpu, spins);
    sendSigkill(cpu, cpuArea(i % cpu.id));
  }
  return 0;
}

/** Spinners that give up now and then; those who get their turn must be alone. */
export function spinQueue(cpu: Cpu, arena: Arena): number {
  const queue = member(arena, Arena.osq);
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < 4 * ROUNDS; i++) {
    if (!osqLock(cpu, queue)) continue;
    disturbed += section(cpu, arena, i);
    osqUnlock(cpu, queue);
    fetchAdd(cpu, arena, Arena.sections, 1);
  }
  return disturbed;
}

export function rwsemWriter(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS; i++) {
    downWrite(cpu, sem);
    disturbed += section(cpu, arena, i);
    upWrite(cpu, sem);
  }
  return disturbed;
}

export function rwsemReader(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let disturbed = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS; i++) {
    downRead(cpu, sem);
    disturbed += readSection(cpu, arena, i);
    upRead(cpu, sem);
  }
  return disturbed;
}

/** Every way to take the semaphore, in turn; killable ones may be interrupted. */
export function rwsemAllWays(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let disturbed = 0;
  let written = 0;
  gate(cpu, arena);
  for (let i = 0; i < ROUNDS; i++) {
    const way = (i * 5 + cpu.id) % 7;
    if (way === 0 || (way === 1 && downWriteTrylock(cpu, sem))) {
      if (way === 0) downWrite(cpu, sem);
      disturbed += section(cpu, arena, i);
      written++;
      upWrite(cpu, sem);
    } else if (way === 2) {
      if (downWriteKillable(cpu, sem) === 0) {
        disturbed += section(cpu, arena, i);
        written++;
        downgradeWrite(cpu, sem);
        disturbed += readSection(cpu, arena, i);
        upRead(cpu, sem);
      } else {
        clearSignal(cpu);
      }
    } else {
      if (way === 3 && downReadKillable(cpu, sem) !== 0) {
        clearSignal(cpu);
        continue;
      }
      if (way === 1 || way > 4 || (way === 4 && !downReadTrylock(cpu, sem))) downRead(cpu, sem);
      disturbed += readSection(cpu, arena, i);
      upRead(cpu, sem);
    }
  }
  fetchAdd(cpu, arena, Arena.running, -1);
  fetchAdd(cpu, arena, Arena.sections, written);
  return disturbed;
}

// --- a writer under a stream of readers that never ends ---

/** How often the writer asks. */
export const WRITER_ROUNDS = 20;
/** Readers that overtook the writer before it is given up for lost. */
const OVERTAKEN_MAX = 1_000_000;
/** Looks at whether another reader has come, before the last one leaves. */
const ALONE_SPINS = 20_000;
const STREAM_WRITER = 0;

/** The serial of the wait that the writer is queued in, or 0 if it is not. */
function writersWait(cpu: Cpu): number {
  const area = cpuArea(STREAM_WRITER);
  const kind = readOnce(cpu, area, CpuArea.waitKind);
  return kind === WAIT_RWSEM_WRITE ? readOnce(cpu, area, CpuArea.waitSerial) : 0;
}

/**
 * Reads so that there is always somebody inside: nobody leaves before another has come, or for long has
 * not. Counts in `together` how often a reader came after the writer had queued, and got it before.
 */
export function streamReader(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let sections = 0;
  gate(cpu, arena);
  while (
    readOnce(cpu, arena, Arena.writer) === 0 &&
    readOnce(cpu, arena, Arena.together) < OVERTAKEN_MAX
  ) {
    const waitBefore = writersWait(cpu);
    downRead(cpu, sem);
    if (waitBefore !== 0 && waitBefore === writersWait(cpu))
      fetchAdd(cpu, arena, Arena.together, 1);
    fetchAdd(cpu, arena, Arena.readers, 1);
    sections++;
    for (let spins = 0; spins < ALONE_SPINS; spins++) {
      if (readOnce(cpu, arena, Arena.readers) > 1) break;
      cpuRelax(cpu, spins);
    }
    fetchAdd(cpu, arena, Arena.readers, -1);
    upRead(cpu, sem);
    fetchAdd(cpu, arena, Arena.sections, 1);
  }
  return sections;
}

/** Writes against the stream, as CPU STREAM_WRITER; returns how often it got to. */
export function streamWriter(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  gate(cpu, arena);
  for (let round = 0; round < WRITER_ROUNDS; round++) {
    const before = readOnce(cpu, arena, Arena.sections);
    for (let i = 0; readOnce(cpu, arena, Arena.sections) < before + 50; i++) cpuRelax(cpu, i);
    downWrite(cpu, sem);
    upWrite(cpu, sem);
    if (readOnce(cpu, arena, Arena.together) >= OVERTAKEN_MAX) return round;
  }
  writeOnce(cpu, arena, Arena.writer, 1); // the readers may go
  return WRITER_ROUNDS;
}

// --- hand-over between two CPUs, of which each waits for the other ---

export const HANDOVERS = 1000;
export const HALTED_HANDOVERS = 500;
/** A section is anything from nothing to somewhat longer than a waiter spins. */
const HOLD_SPINS_MAX = 6000;

/** Waits until the other CPU has had its section; false if it will have none any more. */
function otherWasInside(cpu: Cpu, arena: Arena, mine: number): boolean {
  for (let spins = 0; readOnce(cpu, arena, Arena.left) === mine; spins++) {
    if (readOnce(cpu, arena, Arena.running) < 2) return false;
    cpuRelax(cpu, spins);
  }
  return true;
}

/**
 * Two CPUs take a lock in turns: who gave it back comes again only when the other has had it. So each
 * wake-up counts, for no later one makes up for it.
 */
function handOver(cpu: Cpu, arena: Arena, take: () => void, give: () => void): number {
  let sections = 0;
  gate(cpu, arena);
  for (let i = 0; i < HANDOVERS; i++) {
    take();
    sections++;
    const mine = readOnce(cpu, arena, Arena.left) + 1;
    writeOnce(cpu, arena, Arena.left, mine);
    for (let spins = (i * 769) % HOLD_SPINS_MAX; spins > 0; spins--) cpuRelax(cpu, 0);
    give();
    if (!otherWasInside(cpu, arena, mine)) break;
  }
  fetchAdd(cpu, arena, Arena.running, -1);
  return sections;
}

export function mutexHandover(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.mutex);
  return handOver(
    cpu,
    arena,
    () => {
      mutexLock(cpu, lock);
    },
    () => {
      mutexUnlock(cpu, lock);
    },
  );
}

export function rwsemWriteHandover(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  return handOver(
    cpu,
    arena,
    () => {
      downWrite(cpu, sem);
    },
    () => {
      upWrite(cpu, sem);
    },
  );
}

export function rwsemReadHandover(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  return handOver(
    cpu,
    arena,
    () => {
      downRead(cpu, sem);
    },
    () => {
      upRead(cpu, sem);
    },
  );
}

/** As the others, of a spinlock: it is given back only when the other CPU has had to halt for it. */
export function spinlockHandover(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.spinlock);
  const other = cpuArea(1 - cpu.id);
  let sections = 0;
  gate(cpu, arena);
  for (let i = 0; i < HALTED_HANDOVERS; i++) {
    spinLock(cpu, lock);
    sections++;
    const mine = readOnce(cpu, arena, Arena.left) + 1;
    writeOnce(cpu, arena, Arena.left, mine);
    for (let spins = 0; readOnce(cpu, arena, Arena.running) === 2; spins++) {
      if (readOnce(cpu, other, CpuArea.waitKind) === WAIT_SPINLOCK) break;
      cpuRelax(cpu, spins);
    }
    spinUnlock(cpu, lock);
    if (!otherWasInside(cpu, arena, mine)) break;
  }
  fetchAdd(cpu, arena, Arena.running, -1);
  return sections;
}
