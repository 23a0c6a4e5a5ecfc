// @ts-check
/**
 * A driver that is a kernel module: it says under which license it is, and which symbols of the kernel it uses.
 *
 *   faultline bench svm --driver examples/own-driver/module-driver.mjs
 *
 * Change the license to 'Proprietary', and it is refused: what `svmDriver` uses of the interval notifiers is
 * for GPL modules only; hmm_range_fault is for all.
 */
import { defineModule, defineSvmDriver } from 'faultline';

export const driver = defineSvmDriver({ opsName: 'module driver' });

export const module = defineModule({
  name: 'module_driver',
  license: 'GPL',
  needs: ['mmu_interval_read_begin', 'mmu_interval_notifier_insert', 'hmm_range_fault'],
  init: () => 0,
  exit: () => undefined,
});
