/**
 * PCI functions: devices whose base address registers are ranges of physical addresses.
 *
 * Kernel     drivers/pci
 * Protocol   Whoever makes the function gives it its ranges, before it is on the bus; its driver requests the
 *            ones it uses.
 * Deviation  Memory ranges only; they are given from above the machine's memory upwards, with no bridges.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import { EBUSY, EINVAL, ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { element, member, NULL } from '../memory/layout.js';
import { deviceCore } from './core.js';
import { devmRequestMemRegion } from './devm-region.js';
import { freeRegion, SECTION_BYTES } from './region.js';
import {
  allocateResource,
  initResource,
  iomemResource,
  IORES_DESC_NONE,
  IORESOURCE_MEM,
  resourceSize,
} from './resource.js';
import { DeviceCore, PCI_BARS, PciDev, Resource } from './types.js';

/**
 * Gives a function memory behind a base address register: `size` bytes at a multiple of it, a power of two.
 * `flags` beyond IORESOURCE_MEM. 0, -EINVAL, -ENOMEM, or -EBUSY if no addresses are left.
 */
export function pciAddBar(cpu: Cpu, pdev: PciDev, bar: number, size: number, flags = 0): number {
  if (bar < 0 || bar >= PCI_BARS || pciResource(cpu, pdev, bar) !== NULL) return -EINVAL;
  if (size <= 0 || !Number.isInteger(Math.log2(size))) return -EINVAL;
  const resource = kzalloc(cpu, Resource);
  if (resource === NULL) return -ENOMEM;
  initResource(cpu, resource, 0, 0, IORESOURCE_MEM | flags, IORES_DESC_NONE);
  const ram = member(deviceCore(cpu), DeviceCore.systemRam);
  const first = readAddress(cpu, ram, Resource.end) + 1;
  const align = Math.max(size, SECTION_BYTES);
  const error = allocateResource(cpu, iomemResource(cpu), resource, size, first, align);
  if (error === 0) write(cpu, pdev, element(PciDev.bars, bar), resource);
  else kfree(cpu, Resource, resource);
  return error;
}

/** Takes its ranges from a function that nobody uses any more. */
export function pciFreeBars(cpu: Cpu, pdev: PciDev): void {
  for (let bar = 0; bar < PCI_BARS; bar++) {
    const resource = pciResource(cpu, pdev, bar);
    if (resource !== NULL) freeRegion(cpu, resource);
    write(cpu, pdev, element(PciDev.bars, bar), 0);
  }
}

/** The range of a base address register; NULL if it has none. @kernel pci_resource_n */
function pciResource(cpu: Cpu, pdev: PciDev, bar: number): Resource {
  return read(cpu, pdev, element(PciDev.bars, bar)) as Resource;
}

/** Unit: bytes; 0 if there is none. @kernel pci_resource_start */
export function pciResourceStart(cpu: Cpu, pdev: PciDev, bar: number): number {
  const resource = pciResource(cpu, pdev, bar);
  return resource === NULL ? 0 : readAddress(cpu, resource, Resource.start);
}

/** Unit: bytes; 0 if there is none. @kernel pci_resource_len */
export function pciResourceLen(cpu: Cpu, pdev: PciDev, bar: number): number {
  const resource = pciResource(cpu, pdev, bar);
  return resource === NULL ? 0 : resourceSize(cpu, resource);
}

/**
 * Its driver uses that range from now on, until it lets go of the device: 0, -EINVAL, -EBUSY.
 * @kernel pcim_request_region
 */
export function pcimRequestRegion(cpu: Cpu, pdev: PciDev, bar: number): number {
  const start = pciResourceStart(cpu, pdev, bar);
  const length = pciResourceLen(cpu, pdev, bar);
  if (length === 0) return -EINVAL;
  const region = devmRequestMemRegion(cpu, member(pdev, PciDev.dev), start, length);
  return region === NULL ? -EBUSY : 0;
}
