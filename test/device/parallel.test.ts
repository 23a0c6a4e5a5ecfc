/**
 * Devices, drivers, modules and physical addresses on more workers than there are cores.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read } from '#memory';

import { Resource } from '../../src/device/types.js';
import type { BootedMachine } from '../../src/machine/boot.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import * as programs from '../programs/devices.js';
import { Thing } from '../programs/devices.js';
import { programUrl, runProgram } from '../support/crew.js';

const CPUS = 5;
const URL = programUrl('devices');

/** Runs the programs; the values that they returned, and the arena. */
async function run(
  entry: readonly string[],
): Promise<{ machine: BootedMachine; values: number[]; arena: programs.DeviceArena }> {
  let arena = 0 as programs.DeviceArena;
  const { machine, results } = await runProgram({
    cpus: CPUS,
    ramBytes: 4 << 20,
    module: URL,
    opsModules: [URL],
    entry,
    watchdog: { stallMs: 20_000 },
    setup: (cpu) => {
      registerOps(cpu, [programs]);
      arena = programs.deviceArena(cpu);
      return arena;
    },
  });
  assert.deepEqual(warningTexts(machine.cpu), []);
  return { machine, values: results.map(({ value }) => value as number), arena };
}

test('devices come and go while their driver does', async () => {
  const { driverComesAndGoes, devicesComeAndGo } = programs;
  const others = Array.from({ length: CPUS - 1 }, () => devicesComeAndGo.name);
  const { machine, values } = await run([driverComesAndGoes.name, ...others]);
  const [rounds, ...bound] = values;
  assert.ok(
    bound.every((count) => count >= 0),
    'probe, remove and actions took turns',
  );
  assert.ok(rounds! > 0, 'the driver came, and went');
  assert.ok(
    bound.some((count) => count > 0),
    'and met devices',
  );
  assert.equal(allocatedObjects(machine.cpu, Thing), 0);
});

test('a module is loaded, used and unloaded by all at once', async () => {
  const { machine, values, arena } = await run(
    Array.from({ length: CPUS }, () => programs.fightForModule.name),
  );
  assert.deepEqual(
    values,
    values.map(() => 0),
    'nobody used it after it had gone',
  );
  const { busy, twice } = programs.DeviceArena;
  assert.ok(read(machine.cpu, arena, busy) > 0, 'it was unloaded while it was in use');
  assert.ok(read(machine.cpu, arena, twice) > 0, 'and loaded while it was there');
});

test('physical addresses are for one at a time', async () => {
  const { machine, values, arena } = await run(
    Array.from({ length: CPUS }, () => programs.fightForRegions.name),
  );
  assert.deepEqual(
    values,
    values.map(() => 0),
  );
  const { busy } = programs.DeviceArena;
  assert.ok(read(machine.cpu, arena, busy) > 0, 'several had some at once');
  assert.equal(allocatedObjects(machine.cpu, Resource), 0);
});
