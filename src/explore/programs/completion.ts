/**
 * Completions: each complete() lets one wait return, no more and no fewer; waits that give up.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { listEmpty } from '../../memory/list.js';
import {
  complete,
  Completion,
  initCompletion,
  waitForCompletion,
  waitForCompletionTimeout,
} from '../../sync/completion.js';
import { WaitQueue } from '../../sync/wait-queue.js';
import { defineProgram, task } from '../program.js';

const World = struct('completion_world', {
  completion: Completion,
  line1: cacheline,
  said: word, // completions so far, counted before they are; atomic
  passed: word, // waits that returned because of one; atomic
  line2: cacheline,
  timedOut: word, // a wait gave up; written by its task
});
type World = Ptr<'completion_world'>;

const COMPLETION = lockClass('explored completion');
const TIMEOUT_MS = 3;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initCompletion(cpu, member(world, World.completion), COMPLETION);
  return world;
}

function say(cpu: Cpu, at: number): void {
  const world = at as World;
  fetchAdd(cpu, world, World.said, 1);
  complete(cpu, member(world, World.completion));
}

function pass(cpu: Cpu, world: World): void {
  const passed = fetchAdd(cpu, world, World.passed, 1) + 1;
  if (passed > readOnce(cpu, world, World.said)) bug('a wait returned before complete() (I1)');
}

function wait(cpu: Cpu, at: number): void {
  const world = at as World;
  waitForCompletion(cpu, member(world, World.completion));
  pass(cpu, world);
}

function waitShortly(cpu: Cpu, at: number): void {
  const world = at as World;
  const isDone = waitForCompletionTimeout(cpu, member(world, World.completion), TIMEOUT_MS);
  if (isDone) pass(cpu, world);
  else write(cpu, world, World.timedOut, 1);
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const completion = member(world, World.completion);
  const left = read(cpu, completion, Completion.done);
  const expected = read(cpu, world, World.said) - read(cpu, world, World.passed);
  if (left !== expected) return `${left} completions are left, and should be ${expected} (I1)`;
  const queue = member(completion, Completion.wait);
  return listEmpty(cpu, member(queue, WaitQueue.head)) ? undefined : 'somebody is queued at rest';
}

export const completion = defineProgram({
  name: 'completion',
  title: 'two completions and two waits',
  tasks: [
    {
      name: 'completer',
      operations: [
        { name: 'complete', run: say },
        { name: 'complete', run: say },
      ],
    },
    task('waiter', wait),
    task('waiter', wait),
  ],
  ramBytes: 64 * 4096,
  setup,
  check,
});

export const completionTimeout = defineProgram({
  name: 'completion-timeout',
  title: 'a completion meets the end of the time that a wait has',
  tasks: [task('completer', say), task('impatient', waitShortly)],
  ramBytes: 64 * 4096,
  setup,
  check,
  observe: (cpu, at) => (read(cpu, at as World, World.timedOut) === 0 ? 'completed' : 'timed out'),
  outcomes: [
    { name: 'completed', grade: 'ACCEPTABLE', description: 'it came in time' },
    { name: 'timed out', grade: 'INTERESTING', description: 'it stays for the next wait' },
  ],
});
