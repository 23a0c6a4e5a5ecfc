/**
 * Boots a machine for a workload with SVM devices: address spaces, the devices' counters, and the ops tables
 * of our driver and, if there is one, the user's.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { errnoName } from '../base/errno.js';
import { bootDeferred } from '../deferred/boot.js';
import { bootDevices } from '../device/boot.js';
import { isModule, loadModule } from '../device/module.js';
import { bootSvmStats } from '../drivers/svm/stats.js';
import { loadModules, type ModuleExports } from '../host/modules.js';
import { type BootedMachine, bootMachine, type MachineConfig } from '../machine/boot.js';
import type { Cpu } from '../machine/cpu.js';
import { registerOps } from '../machine/ops-table.js';
import { kernelLog } from '../machine/printk.js';
import { bootMm } from '../mm/boot.js';
import { BUILT_INS, SVM_DRIVER_MODULE } from './built-ins.js';
import { framesAccountedFor } from './leak.js';

export interface WorkloadMachine {
  readonly machine: BootedMachine;
  /** What the crew's workers load, in this order. */
  readonly opsModules: readonly string[];
  /** For assertNoLeak at the end. */
  readonly framesBefore: number;
}

/**
 * Loads what the user's file exports as kernel modules (defineModule), before anything else runs.
 * @throws FaultlineError if one cannot be loaded, with what the kernel says of it
 */
function insertModules(cpu: Cpu, exported: ModuleExports): void {
  const modules = Object.values(exported).filter(isModule);
  if (modules.length > 0) bootDevices(cpu);
  for (const module of modules) {
    const error = loadModule(cpu, module);
    if (error === 0) continue;
    const reason = [`${module.opsName}: ${errnoName(error)}`, ...kernelLog(cpu)].join('; ');
    throw new FaultlineError('FAULTLINE_BAD_MODULE', `the module cannot be loaded: ${reason}`);
  }
}

/** `driverUrl` is where a driver of the user's is. @throws FaultlineError */
export async function bootWorkloadMachine(
  config: MachineConfig,
  driverUrl: string | undefined,
): Promise<WorkloadMachine> {
  const machine = bootMachine(config);
  const boot = machine.cpu;
  bootMm(boot);
  bootDeferred(boot);
  bootSvmStats(boot);
  const opsModules = [SVM_DRIVER_MODULE, ...(driverUrl === undefined ? [] : [driverUrl])];
  const exported = await loadModules(BUILT_INS, opsModules);
  registerOps(boot, exported);
  if (driverUrl !== undefined) insertModules(boot, exported.at(-1) ?? {});
  return { machine, opsModules, framesBefore: framesAccountedFor(boot) };
}
