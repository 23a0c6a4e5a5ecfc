// @ts-check
/**
 * A driver with a bug: it tells faults in flight to start again, and forgets what is mapped already. The
 * device goes on using pages that the kernel has given to somebody else, which the benchmark counts:
 *
 *   faultline bench svm --driver examples/own-driver/forgetful-driver.mjs
 */
import { defineSvmDriver, mmuIntervalSetSeq } from 'faultline';

export const driver = defineSvmDriver({
  opsName: 'forgetful driver',
  invalidate(cpu, interval, _range, curSeq) {
    mmuIntervalSetSeq(cpu, interval, curSeq);
    return true;
  },
});
