/**
 * The modules with programs and ops tables that are part of faultline, by name.
 *
 * Those that no benchmark runs are loaded when a worker asks for them: they are as large as the kernel layers,
 * and a worker's first tenth of a second is spent on loading.
 *
 * @module
 */
import * as svmDriver from '../drivers/svm/driver.js';
import type { BuiltIns } from '../host/modules.js';
import * as faultInvalidate from './fault-invalidate.js';
import * as straceCpu from './strace/replay-cpu.js';
import * as straceDevice from './strace/replay-device.js';
import * as svm from './svm.js';

/** Name of the module with the SVM device's own driver. */
export const SVM_DRIVER_MODULE = 'faultline:svm-driver';

export const BUILT_INS: BuiltIns = {
  [SVM_DRIVER_MODULE]: () => svmDriver,
  'faultline:explore': () => import('../explore/members.js'),
  'faultline:litmus': () => import('../litmus/member.js'),
  'faultline:fault-invalidate': () => faultInvalidate,
  'faultline:svm': () => svm,
  'faultline:strace-cpu': () => straceCpu,
  'faultline:strace-device': () => straceDevice,
};
