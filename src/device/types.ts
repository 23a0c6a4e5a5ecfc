/**
 * Layouts of the device layer.
 *
 * @module
 */
import { Spinlock } from '../machine/types.js';
import { address, cacheline, pointer, type Ptr, struct, word, words } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { Mutex } from '../sync/mutex.js';
import { Refcount } from '../sync/refcount.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** A range of physical addresses and who it belongs to. @kernel struct resource */
export const Resource = struct('resource', {
  start: address, // unit: bytes
  end: address, // inclusive, as in Linux
  flags: word, // IORESOURCE_*
  desc: word, // IORES_DESC_*
  parent: pointer<'resource'>(), // these three under DeviceCore.resourceLock
  sibling: pointer<'resource'>(), // next child of the parent, by address
  child: pointer<'resource'>(), // first child
});
export type Resource = Ptr<'resource'>;

/** What this layer keeps for a machine; device/boot.ts makes it. */
export const DeviceCore = struct('device_core', {
  resourceLock: Spinlock, // the tree of resources
  iomem: Resource, // its root
  systemRam: Resource,
  moduleLock: Mutex, // modules, and their states
  moduleWait: WaitQueue, // for a module to become live, or to fail
  modules: ListHead, // loaded, and those that are being loaded
  era: word, // index into ERAS: which symbols are for whom; written once
  taint: word, // TAINT_*; atomic
});
export type DeviceCore = Ptr<'device_core'>;

/** The devices and drivers that may fit each other. @kernel struct bus_type, struct subsys_private */
export const Bus = struct('bus', {
  ops: word, // ops table: BusOps
  lock: Spinlock, // the lists below
  devices: ListHead, // in the order they came
  drivers: ListHead, // in the order they came
  serial: word, // of the device or driver that came last; under lock
  idle: WaitQueue, // for a driver that nobody tries on a device any more
});
export type Bus = Ptr<'bus'>;

/** Code that knows a kind of device. @kernel struct device_driver */
export const DeviceDriver = struct('device_driver', {
  ops: word, // ops table: DriverOps
  lockClass: word, // what those wait for who wait until nobody tries it. Written once
  bus: pointer<'bus'>(),
  onBus: ListHead, // under Bus.lock
  serial: word, // place on the bus; under Bus.lock
  tries: word, // who is trying it on a device of the bus; under Bus.lock
  lock: Spinlock, // devices
  devices: ListHead, // bound to it, in the order they were
});
export type DeviceDriver = Ptr<'device_driver'>;

/** A device, embedded in the struct of whoever made it. @kernel struct device */
export const Device = struct('device', {
  refs: Refcount,
  type: word, // ops table: DeviceType
  id: word, // for messages: `pmem.3`
  lock: Mutex, // device_lock: held over probe, remove and the unwinding of what they left
  bus: pointer<'bus'>(), // NULL: on none
  driver: pointer<'device_driver'>(), // that it is bound to; under lock
  driverData: word, // the driver's own; under lock
  dead: word, // it is being taken away: no driver may bind it any more; under lock
  onBus: ListHead, // under Bus.lock
  serial: word, // place on the bus; under Bus.lock
  onDriver: ListHead, // under DeviceDriver.lock
  devresLock: Spinlock,
  devres: ListHead, // what goes when the driver lets go of the device, oldest first; under devresLock
});
export type Device = Ptr<'device'>;

/** Base address registers of a PCI function. */
export const PCI_BARS = 6;

/** What goes when a device is let go of: the head of each kind of it. @kernel struct devres */
export const Devres = struct('devres', {
  link: ListHead, // in Device.devres; under devresLock
  type: word, // DEVRES_*
});
export type Devres = Ptr<'devres'>;

/** A call that will be made. @kernel struct action_devres */
export const DevmAction = struct('devm_action', {
  node: Devres,
  ops: word, // ops table: DevmActionOps
  data: word, // what it is called with
});
export type DevmAction = Ptr<'devm_action'>;

/** A range of physical addresses that the driver has requested. @kernel struct region_devres */
export const DevmRegion = struct('devm_region', {
  node: Devres,
  resource: pointer<'resource'>(),
});
export type DevmRegion = Ptr<'devm_region'>;

/** What comes before a struct that goes with the device. */
export const DevmMemory = struct('devm_memory', {
  node: Devres,
  line1: cacheline, // the struct begins here
});
export type DevmMemory = Ptr<'devm_memory'>;

/** A PCI function: a device with ranges of physical addresses. @kernel struct pci_dev */
export const PciDev = struct('pci_dev', {
  dev: Device,
  bars: words(PCI_BARS), // a resource, or 0
  p2pdma: word, // its memory for other devices, 0 = none; read under RCU, written with the device's lock held
  mapLock: Mutex, // user mappings of that memory; made with the first such memory
  mapOpen: word, // there may be more of these; under mapLock
  mappings: ListHead, // under mapLock
});
export type PciDev = Ptr<'pci_dev'>;

/** A module that is loaded, or about to be. @kernel struct module */
export const KernelModule = struct('module', {
  ops: word, // ops table: ModuleOps
  lockClass: word, // its name, for who waits for it. Written once
  state: word, // MODULE_STATE_*; under DeviceCore.moduleLock
  refs: word, // MODULE_REF_BASE + users; 0: it is going; atomic
  data: word, // the module's own; for its variables, which all workers share
  link: ListHead, // under DeviceCore.moduleLock
});
export type KernelModule = Ptr<'module'>;
