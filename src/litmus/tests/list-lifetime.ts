/**
 * LT-23 and LT-25: notifiers that go while their address space does.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { LIFETIME_PROGRAMS } from '../../explore/programs/list-lifetime.js';
import { DESIGN_PROGRAMS } from '../../explore/programs/mirror-designs.js';
import { SRCU_PROGRAMS } from '../../explore/programs/srcu.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const program = named([...LIFETIME_PROGRAMS, ...DESIGN_PROGRAMS, ...SRCU_PROGRAMS]);

/** Both have put it while exit calls its release. */
const PUT_INSIDE_WALK: Window = {
  order: ['A has put', 'release is called', 'B puts', 'B has put', 'release is called'],
};

export const LIFETIME_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-23',
    title: 'two devices let go of what they share for an address space, which ends',
    source: 'mmu_notifier_get and mmu_notifier_put (2019); struct hmm until then',
    variants: [
      {
        name: 'clears-mm',
        title: 'the first mirror to go clears the mm: the last does not unregister (4.18)',
        expected: 'unsafe',
        program: program('notifier-exit'),
        mutant: 'M-1',
        window: { order: ['release is called', 'object is freed', 'release is called'] },
      },
      {
        name: 'put-frees',
        title: 'the last put frees at once',
        expected: 'unsafe',
        program: program('lt-23'),
        mutant: 'M-put-at-once',
        window: PUT_INSIDE_WALK,
        onlyExplored: true,
      },
      {
        name: 'last-unregisters',
        title: 'the last mirror to go unregisters, which waits for who walks the list',
        expected: 'safe',
        program: program('notifier-exit'),
        window: { order: ['release is called', 'last mirror unregisters', 'release is called'] },
      },
      {
        name: 'put',
        title: 'the last put frees after a grace period',
        expected: 'safe',
        program: program('lt-23'),
        window: PUT_INSIDE_WALK,
      },
    ],
  }),
  defineLitmus({
    id: 'LT-25',
    title: 'a notifier that is released wants to unregister',
    source: 'mmu_notifier_unregister and its use of SRCU in mm/mmu_notifier.c of Linux 6.12',
    variants: [
      {
        name: 'reader-synchronizes',
        title: 'the bare mistake: a reader waits for a grace period of its own domain',
        expected: 'unsafe',
        program: program('lt-25'),
        window: { order: ['reader is inside', 'reader synchronizes'] },
      },
      {
        name: 'unregisters',
        title: 'release unregisters, and waits for the walk that has called it',
        expected: 'unsafe',
        program: program('lt-25-notifier'),
        window: { order: ['release is called', 'it unregisters'] },
      },
      {
        name: 'job-unregisters',
        title: 'release queues a job that unregisters',
        expected: 'safe',
        program: program('lt-12'),
        window: { order: ['job is queued', 'job unregisters', 'job is queued'] },
      },
      {
        name: 'puts',
        title: 'release puts, which does not wait',
        expected: 'safe',
        program: program('lt-12-put'),
        window: { order: ['release has put', 'kworker comes', 'release has put'] },
      },
    ],
  }),
];
