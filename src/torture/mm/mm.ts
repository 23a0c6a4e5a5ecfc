/**
 * Target `mm`: CPUs, devices and reclaim work on a few address spaces at once.
 *
 *   a CPU      goes into some address space and does one of the things of map-, advice-, paging-, process-,
 *              device- and notifier-operations.ts, or has it checked; around it it stores and loads, and judges what it finds
 *   a device   an engine: loads, stores and adds through whatever context its device has there
 *   a service  takes the faults of a device out of its rings
 *   reclaim    runs work items (notifiers and address spaces that end later), reaps the victims of kills, and does
 *              what kswapd does when memory is short: it always is, now and then
 *
 * Allocations fail at random during calls, in the safety phase.
 *
 * @module
 */
import { read, write } from '#memory';

import { runPendingWork } from '../../deferred/kworker.js';
import { initEngine } from '../../drivers/svm/engine.js';
import type { Cpu } from '../../machine/cpu.js';
import { element, member as memberOf, NULL } from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { balance, wantsKswapd } from '../../mm/vmscan.js';
import { LIST_END_BOTH, setListForm } from '../../notifier/boot.js';
import { bootOomReaper, oomReapPending, setOomDelays } from '../../process/oom-reaper.js';
import { exitTask } from '../../process/task.js';
import type { TortureConfig, TortureMember, TortureTarget } from '../target.js';
import { ADVICE_OPERATIONS, lookSomewhere, storeSomewhere } from './advice-operations.js';
import { CHECK_OPERATIONS, checkFiles } from './check.js';
import {
  BINDING_OPERATIONS,
  checkAdditions,
  DEVICE_OPERATIONS,
  deviceCount,
  endDevices,
  enterService,
  leaveService,
  makeDevices,
  serve,
  useDevice,
} from './device-operations.js';
import { MAP_OPERATIONS } from './map-operations.js';
import { endNotifiers, NOTIFIER_OPERATIONS } from './notifier-operations.js';
import { OWN_OPERATIONS } from './own-operations.js';
import { PAGING_OPERATIONS } from './paging-operations.js';
import { PROCESS_OPERATIONS, spawn } from './process-operations.js';
import { armFailure, disarmFailure, type Operation, stageOf } from './stage.js';
import {
  endWorld,
  inflate,
  makeWorld,
  Own,
  ownOf,
  somePlace,
  Space,
  spaceAt,
  SPACES,
  unsettle,
  visit,
  type World,
} from './world.js';

/** What CPUs choose from. */
const CHOICES: readonly Operation[] = [
  ...MAP_OPERATIONS,
  ...OWN_OPERATIONS,
  ...ADVICE_OPERATIONS,
  ...PAGING_OPERATIONS,
  ...PROCESS_OPERATIONS,
  ...BINDING_OPERATIONS,
  ...NOTIFIER_OPERATIONS,
  ...CHECK_OPERATIONS,
];
/** What is counted besides. */
const OTHERS = ['spawn', 'alloc_failure', 'fault_batch', 'work', 'reap', 'kswapd'] as const;
type Other = (typeof OTHERS)[number];

const OPERATIONS = [
  ...CHOICES.map(({ name }) => name),
  ...DEVICE_OPERATIONS.map(({ name }) => name),
  ...OTHERS,
];
const FIRST_OF_DEVICE = CHOICES.length;
const FIRST_OTHER = FIRST_OF_DEVICE + DEVICE_OPERATIONS.length;

/** Of so many candidates the one that was done least is done: rare conditions are met as often as common ones. */
const CANDIDATES = 3;

/** Frames for all address spaces and whatever they need: not enough, so that pages go to the swap area. */
const FREE_FRAMES = 300;
/** … but in every other run there is room for a few huge pages too: as many frames more. */
const HUGE_ROOM = 3 * 512;

const ROLES = ['cpu', 'device', 'service', 'reclaim'] as const;

function countOther(member: TortureMember, other: Other): void {
  member.count(FIRST_OTHER + OTHERS.indexOf(other));
}

/** Which of the members of its role a member is. */
function placeInRole(member: TortureMember): number {
  const { cpus } = member.config;
  const devices = deviceCount(member.config);
  const before = { cpu: 0, device: cpus, service: cpus + devices }[member.role] ?? 0;
  return member.index - before;
}

function choose(cpu: Cpu, world: World, member: TortureMember): number {
  const own = ownOf(cpu, world);
  let best = member.random(CHOICES.length);
  for (let i = 1; i < CANDIDATES; i++) {
    const other = member.random(CHOICES.length);
    const isRarer =
      read(cpu, own, element(Own.counts, other)) < read(cpu, own, element(Own.counts, best));
    if (isRarer) best = other;
  }
  return best;
}

function done(cpu: Cpu, world: World, member: TortureMember, operation: number): void {
  const own = ownOf(cpu, world);
  const counter = element(Own.counts, operation);
  write(cpu, own, counter, read(cpu, own, counter) + 1);
  member.count(operation);
}

/** One operation of a CPU. */
function stepCpu(cpu: Cpu, world: World, member: TortureMember): void {
  const index = somePlace(member);
  const at = visit(cpu, world, index);
  armFailure(cpu, member);
  if (at === undefined) {
    if (spawn(cpu, world, index)) countOther(member, 'spawn');
    if (disarmFailure(cpu)) countOther(member, 'alloc_failure');
    return;
  }
  const stage = stageOf(world, member, at);
  storeSomewhere(cpu, stage.way);
  const operation = choose(cpu, world, member);
  if (CHOICES[operation]?.run(cpu, stage) === true) done(cpu, world, member, operation);
  if (disarmFailure(cpu)) countOther(member, 'alloc_failure');
  lookSomewhere(cpu, stage.way);
  mmput(cpu, at.mm);
}

function stepDevice(cpu: Cpu, world: World, member: TortureMember): void {
  const which = member.random(DEVICE_OPERATIONS.length);
  const operation = DEVICE_OPERATIONS[which];
  if (operation === undefined) return;
  const isDone = useDevice(cpu, world, member, placeInRole(member), operation);
  if (isDone) member.count(FIRST_OF_DEVICE + which);
}

function stepReclaim(cpu: Cpu, member: TortureMember): void {
  if (runPendingWork(cpu) > 0) countOther(member, 'work');
  if (oomReapPending(cpu)) countOther(member, 'reap');
  if (!wantsKswapd(cpu)) return;
  balance(cpu);
  countOther(member, 'kswapd');
}

export const mmTarget: TortureTarget = {
  name: 'mm',
  weight: 25,
  title: 'address spaces: every call on them, devices that use them, notifiers, kills for memory',
  operations: OPERATIONS,
  services: ['service', 'reclaim'],
  busted: [
    'M-2',
    'M-4',
    'M-5',
    'M-6',
    'M-7',
    'M-put-at-once',
    'M-exit-shared',
    'M-reap-waits',
    'M-unstable-late',
    'M-unstable-unseen',
    'M-20',
  ],
  ramBytes: () => 32 << 20,
  swapBytes: 4 << 20,
  minFreeFrames: 32,
  roles(config: TortureConfig) {
    const devices = deviceCount(config);
    const each: Readonly<Record<(typeof ROLES)[number], number>> = {
      cpu: config.cpus,
      device: devices,
      service: devices,
      reclaim: 1,
    };
    return ROLES.flatMap((role) => Array.from({ length: each[role] }, () => role));
  },
  setup(cpu, config) {
    bootOomReaper(cpu);
    setOomDelays(cpu, 1, 1);
    setListForm(cpu, LIST_END_BOTH);
    const world = makeWorld(cpu);
    makeDevices(cpu, world, config);
    inflate(cpu, world, FREE_FRAMES + (config.seed % 2 === 0 ? HUGE_ROOM : 0));
    return world;
  },
  enter(cpu, state, member) {
    const world = state as World;
    initEngine(cpu, memberOf(ownOf(cpu, world), Own.engine));
    if (member.role === 'service') enterService(cpu, world, member, placeInRole(member));
  },
  step(cpu, state, member) {
    const world = state as World;
    if (member.role === 'cpu') stepCpu(cpu, world, member);
    else if (member.role === 'device') stepDevice(cpu, world, member);
    else if (member.role === 'reclaim') stepReclaim(cpu, member);
    else if (serve(cpu, member) > 0) countOther(member, 'fault_batch');
  },
  leave(cpu, _state, member) {
    if (member.role === 'service') leaveService(cpu, member);
  },
  teardown(cpu, state) {
    const world = state as World;
    for (let index = 0; index < SPACES; index++) {
      const space = spaceAt(world, index);
      const task = read(cpu, space, Space.task);
      if (task === NULL) continue;
      unsettle(cpu, space);
      exitTask(cpu, task);
    }
    while (oomReapPending(cpu, true)) continue;
    endDevices(cpu, world);
    endNotifiers(cpu, world);
    runPendingWork(cpu);
    checkFiles(cpu, world);
    checkAdditions(cpu, world);
    endWorld(cpu, world);
  },
};
