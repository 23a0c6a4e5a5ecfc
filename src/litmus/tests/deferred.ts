/**
 * LT-17: intervals that come and go while the tree is frozen.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { DEFERRED_PROGRAMS } from '../../explore/programs/deferred.js';
import { defineLitmus } from '../litmus.js';
import { named } from '../named.js';

const program = named(DEFERRED_PROGRAMS);

/** Somebody registers while an invalidation is under way, and another begins inside it. */
const SECOND_INSIDE: Window = {
  order: ['outer has started', 'register begins', 'outer has started'],
};
/** Everything is put off, and the removal sleeps, before the last end. */
const ALL_DEFERRED: Window = {
  order: [
    'outer has started',
    'register begins',
    'insert comes',
    'removal comes',
    'about to wait for the end',
    'last end comes',
  ],
};
const ALL_DEFERRED_OVERLAP: Window = {
  order: [
    'first has started',
    'second has started',
    'insert comes',
    'removal comes',
    'about to wait for the end',
    'first ends',
    'second ends',
  ],
};
/** Who removes looks whether it may go when the last end has just moved the sequence on. */
const LOOK_INSIDE_END: Window = {
  order: [
    'first has started',
    'removal comes',
    'about to wait for the end',
    'first ends',
    'sequence has moved on',
    'about to wait for the end',
  ],
  chance: ['interval is freed', 'sequence has moved on'],
};

export const deferredTest = defineLitmus({
  id: 'LT-17',
  title: 'intervals are inserted and removed while an invalidation has frozen the tree',
  source: 'the deferred list of mm/mmu_notifier.c, since Linux 5.5',
  variants: [
    {
      name: 'counts-on',
      title: 'each invalidation counts the sequence on: the second makes it even',
      expected: 'unsafe',
      program: program('lt-17'),
      mutant: 'M-5',
      window: SECOND_INSIDE,
    },
    {
      name: 'every-end',
      title: 'every end thaws the tree, not only the last',
      expected: 'unsafe',
      program: program('lt-17'),
      mutant: 'M-6',
      window: SECOND_INSIDE,
    },
    {
      name: 'never',
      title: 'what was put off is never done',
      expected: 'unsafe',
      program: program('lt-17'),
      mutant: 'M-7',
      window: ALL_DEFERRED,
    },
    {
      name: 'early',
      title: 'what was put off is done before the sequence moves on',
      expected: 'unsafe',
      program: program('lt-17-overlap'),
      mutant: 'M-7-early',
      window: {
        order: ['first has started', 'insert comes', 'deferred work is done early'],
      },
    },
    {
      name: 'look-unlocked',
      title: 'who removes looks without the lock, and frees what the last end still uses',
      expected: 'unsafe',
      program: program('remove-free'),
      mutant: 'M-remove-unlocked',
      window: LOOK_INSIDE_END,
      onlyExplored: true,
    },
    {
      name: 'last-end',
      title: 'the last end does it all, under the lock; one invalidation inside another',
      expected: 'safe',
      program: program('lt-17'),
      window: ALL_DEFERRED,
      build: 'checked',
    },
    {
      name: 'last-end-overlap',
      title: 'the same with two invalidations that overlap',
      expected: 'safe',
      program: program('lt-17-overlap'),
      window: ALL_DEFERRED_OVERLAP,
      build: 'checked',
    },
    {
      name: 'look-locked',
      title: 'who removes looks under the lock, and frees',
      expected: 'safe',
      program: program('remove-free'),
      window: LOOK_INSIDE_END,
      build: 'checked',
    },
  ],
});
