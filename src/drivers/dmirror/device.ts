/**
 * The test device: two of them, with private or coherent memory, that address spaces open.
 *
 * Kernel     lib/test_hmm.c
 * Protocol   open      a context of the address space that opens it, in a file: who inherits the file or is sent it uses
 *                      that address space, not its own
 *            close     the last reference to the file closes the context
 *            release   all of the device's memory goes, whatever is in it; there is new memory when a page is wanted
 * Invariant  I1  The device's memory goes only when no page of it is in use: what cannot be moved away yet is tried
 *                again.
 * Deviation  test_hmm grows by chunks of 256 MiB; here there is one chunk, of the size the device was made with. The
 *            pages of the device's memory have their contents themselves, where test_hmm has an ordinary page for each.
 *
 * @module
 */
import { read, write } from '#memory';

import { ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { allocPage, type Pfn } from '../../machine/page-alloc.js';
import { cpuRelax } from '../../machine/sched.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { member, NULL, type Va } from '../../memory/layout.js';
import type { MEMORY_DEVICE_COHERENT, MEMORY_DEVICE_PRIVATE } from '../../memremap/pagemap.js';
import { type FileOperations, openDeviceFile } from '../../mm/file.js';
import { vmInsertPage } from '../../mm/insert-page.js';
import { mmapWriteLock, mmapWriteUnlock } from '../../mm/mmap-lock.js';
import { putPage } from '../../mm/page.js';
import { File, type MmStruct } from '../../mm/types.js';
import { vmaEnd, vmaLookup } from '../../mm/vma.js';
import { downRead, downWrite, initRwsem, upRead, upWrite } from '../../sync/rwsem.js';
import { devmemAdd, devmemEvict, devmemInUse, devmemRemove } from '../devmem/devmem.js';
import type { Devmem } from '../devmem/types.js';
import { closeContext, createSvmDevice, destroySvmDevice, openContext } from '../svm/device.js';
import { memoryDriver } from '../svm/device-memory.js';
import { SvmContext, SvmDevice } from '../svm/types.js';
import { DmirrorDevice } from './types.js';

/** What a device is made of. */
export interface DmirrorConfig {
  /** 0 or 1. */
  readonly minor: number;
  readonly type: typeof MEMORY_DEVICE_PRIVATE | typeof MEMORY_DEVICE_COHERENT;
  /** Its place in the memory that the machine has set aside (MachineConfig.deviceBytes). Unit: pages, whole sections. */
  readonly offset: number;
  readonly pages: number;
}

/** Pages that a fault of an engine looks at. */
const WINDOW_PAGES = 16;
const MEMORY_SEM = lockClass('dmirror_device->memory_sem');

/** A device; NULL if memory is out. After bootDevices, bootMemremap and bootSvmStats. Sleeps. @kernel dmirror_device_init */
export function dmirrorAdd(cpu: Cpu, config: DmirrorConfig): DmirrorDevice {
  const device = kzalloc(cpu, DmirrorDevice);
  if (device === NULL) return NULL;
  const svm = createSvmDevice(cpu, config.minor, memoryDriver, WINDOW_PAGES);
  write(cpu, device, DmirrorDevice.svm, svm);
  initRwsem(cpu, member(device, DmirrorDevice.memorySem), MEMORY_SEM);
  write(cpu, device, DmirrorDevice.type, config.type);
  write(cpu, device, DmirrorDevice.owner, config.minor + 1);
  write(cpu, device, DmirrorDevice.offset, config.offset);
  write(cpu, device, DmirrorDevice.pages, config.pages);
  if (svm !== NULL) {
    write(cpu, svm, SvmDevice.data, device);
    if (allocateMemory(cpu, device) === 0) return device;
    destroySvmDevice(cpu, svm);
  }
  kfree(cpu, DmirrorDevice, device);
  return NULL;
}

/** Gives the device its memory, if it has none: 0, or -ENOMEM. memorySem must be held for writing, if it is known. */
function allocateMemory(cpu: Cpu, device: DmirrorDevice): number {
  if (read(cpu, device, DmirrorDevice.devmem) !== NULL) return 0;
  const devmem = devmemAdd(cpu, {
    type: read(cpu, device, DmirrorDevice.type) as DmirrorConfig['type'],
    owner: read(cpu, device, DmirrorDevice.owner),
    offset: read(cpu, device, DmirrorDevice.offset),
    pages: read(cpu, device, DmirrorDevice.pages),
  });
  setMemory(cpu, device, devmem);
  return devmem === NULL ? -ENOMEM : 0;
}

function setMemory(cpu: Cpu, device: DmirrorDevice, devmem: Devmem): void {
  write(cpu, device, DmirrorDevice.devmem, devmem);
  write(cpu, read(cpu, device, DmirrorDevice.svm), SvmDevice.devmem, devmem);
}

/** The device that a context is of. */
export function dmirrorOf(cpu: Cpu, context: SvmContext): DmirrorDevice {
  return read(cpu, read(cpu, context, SvmContext.device), SvmDevice.data) as DmirrorDevice;
}

/** From now on the device has memory, and keeps it until dmirrorPutMemory: 0, or -ENOMEM. Sleeps. */
export function dmirrorGetMemory(cpu: Cpu, device: DmirrorDevice): number {
  const sem = member(device, DmirrorDevice.memorySem);
  downRead(cpu, sem);
  while (read(cpu, device, DmirrorDevice.devmem) === NULL) {
    upRead(cpu, sem);
    downWrite(cpu, sem);
    const error = allocateMemory(cpu, device);
    upWrite(cpu, sem);
    if (error !== 0) return error;
    downRead(cpu, sem);
  }
  return 0;
}

export function dmirrorPutMemory(cpu: Cpu, device: DmirrorDevice): void {
  upRead(cpu, member(device, DmirrorDevice.memorySem));
}

/** Takes the device's memory away, whatever is in it (I1). No lock held. Sleeps. @kernel dmirror_device_remove_chunks */
export function dmirrorReleaseMemory(cpu: Cpu, device: DmirrorDevice): void {
  const sem = member(device, DmirrorDevice.memorySem);
  downWrite(cpu, sem);
  const devmem = read(cpu, device, DmirrorDevice.devmem);
  if (devmem !== NULL) {
    for (let tries = 0; devmemInUse(cpu, devmem) > 0; tries++) {
      devmemEvict(cpu, devmem);
      cpuRelax(cpu, tries);
    }
    setMemory(cpu, device, NULL);
    devmemRemove(cpu, devmem);
  }
  upWrite(cpu, sem);
}

/** Takes the device away; nobody has it open. No lock held. Sleeps. @kernel dmirror_device_remove */
export function dmirrorRemove(cpu: Cpu, device: DmirrorDevice): void {
  dmirrorReleaseMemory(cpu, device);
  destroySvmDevice(cpu, read(cpu, device, DmirrorDevice.svm));
  kfree(cpu, DmirrorDevice, device);
}

/** Pages of the device's memory in use. */
export function dmirrorInUse(cpu: Cpu, device: DmirrorDevice): number {
  const devmem = read(cpu, device, DmirrorDevice.devmem);
  return devmem === NULL ? 0 : devmemInUse(cpu, devmem);
}

// --- files ---

const dmirrorFile: FileOperations = defineKernelOps({
  opsName: 'dmirror',
  release(cpu: Cpu, file: File) {
    closeContext(cpu, dmirrorContext(cpu, file));
  },
});

/** Opens the device for the address space; NULL if memory is out. The caller holds mm_users. Sleeps. @kernel dmirror_fops_open */
export function dmirrorOpen(cpu: Cpu, device: DmirrorDevice, mm: MmStruct): File {
  const context = openContext(cpu, read(cpu, device, DmirrorDevice.svm), mm);
  if (context === NULL) return NULL;
  const file = openDeviceFile(cpu, dmirrorFile, context);
  if (file === NULL) closeContext(cpu, context);
  return file;
}

/** The address space that an open device is tied to. */
export function dmirrorContext(cpu: Cpu, file: File): SvmContext {
  return read(cpu, file, File.privateData) as SvmContext;
}

/**
 * What mmap of an open device does to the mapping at `va`: fills it with pages of the driver's. 0, or -errno. Sleeps.
 * @kernel dmirror_fops_mmap
 */
export function dmirrorMmap(cpu: Cpu, mm: MmStruct, va: Va): number {
  mmapWriteLock(cpu, mm);
  const vma = vmaLookup(cpu, mm, va);
  let error = 0;
  for (let at = va; error === 0 && at < vmaEnd(cpu, vma); at += PAGE_SIZE) {
    const pfn: Pfn = allocPage(cpu);
    if (pfn === 0) error = -ENOMEM;
    else error = vmInsertPage(cpu, vma, at, pfn);
    if (pfn !== 0) putPage(cpu, pfn);
  }
  mmapWriteUnlock(cpu, mm);
  return error;
}
