/**
 * LT-15: locks that are taken in a circle, though nobody meets on it.
 *
 * @module
 */
import { lt15 } from '../../explore/programs/lock-order.js';
import { defineLitmus } from '../litmus.js';

export const lockOrderTest = defineLitmus({
  id: 'LT-15',
  title: "a driver's lock is taken under i_mmap_rwsem, which reclaim takes",
  source:
    'a lockdep map for range_start: linux-mm, 20 August 2019 (spinics.net, linux-mm, msg188931)',
  variants: [
    {
      name: 'allocates-locked',
      title: 'the driver allocates under that lock: no run deadlocks, lockdep reports it',
      expected: 'unsafe',
      program: lt15,
      mutant: 'M-alloc-locked',
      build: 'checked',
    },
    {
      name: 'allocates-before',
      title: 'the driver allocates before it takes the lock',
      expected: 'safe',
      program: lt15,
      build: 'checked',
    },
  ],
});
