/**
 * A program gives a device something to do and waits for it, while somebody else changes the mappings.
 *
 * The device faults: its driver takes mmap_lock for reading. Who waits for the device with that lock held, if only
 * for reading, waits for ever once a writer is queued: it lets no reader pass.
 *
 * @module
 */
import { read, write } from '#memory';
import { BUSTED_DEVICE_JOB, isMutant } from '#mutants';

import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import {
  DmaFence,
  dmaFenceBegin,
  dmaFenceInit,
  dmaFenceSignal,
  dmaFenceWait,
} from '../../sync/dma-fence.js';
import { type ExploreProgram, task } from '../program.js';
import {
  checkSpace,
  deviceFault,
  mapPage,
  mirrorSpace,
  setupFilled,
  type Space,
  spaceMm,
  spaceProgram,
} from './space.js';

const World = struct('device_job_world', {
  space: word,
  line1: cacheline,
  submitted: Completion,
  line2: cacheline,
  done: DmaFence,
});
type World = Ptr<'device_job_world'>;

const SUBMITTED = lockClass('job->submitted');
const DONE = lockClass('job->done');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initCompletion(cpu, member(world, World.submitted), SUBMITTED);
  dmaFenceInit(cpu, member(world, World.done), DONE);
  const space = setupFilled(cpu) as Space;
  mirrorSpace(cpu, space);
  write(cpu, world, World.space, space);
  return world;
}

const spaceIn = (cpu: Cpu, at: number): Space => read(cpu, at as World, World.space) as Space;

function program(cpu: Cpu, at: number): void {
  const world = at as World;
  const mm = spaceMm(cpu, spaceIn(cpu, at));
  const keepsLock = isMutant(cpu, BUSTED_DEVICE_JOB);
  mmapReadLock(cpu, mm);
  complete(cpu, member(world, World.submitted));
  if (!keepsLock) mmapReadUnlock(cpu, mm);
  dmaFenceWait(cpu, member(world, World.done));
  if (keepsLock) mmapReadUnlock(cpu, mm);
}

function device(cpu: Cpu, at: number): void {
  const world = at as World;
  waitForCompletion(cpu, member(world, World.submitted));
  dmaFenceBegin(cpu, member(world, World.done));
  deviceFault(cpu, spaceIn(cpu, at), 0);
  dmaFenceSignal(cpu, member(world, World.done));
}

export const DEVICE_JOB_PROGRAMS: readonly ExploreProgram[] = [
  spaceProgram(
    'device-job',
    'a program waits for a device that faults, while another page is mapped',
    setup,
    [
      task('program', program),
      task('device', device),
      task('mapper', (cpu, at) => {
        mapPage(cpu, spaceIn(cpu, at), 1);
      }),
    ],
    { check: (cpu, at) => checkSpace(cpu, spaceIn(cpu, at)) },
  ),
];
