// @ts-check
/**
 * A driver of one's own for the simulated device: the same as `svmDriver`, but for `invalidate`, which is
 * spelled out here. Change it, and see what comes of it:
 *
 *   faultline bench svm --driver examples/own-driver/driver.mjs
 *   faultline bench --driver examples/own-driver/driver.mjs --fault-threads 1 --overlap 1
 *
 * The module must export `driver`. It is loaded by every worker, so what it keeps in variables is each
 * worker's own; what workers share lives in the machine's memory.
 */
import {
  defineSvmDriver,
  deviceClearRange,
  deviceFence,
  layout,
  mmuIntervalSetSeq,
  mmuNotifierRangeBlockable,
  mutexLock,
  mutexTrylock,
  mutexUnlock,
  SvmContext,
  svmCountInvalidation,
} from 'faultline';

export const driver = defineSvmDriver({
  opsName: 'own driver',
  invalidate(cpu, interval, range, curSeq) {
    const context = layout.containerOf(interval, SvmContext.interval);
    const lock = layout.member(context, SvmContext.lock);
    // Some callers may not sleep; they try again another way if a driver would have to.
    if (mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, lock);
    else if (!mutexTrylock(cpu, lock)) return false;
    // A fault that has looked at the old pages, and not mapped them yet, will see this and start again.
    mmuIntervalSetSeq(cpu, interval, curSeq);
    // What is mapped goes now …
    deviceClearRange(cpu, context, range);
    // … and an engine that has read an entry before finishes its access before this returns.
    deviceFence(cpu, context);
    svmCountInvalidation(cpu, range);
    mutexUnlock(cpu, lock);
    return true;
  },
});
