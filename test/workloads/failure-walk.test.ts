import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EBUSY, ENOMEM } from '../../src/base/errno.js';
import { driverRegister, driverUnregister } from '../../src/device/bind.js';
import { deviceAdd, deviceDel } from '../../src/device/device.js';
import { devmRequestFreeMemRegion } from '../../src/device/devm-region.js';
import {
  devmAddAction,
  devmAddActionOrReset,
  devmKzalloc,
  devresReleaseAll,
} from '../../src/device/devres.js';
import type { Device } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { Mutex } from '../../src/sync/mutex.js';
import { walkFailures } from '../../src/workloads/failure-walk.js';
import {
  bootDeviceCpu,
  driverOps,
  newDeviceWorld,
  noteAction,
  script,
  takeEvents,
} from '../support/devices.js';

/** A probe with four points, none of which leaves anything. */
function probe(cpu: Cpu, dev: Device): number {
  if (devmKzalloc(cpu, dev, Mutex) === 0) return -ENOMEM;
  const region = devmRequestFreeMemRegion(cpu, dev, 4096);
  if (region < 0) return region;
  return devmAddActionOrReset(cpu, dev, noteAction, 1);
}

/** All that the walk may need of slabs is there. */
function warmUp(cpu: Cpu, dev: Device): void {
  probe(cpu, dev);
  devresReleaseAll(cpu, dev);
  takeEvents();
}

test('every point of a bind fails in turn, and nothing is left', () => {
  const cpu = bootDeviceCpu();
  const { bus, dev, drv } = newDeviceWorld(cpu);
  warmUp(cpu, dev);
  script.probe = probe;
  deviceAdd(cpu, dev, bus);
  let probeResult = 0;
  script.probe = (probing, device) => (probeResult = probe(probing, device));
  const failures = walkFailures(cpu, {
    attempt: () => {
      const error = driverRegister(cpu, drv, bus, driverOps);
      if (error !== 0) return error;
      if (probeResult !== 0) driverUnregister(cpu, drv); // registered it is, though the device is not bound
      return probeResult;
    },
    undo: () => {
      driverUnregister(cpu, drv);
    },
  });
  assert.deepEqual(
    failures.map(({ nth, site, result, left }) => [nth, site, result, left]),
    [
      [1, 'driver_register', '-ENOMEM', ''],
      [2, 'kzalloc devm mutex', '-ENOMEM', ''],
      [3, 'kzalloc resource', '-ENOMEM', ''],
      [4, 'kzalloc devm_region', '-ENOMEM', ''],
      [5, 'kzalloc devm_action', '-ENOMEM', ''],
    ],
  );
  deviceDel(cpu, dev);
});

test('what a failure leaves behind is named', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  warmUp(cpu, dev);
  let mutex = kzalloc(cpu, Mutex);
  kfree(cpu, Mutex, mutex);
  const failures = walkFailures(cpu, {
    attempt: () => {
      mutex = kzalloc(cpu, Mutex);
      if (mutex === 0) return -ENOMEM;
      return devmAddAction(cpu, dev, noteAction, mutex); // forgets the mutex
    },
    undo: () => {
      devresReleaseAll(cpu, dev);
      kfree(cpu, Mutex, mutex);
    },
  });
  assert.deepEqual(
    failures.map(({ site, left }) => [site, left]),
    [
      ['kzalloc mutex', ''],
      ['kzalloc devm_action', '1 mutex'],
    ],
  );
});

test('an operation that gets by without what failed is undone too', () => {
  const cpu = bootDeviceCpu();
  let mutex = kzalloc(cpu, Mutex);
  kfree(cpu, Mutex, mutex);
  const failures = walkFailures(cpu, {
    attempt: () => {
      mutex = kzalloc(cpu, Mutex);
      return 0;
    },
    undo: () => {
      kfree(cpu, Mutex, mutex);
    },
  });
  assert.deepEqual(failures, [{ nth: 1, site: 'kzalloc mutex', result: '0', left: '' }]);
});

test('an operation that fails by itself, or cannot be undone, cannot be walked', () => {
  const cpu = bootDeviceCpu();
  assert.throws(() => walkFailures(cpu, { attempt: () => -EBUSY }), /fails by itself: -EBUSY/);
  kfree(cpu, Mutex, kzalloc(cpu, Mutex));
  assert.throws(
    () => walkFailures(cpu, { attempt: () => (kzalloc(cpu, Mutex) === 0 ? -ENOMEM : 0) }),
    /undone, it leaves 1 mutex/,
  );
});
