/**
 * Drivers as a user would write them, against the package: all are broken.
 *
 * @module
 */
import {
  defineOps,
  kfree,
  kzalloc,
  layout,
  type SvmDriver,
  svmFault,
  svmInvalidate,
} from 'faultline';

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

const Note = layout.struct('driver_note', { value: layout.word });

/** Allocates in its callback, and so may wait for reclaim that waits for the callback. */
export const greedy: SvmDriver = defineOps<SvmDriver>({
  opsName: 'greedy',
  invalidate: (cpu, interval, range, curSeq) => {
    kfree(cpu, Note, kzalloc(cpu, Note));
    return svmInvalidate(cpu, interval, range, curSeq);
  },
  fault: svmFault,
});
