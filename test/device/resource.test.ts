import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read, readAddress } from '#memory';

import { EBUSY, EINVAL, ENOMEM, ERANGE } from '../../src/base/errno.js';
import { deviceInitialize } from '../../src/device/device.js';
import {
  devmReleaseMemRegion,
  devmRequestFreeMemRegion,
  devmRequestMemRegion,
} from '../../src/device/devm-region.js';
import { devresReleaseAll } from '../../src/device/devres.js';
import {
  pciAddBar,
  pciFreeBars,
  pcimRequestRegion,
  pciResourceLen,
  pciResourceStart,
} from '../../src/device/pci.js';
import {
  freeRegion,
  releaseMemRegion,
  requestFreeMemRegion,
  requestMemRegion,
  SECTION_BYTES,
} from '../../src/device/region.js';
import {
  initResource,
  insertResource,
  iomemResource,
  IORES_DESC_DEVICE_PRIVATE_MEMORY,
  IORES_DESC_NONE,
  IORES_DESC_PERSISTENT_MEMORY,
  IORESOURCE_BUSY,
  IORESOURCE_MEM,
  IORESOURCE_SYSTEM_RAM,
  REGION_DISJOINT,
  REGION_INTERSECTS,
  REGION_MIXED,
  regionIntersects,
  releaseResource,
  requestResource,
} from '../../src/device/resource.js';
import { PciDev, Resource } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { failNth } from '../../src/machine/fail.js';
import { PHYSICAL_END } from '../../src/machine/limits.js';
import { allocatedObjects, kzalloc } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { member } from '../../src/memory/layout.js';
import { bootDeviceCpu, deviceType, newDeviceWorld } from '../support/devices.js';

const MIB = 1 << 20;
const GIB = 1 << 30;

function range(cpu: Cpu, start: number, end: number, flags = IORESOURCE_MEM, desc = 0): Resource {
  const resource = kzalloc(cpu, Resource);
  initResource(cpu, resource, start, end, flags, desc);
  return resource;
}

const bounds = (cpu: Cpu, resource: Resource): [number, number] => [
  readAddress(cpu, resource, Resource.start),
  readAddress(cpu, resource, Resource.end),
];

/** The tree below a range: bounds in MiB, children in brackets. */
function tree(cpu: Cpu, parent: Resource): unknown[] {
  const children: unknown[] = [];
  let child = read(cpu, parent, Resource.child);
  for (; child !== 0; child = read(cpu, child, Resource.sibling)) {
    assert.equal(read(cpu, child, Resource.parent), parent);
    const [start, end] = bounds(cpu, child);
    const below = tree(cpu, child);
    const name = `${start / MIB}-${(end + 1) / MIB}`;
    children.push(below.length === 0 ? name : [name, ...below]);
  }
  return children;
}

const mib = (cpu: Cpu, from: number, to: number, flags?: number, desc?: number): Resource =>
  range(cpu, from * MIB, to * MIB - 1, flags, desc);

test('ranges are kept in order, and in the deepest range that has them inside', () => {
  const cpu = bootDeviceCpu();
  const iomem = iomemResource(cpu);
  for (const [from, to] of [
    [20, 30],
    [10, 20],
    [12, 14],
    [40, 50],
    [12, 13],
  ] as const) {
    assert.equal(insertResource(cpu, iomem, mib(cpu, from, to)), 0);
  }
  const ram = '0-0.25';
  assert.deepEqual(tree(cpu, iomem), [ram, ['10-20', ['12-14', '12-13']], '20-30', '40-50']);
  assert.equal(insertResource(cpu, iomem, mib(cpu, 15, 25)), -EBUSY, 'across an edge');
  assert.equal(insertResource(cpu, iomem, mib(cpu, 9, 11)), -EBUSY);
  assert.equal(insertResource(cpu, iomem, mib(cpu, 10, 45)), -EBUSY);
  assert.equal(insertResource(cpu, iomem, mib(cpu, 10, 30)), 0, 'over two of them');
  assert.deepEqual(tree(cpu, iomem), [
    ram,
    ['10-30', ['10-20', ['12-14', '12-13']], '20-30'],
    '40-50',
  ]);
  assert.equal(insertResource(cpu, iomem, mib(cpu, 40, 50)), 0, 'the same again, around it');
  assert.deepEqual(tree(cpu, iomem).at(-1), ['40-50', '40-50']);
  assert.equal(insertResource(cpu, iomem, range(cpu, 0, PHYSICAL_END)), -EBUSY, 'too large');
});

test('a range is requested right below another one, or not at all; and it can be given back', () => {
  const cpu = bootDeviceCpu();
  const parent = mib(cpu, 10, 20);
  insertResource(cpu, iomemResource(cpu), parent);
  const first = mib(cpu, 12, 14);
  assert.equal(requestResource(cpu, parent, first), 0);
  assert.equal(requestResource(cpu, parent, mib(cpu, 13, 15)), -EBUSY);
  assert.equal(requestResource(cpu, parent, mib(cpu, 19, 21)), -EBUSY, 'not inside');
  assert.equal(requestResource(cpu, parent, mib(cpu, 14, 15)), 0, 'beside it');
  assert.equal(releaseResource(cpu, first), 0);
  assert.equal(releaseResource(cpu, first), -EINVAL, 'only once');
  assert.equal(requestResource(cpu, parent, mib(cpu, 10, 14)), 0);
});

test('busy ranges exclude each other, and look into ranges that are not busy', () => {
  const cpu = bootDeviceCpu();
  insertResource(
    cpu,
    iomemResource(cpu),
    mib(cpu, 10, 20, IORESOURCE_MEM, IORES_DESC_PERSISTENT_MEMORY),
  );
  const region = requestMemRegion(cpu, 12 * MIB, 2 * MIB);
  assert.notEqual(region, 0);
  assert.equal(read(cpu, region, Resource.flags), IORESOURCE_MEM | IORESOURCE_BUSY);
  assert.equal(read(cpu, region, Resource.desc), IORES_DESC_PERSISTENT_MEMORY);
  for (const [from, size] of [
    [11, 2],
    [12, 1],
    [12, 2],
    [13, 3],
    [19, 2],
    [9, 2],
  ] as const) {
    assert.equal(requestMemRegion(cpu, from * MIB, size * MIB), 0, `${from}+${size}`);
  }
  assert.equal(requestMemRegion(cpu, 0, 4096), 0, "the machine's memory is busy");
  releaseMemRegion(cpu, 12 * MIB, 2 * MIB);
  assert.notEqual(requestMemRegion(cpu, 12 * MIB, MIB), 0);
  assert.deepEqual(warningTexts(cpu), []);
  releaseMemRegion(cpu, 12 * MIB, 2 * MIB);
  releaseMemRegion(cpu, 30 * MIB, MIB);
  assert.match(warningTexts(cpu)[0] ?? '', /nonexistent resource <00c00000-00dfffff>/);
  assert.equal(warningTexts(cpu).length, 2);
});

test('what intersects: nothing, the kind alone, or others too', () => {
  const cpu = bootDeviceCpu({}, MIB);
  const ram = (start: number, size: number): number =>
    regionIntersects(cpu, start * MIB, size * MIB, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE);
  insertResource(cpu, iomemResource(cpu), mib(cpu, 1, 2));
  assert.equal(ram(2, 1), REGION_DISJOINT, 'nothing at all');
  assert.equal(ram(1, 1), REGION_DISJOINT, 'something else');
  assert.equal(ram(0, 1), REGION_INTERSECTS);
  assert.equal(ram(0.5, 0.25), REGION_INTERSECTS, 'inside it');
  assert.equal(ram(0.5, 1), REGION_MIXED);
  const pmem = mib(cpu, 4, 8, IORESOURCE_MEM, IORES_DESC_PERSISTENT_MEMORY);
  insertResource(cpu, iomemResource(cpu), pmem);
  const kind = (start: number, size: number, desc: number): number =>
    regionIntersects(cpu, start * MIB, size * MIB, IORESOURCE_MEM, desc);
  assert.equal(kind(3, 2, IORES_DESC_PERSISTENT_MEMORY), REGION_INTERSECTS, 'a hole is nothing');
  assert.equal(kind(1, 4, IORES_DESC_PERSISTENT_MEMORY), REGION_MIXED);
  assert.equal(kind(4, 1, IORES_DESC_DEVICE_PRIVATE_MEMORY), REGION_DISJOINT);
});

test('what lies inside a range of another kind counts as far as it covers that', () => {
  const cpu = bootDeviceCpu({}, MIB);
  const outer = mib(cpu, 8, 16);
  insertResource(cpu, iomemResource(cpu), outer);
  insertResource(cpu, iomemResource(cpu), mib(cpu, 8, 12, IORESOURCE_SYSTEM_RAM));
  const ram = (start: number, size: number): number =>
    regionIntersects(cpu, start * MIB, size * MIB, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE);
  assert.equal(ram(9, 2), REGION_INTERSECTS);
  assert.equal(ram(9, 4), REGION_MIXED);
  assert.equal(ram(13, 2), REGION_DISJOINT);
});

test('memory for a device alone comes from the top, in steps of its size', () => {
  const cpu = bootDeviceCpu();
  const first = requestFreeMemRegion(cpu, GIB);
  assert.deepEqual(bounds(cpu, first), [3 * GIB, 4 * GIB - 1]);
  assert.equal(read(cpu, first, Resource.desc), IORES_DESC_DEVICE_PRIVATE_MEMORY);
  insertResource(cpu, iomemResource(cpu), range(cpu, 2.5 * GIB, 2.5 * GIB + 4095));
  const second = requestFreeMemRegion(cpu, GIB);
  assert.deepEqual(bounds(cpu, second), [GIB, 2 * GIB - 1], 'not around what is there');
  assert.equal(requestFreeMemRegion(cpu, GIB), -ERANGE, 'the lowest step has the memory in it');
  const small = requestFreeMemRegion(cpu, 1);
  assert.deepEqual(bounds(cpu, small), [3 * GIB - SECTION_BYTES, 3 * GIB - 1]);
  freeRegion(cpu, first);
  assert.deepEqual(bounds(cpu, requestFreeMemRegion(cpu, GIB)), [3 * GIB, 4 * GIB - 1]);
  assert.equal(requestFreeMemRegion(cpu, 2 ** 33), -ERANGE);
  failNth(cpu, 1);
  assert.equal(requestFreeMemRegion(cpu, MIB), -ENOMEM);
});

test('regions go with the device, or before, and are not lost when that cannot be written down', () => {
  const cpu = bootDeviceCpu();
  const { dev } = newDeviceWorld(cpu);
  const region = devmRequestMemRegion(cpu, dev, 10 * MIB, MIB);
  assert.notEqual(region, 0);
  assert.equal(devmRequestMemRegion(cpu, dev, 10 * MIB, MIB), 0);
  assert.ok(devmRequestFreeMemRegion(cpu, dev, MIB) > 0);
  devmReleaseMemRegion(cpu, dev, region);
  assert.notEqual(devmRequestMemRegion(cpu, dev, 10 * MIB, MIB), 0);
  const before = allocatedObjects(cpu, Resource);
  failNth(cpu, 2);
  assert.equal(devmRequestMemRegion(cpu, dev, 20 * MIB, MIB), 0);
  failNth(cpu, 2);
  assert.equal(devmRequestFreeMemRegion(cpu, dev, MIB), -ENOMEM);
  assert.equal(allocatedObjects(cpu, Resource), before);
  assert.equal(devresReleaseAll(cpu, dev), 2);
  assert.equal(allocatedObjects(cpu, Resource), 0);
  assert.deepEqual(tree(cpu, iomemResource(cpu)), ['0-0.25']);
  devmReleaseMemRegion(cpu, dev, region);
  assert.match(warningTexts(cpu).join(), /has no region/);
});

test('base address registers are ranges above memory, aligned to their size', () => {
  const cpu = bootDeviceCpu();
  const pdev = kzalloc(cpu, PciDev);
  assert.equal(pciAddBar(cpu, pdev, 0, 2 * MIB), 0);
  assert.equal(pciAddBar(cpu, pdev, 2, 4096), 0);
  assert.equal(pciAddBar(cpu, pdev, 4, MIB), 0);
  const at = (bar: number): number => pciResourceStart(cpu, pdev, bar);
  assert.deepEqual([0, 2, 4, 1].map(at), [2 * MIB, 0.25 * MIB, MIB, 0]);
  assert.equal(pciResourceLen(cpu, pdev, 2), 4096);
  assert.equal(pciAddBar(cpu, pdev, 0, MIB), -EINVAL, 'it has one');
  assert.equal(pciAddBar(cpu, pdev, 6, MIB), -EINVAL);
  assert.equal(pciAddBar(cpu, pdev, 1, 3 * MIB), -EINVAL, 'no power of two');
  assert.equal(pciAddBar(cpu, pdev, 1, 2 ** 32), -EBUSY);
  failNth(cpu, 1);
  assert.equal(pciAddBar(cpu, pdev, 1, MIB), -ENOMEM);
  pciFreeBars(cpu, pdev);
  assert.deepEqual(tree(cpu, iomemResource(cpu)), ['0-0.25']);
});

test('a BAR is for one driver at a time', () => {
  const cpu = bootDeviceCpu();
  const pdev = kzalloc(cpu, PciDev);
  const dev = member(pdev, PciDev.dev);
  deviceInitialize(cpu, dev, deviceType, 3);
  pciAddBar(cpu, pdev, 0, MIB);
  assert.equal(pcimRequestRegion(cpu, pdev, 0), 0);
  assert.equal(pcimRequestRegion(cpu, pdev, 0), -EBUSY);
  assert.equal(pcimRequestRegion(cpu, pdev, 3), -EINVAL, 'there is nothing to request');
  devresReleaseAll(cpu, dev);
  assert.equal(pcimRequestRegion(cpu, pdev, 0), 0);
});
