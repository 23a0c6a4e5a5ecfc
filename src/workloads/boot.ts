/**
 * Boots a machine for a workload with SVM devices: address spaces, the devices' counters, and the ops tables
 * of our driver and, if there is one, the user's.
 *
 * @module
 */
import { bootDeferred } from '../deferred/boot.js';
import { bootSvmStats } from '../drivers/svm/stats.js';
import { loadModules } from '../host/modules.js';
import { type BootedMachine, bootMachine, type MachineConfig } from '../machine/boot.js';
import { registerOps } from '../machine/ops-table.js';
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
  registerOps(boot, await loadModules(BUILT_INS, opsModules));
  return { machine, opsModules, framesBefore: framesAccountedFor(boot) };
}
