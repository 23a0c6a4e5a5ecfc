/**
 * Kernel threads: one that is asked to stop does, whether it works, sleeps, is about to, or has not begun.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EINTR } from '../../base/errno.js';
import {
  kthreadRun,
  kthreadSchedule,
  kthreadShouldStop,
  kthreadStop,
  runKthreads,
  stopKthreads,
} from '../../deferred/kthread.js';
import type { Kthread } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { setCurrentRunning, setCurrentState, TASK_INTERRUPTIBLE } from '../../machine/sched.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, type Ptr, struct, word } from '../../memory/layout.js';
import { defineProgram, task } from '../program.js';

const World = struct('kthread_world', {
  result: word, // what kthreadStop answered; written by its task
  line1: cacheline,
  turns: word, // of the thread; written by whoever runs it
});
type World = Ptr<'kthread_world'>;

const THREAD = lockClass('explored kthread');
const RESULT = 7;

export const sleepingThread = defineOps({
  opsName: 'sleeping thread',
  run(cpu: Cpu, kthread: Kthread, at: number) {
    const world = at as World;
    for (;;) {
      setCurrentState(cpu, TASK_INTERRUPTIBLE);
      write(cpu, world, World.turns, read(cpu, world, World.turns) + 1);
      if (kthreadShouldStop(cpu, kthread)) break;
      kthreadSchedule(cpu, kthread);
    }
    setCurrentRunning(cpu);
    return RESULT;
  },
});

function setup(cpu: Cpu): number {
  return kzalloc(cpu, World);
}

function startAndStop(cpu: Cpu, at: number): void {
  const kthread = kthreadRun(cpu, sleepingThread, at, THREAD);
  const result = kthreadStop(cpu, kthread);
  if (result !== RESULT && result !== -EINTR) bug(`kthread_stop answered ${result}`);
  write(cpu, at as World, World.result, result);
}

function serve(cpu: Cpu): void {
  runKthreads(cpu);
}

function check(cpu: Cpu, at: number): string | undefined {
  const began = read(cpu, at as World, World.turns) !== 0;
  const result = read(cpu, at as World, World.result);
  return began === (result === RESULT) ? undefined : `began: ${began}, and answered ${result}`;
}

export const kthread = defineProgram({
  name: 'kthread',
  title: 'a thread is stopped wherever it is',
  tasks: [
    {
      name: 'owner',
      operations: [
        { name: 'start and stop', run: startAndStop },
        { name: 'stop the runner', run: stopKthreads },
      ],
    },
    task('runner', serve),
  ],
  ops: { sleepingThread },
  ramBytes: 64 * 4096,
  leakFree: true,
  setup,
  check,
  observe: (cpu, at) => (read(cpu, at as World, World.turns) === 0 ? 'never began' : 'ran'),
  outcomes: [
    { name: 'ran', grade: 'ACCEPTABLE', description: 'it was woken, or saw it by itself' },
    { name: 'never began', grade: 'ACCEPTABLE', description: 'it was stopped before' },
  ],
});
