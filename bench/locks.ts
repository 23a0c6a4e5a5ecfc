/**
 * What a lock costs when nobody else wants it: the machine's locks in both forms of its atomics, beside
 * plain `Atomics` and the locks of the npm package `multithreading`.
 *
 * tinybench drives the samples; one is OPERATIONS pairs of lock and unlock, and its mean is given.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import {
  bootMachine,
  type Cpu,
  downRead,
  downWrite,
  initMutex,
  initRwsem,
  initSpinlock,
  kzalloc,
  lockClass,
  Mutex,
  mutexLock,
  mutexUnlock,
  Rwsem,
  Spinlock,
  spinLock,
  spinUnlock,
  upRead,
  upWrite,
} from 'faultline';
import { Bench } from 'tinybench';

import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';

const OPERATIONS = 20_000;
const NS_PER_MS = 1e6;
const SAMPLE_MS = 300;
const LEGEND = `ns      time of one lock and one unlock together; 1 thread
±       half the 95 % confidence interval of its mean
(wasm)  atomics of WebAssembly, which faultline uses by default; (js) the Atomics object`;
const BENCH_LOCK = lockClass('bench lock');

/** A lock, and OPERATIONS times lock and unlock of it. */
interface Candidate {
  readonly name: string;
  readonly run: () => void;
}

function machineLocks(form: 'wasm' | 'js'): Candidate[] {
  const { cpu } = bootMachine({ cpus: 1, ramBytes: 1 << 20, atomics: form });
  const sem = kzalloc(cpu, Rwsem);
  const mutex = kzalloc(cpu, Mutex);
  const spinlock = kzalloc(cpu, Spinlock);
  initRwsem(cpu, sem, BENCH_LOCK);
  initMutex(cpu, mutex, BENCH_LOCK);
  initSpinlock(cpu, spinlock, BENCH_LOCK);
  // one loop each: a shared one would call through a variable, which V8 cannot inline
  return [
    {
      name: 'rwsem, read',
      run: () => {
        readLoop(cpu, sem);
      },
    },
    {
      name: 'rwsem, write',
      run: () => {
        writeLoop(cpu, sem);
      },
    },
    {
      name: 'mutex',
      run: () => {
        mutexLoop(cpu, mutex);
      },
    },
    {
      name: 'spinlock',
      run: () => {
        spinLoop(cpu, spinlock);
      },
    },
  ].map(({ name, run }) => ({ name: `${name} (${form})`, run }));
}

function readLoop(cpu: Cpu, sem: Rwsem): void {
  for (let i = 0; i < OPERATIONS; i++) {
    downRead(cpu, sem);
    upRead(cpu, sem);
  }
}

function writeLoop(cpu: Cpu, sem: Rwsem): void {
  for (let i = 0; i < OPERATIONS; i++) {
    downWrite(cpu, sem);
    upWrite(cpu, sem);
  }
}

function mutexLoop(cpu: Cpu, mutex: Mutex): void {
  for (let i = 0; i < OPERATIONS; i++) {
    mutexLock(cpu, mutex);
    mutexUnlock(cpu, mutex);
  }
}

function spinLoop(cpu: Cpu, spinlock: Spinlock): void {
  for (let i = 0; i < OPERATIONS; i++) {
    spinLock(cpu, spinlock);
    spinUnlock(cpu, spinlock);
  }
}

/** The least that a lock can do: one atomic each way, no waiting, no owner. */
function plainAtomics(): Candidate[] {
  const words = new Int32Array(new SharedArrayBuffer(64));
  const readers = (): void => {
    for (let i = 0; i < OPERATIONS; i++) {
      Atomics.add(words, 0, 1);
      Atomics.sub(words, 0, 1);
    }
  };
  const owner = (): void => {
    for (let i = 0; i < OPERATIONS; i++) {
      Atomics.compareExchange(words, 0, 0, 1);
      Atomics.store(words, 0, 0);
    }
  };
  return [
    { name: 'Atomics.add, sub', run: readers },
    { name: 'Atomics.compareExchange, store', run: owner },
  ];
}

/** The part of `multithreading` that is used here. */
interface Guard {
  readonly dispose: () => void;
}
interface MultithreadingModule {
  readonly RwLock: new () => { readonly blockingRead: () => Guard };
  readonly Mutex: new () => { readonly blockingLock: () => Guard };
}

/** Node has `navigator` since version 21, and the package reads it when it is loaded. */
function defineNavigator(): void {
  if ('navigator' in globalThis) return;
  const navigator = { hardwareConcurrency: availableParallelism() };
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
}

/** Its locks; none, and why, where it does not load. */
async function multithreadingLocks(): Promise<{ locks: Candidate[]; missing?: string }> {
  const name = 'multithreading';
  defineNavigator();
  let module: MultithreadingModule;
  try {
    module = (await import(name)) as MultithreadingModule;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { locks: [], missing: `multithreading does not load in this Node: ${reason}` };
  }
  const rwlock = new module.RwLock();
  const mutex = new module.Mutex();
  const readers = (): void => {
    for (let i = 0; i < OPERATIONS; i++) rwlock.blockingRead().dispose();
  };
  const owner = (): void => {
    for (let i = 0; i < OPERATIONS; i++) mutex.blockingLock().dispose();
  };
  return {
    locks: [
      { name: 'multithreading RwLock, read', run: readers },
      { name: 'multithreading Mutex', run: owner },
    ],
  };
}

/** A line for each lock. */
export async function lockTable(): Promise<string> {
  const { locks, missing } = await multithreadingLocks();
  const bench = new Bench({ time: SAMPLE_MS, warmupTime: SAMPLE_MS / 2, throws: true });
  const candidates = [...machineLocks('wasm'), ...machineLocks('js'), ...plainAtomics(), ...locks];
  for (const [index, { name, run }] of candidates.entries()) {
    const beforeAll = (): void => {
      showProgress(`locks: ${index + 1} of ${candidates.length}, ${name}`);
    };
    bench.add(name, run, { beforeAll });
  }
  await bench.run();
  const rows: (readonly (string | number)[])[] = [];
  const each = (ms: number): string => `${((ms * NS_PER_MS) / OPERATIONS).toFixed(1)} ns`;
  for (const { name, result } of bench.tasks) {
    if (result.state !== 'completed') throw new Error(`${name} was not measured`);
    const { latency } = result;
    rows.push([name, each(latency.p50), each(latency.p99), `${latency.rme.toFixed(1)} %`]);
  }
  const table = textTable({
    head: ['lock and unlock, uncontended', 'median', 'p99', '±'],
    colAligns: ['left', 'right', 'right', 'right'],
    rows,
  });
  return [table, LEGEND, ...(missing === undefined ? [] : [missing])].join('\n');
}
