/**
 * LT-24: when a device that walks the CPU's page table drops a translation.
 *
 * @module
 */
import { lt24 } from '../../explore/programs/secondary-tlb.js';
import { defineLitmus } from '../litmus.js';

export const secondaryTlbTest = defineLitmus({
  id: 'LT-24',
  title: 'two pages are copied while a device loads the second, then the first through its TLB',
  source: 'ptep_clear_flush and the invalidation of secondary TLBs in wp_page_copy, mm/memory.c',
  variants: [
    {
      name: 'told-late',
      title: 'the device is told when the copy can be written to already',
      expected: 'unsafe',
      program: lt24,
      mutant: 'M-secondary-late',
      window: {
        order: [
          'device is told of A',
          'both are to be stored',
          'both are stored',
          'device comes',
          'device has loaded both',
          'device is told of A',
        ],
      },
    },
    {
      name: 'told-while-clear',
      title: 'the device is told while there is no entry',
      expected: 'safe',
      program: lt24,
      window: {
        order: [
          'device is told of A',
          'both are to be stored',
          'device is told of A',
          'both are stored',
          'device comes',
          'device has loaded both',
        ],
      },
    },
  ],
});
