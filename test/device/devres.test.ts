import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read } from '#memory';

import { ENOMEM } from '../../src/base/errno.js';
import {
  devmAddAction,
  devmAddActionOrReset,
  devmKfree,
  devmKzalloc,
  devmReleaseAction,
  devmRemoveAction,
  devresEmpty,
  devresReleaseAll,
} from '../../src/device/devres.js';
import { type Device, DevmAction } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocationSite, failEnd, failNth } from '../../src/machine/fail.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { allocatedObjects, kfree, kzalloc } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { Mutex } from '../../src/sync/mutex.js';
import {
  bootDeviceCpu,
  events,
  newDeviceWorld,
  noteAction,
  takeEvents,
} from '../support/devices.js';

const DEVM_ACTION = allocationSite('devm_action');

test('actions run newest first, each once, and leave nothing', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  for (const data of [1, 2, 3]) assert.equal(devmAddAction(cpu, dev, noteAction, data), 0);
  assert.equal(devresEmpty(cpu, dev), false);
  assert.equal(devresReleaseAll(cpu, dev), 3);
  assert.deepEqual(takeEvents(), ['action 3', 'action 2', 'action 1']);
  assert.equal(devresReleaseAll(cpu, dev), 0);
  assert.equal(devresEmpty(cpu, dev), true);
  assert.equal(allocatedObjects(cpu, DevmAction), 0);
});

test('an action that cannot be added is not there; with OrReset it has run', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  devmAddAction(cpu, dev, noteAction, 1);
  failNth(cpu, 1, DEVM_ACTION);
  assert.equal(devmAddAction(cpu, dev, noteAction, 2), -ENOMEM);
  failNth(cpu, 1, DEVM_ACTION);
  assert.equal(devmAddActionOrReset(cpu, dev, noteAction, 3), -ENOMEM);
  assert.deepEqual(takeEvents(), ['action 3']);
  assert.equal(failEnd(cpu), DEVM_ACTION);
  assert.equal(devmAddActionOrReset(cpu, dev, noteAction, 4), 0);
  assert.deepEqual(takeEvents(), []);
  devresReleaseAll(cpu, dev);
  assert.deepEqual(takeEvents(), ['action 4', 'action 1']);
});

test('an action can be run early, or forgotten; of two alike, the newer one', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  for (const data of [1, 2, 1, 3]) devmAddAction(cpu, dev, noteAction, data);
  devmReleaseAction(cpu, dev, noteAction, 1);
  assert.deepEqual(takeEvents(), ['action 1']);
  devmRemoveAction(cpu, dev, noteAction, 3);
  assert.deepEqual(takeEvents(), []);
  devresReleaseAll(cpu, dev);
  assert.deepEqual(takeEvents(), ['action 2', 'action 1']);
  assert.deepEqual(warningTexts(cpu), []);
});

test('who runs or forgets an action that there is not is told so, and nothing runs', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  devmAddAction(cpu, dev, noteAction, 1);
  devmReleaseAction(cpu, dev, noteAction, 2);
  devmRemoveAction(cpu, dev, noteAction, 2);
  assert.deepEqual(takeEvents(), []);
  const warnings = warningTexts(cpu);
  assert.equal(warnings.length, 2);
  for (const text of warnings) assert.match(text, /has no action note\(2\)/);
});

/** Adds another action, and looks at the list: its lock is free while actions run. */
export const growingAction = defineOps({
  opsName: 'growing',
  action(cpu: Cpu, data: number) {
    events.push(devresEmpty(cpu, data as Device) ? 'empty' : 'not empty');
    devmAddAction(cpu, data as Device, noteAction, 7);
  },
});

test('what an action adds waits for the next round', () => {
  const cpu = bootDeviceCpu({ growingAction });
  const { dev } = newDeviceWorld(cpu);
  devmAddAction(cpu, dev, noteAction, 1);
  devmAddAction(cpu, dev, growingAction, dev);
  assert.equal(devresReleaseAll(cpu, dev), 2);
  assert.deepEqual(takeEvents(), ['empty', 'action 1']);
  assert.equal(devresReleaseAll(cpu, dev), 1);
  assert.deepEqual(takeEvents(), ['action 7']);
});

test('managed memory is zeroed, on its own lines, and goes with the device or before', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  kfree(cpu, Mutex, kzalloc(cpu, Mutex));
  const first = devmKzalloc(cpu, dev, Mutex);
  const second = devmKzalloc(cpu, dev, Mutex);
  assert.equal(first % 16, 0);
  for (let i = 0; i < Mutex.words; i++) assert.equal(cpu.words[first + i], 0);
  cpu.words.fill(-1, first, first + Mutex.words);
  assert.equal(read(cpu, second, Mutex.owner), 0);
  devmKfree(cpu, dev, first);
  assert.equal(devresReleaseAll(cpu, dev), 1);
  const layout = { structName: 'devm mutex', words: 16 + Mutex.words };
  assert.equal(allocatedObjects(cpu, layout), 0);
  devmKfree(cpu, dev, kzalloc(cpu, Mutex));
  assert.match(warningTexts(cpu).join(), /has no memory at/);
});

test('there may be no memory for managed memory', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  failNth(cpu, 1);
  assert.equal(devmKzalloc(cpu, dev, Mutex), 0);
  assert.equal(devresEmpty(cpu, dev), true);
});
