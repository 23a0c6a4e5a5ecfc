/**
 * LT-18: when a driver ends the device's use of a page.
 *
 * @module
 */
import { lt18 } from '../../explore/programs/sync-point.js';
import { defineLitmus } from '../litmus.js';

export const syncPointTest = defineLitmus({
  id: 'LT-18',
  title: 'a page is unmapped and freed while a device uses it',
  source: 'hmm_invalidate_range_start and _end of Linux 4.14 to 4.19, and their reversal',
  variants: [
    {
      name: 'sync-at-end',
      title: 'the driver unmaps in range_end, when the page is free already',
      expected: 'unsafe',
      program: lt18,
      mutant: 'M-16',
      window: {
        order: ['page is free', 'device comes'],
        chance: ['device is done', 'page is free'],
      },
    },
    {
      name: 'sync-at-start',
      title: 'the driver unmaps before range_start returns',
      expected: 'safe',
      program: lt18,
    },
  ],
});
