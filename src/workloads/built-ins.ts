/**
 * The modules with programs and ops tables that are part of faultline, by name.
 *
 * @module
 */
import * as svmDriver from '../drivers/svm/driver.js';
import * as outsideController from '../explore/outside-controller.js';
import * as replay from '../explore/replay.js';
import * as runJob from '../explore/run-job.js';
import type { BuiltIns } from '../host/modules.js';
import * as litmusMember from '../litmus/member.js';
import * as faultInvalidate from './fault-invalidate.js';
import * as straceCpu from './strace/replay-cpu.js';
import * as straceDevice from './strace/replay-device.js';
import * as svm from './svm.js';

/** Name of the module with the SVM device's own driver. */
export const SVM_DRIVER_MODULE = 'faultline:svm-driver';

export const BUILT_INS: BuiltIns = {
  [SVM_DRIVER_MODULE]: svmDriver,
  'faultline:explore': { ...runJob, ...replay, ...outsideController },
  'faultline:litmus': litmusMember,
  'faultline:fault-invalidate': faultInvalidate,
  'faultline:svm': svm,
  'faultline:strace-cpu': straceCpu,
  'faultline:strace-device': straceDevice,
};
