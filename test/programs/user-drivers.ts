/**
 * Drivers as a user would write them, against the package: both are broken.
 *
 * @module
 */
import { defineOps, type SvmDriver, svmFault } from 'faultline';

/** Does not hear of invalidations. */
export const deaf: SvmDriver = defineOps<SvmDriver>({
  opsName: 'deaf',
  invalidate: () => true,
  fault: svmFault,
});

/** Does not survive the first one. */
export const dying: SvmDriver = defineOps<SvmDriver>({
  opsName: 'dying',
  invalidate: () => {
    throw new TypeError('no such register');
  },
  fault: svmFault,
});
