/**
 * LT-13, LT-14 and LT-16: the OOM reaper invalidates, and a driver would have to wait.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { REFUSAL_PROGRAMS } from '../../explore/programs/list-refusal.js';
import { OOM_PROGRAMS } from '../../explore/programs/oom.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const UNPAIRED =
  'linux-mm, August 2019 <20190807191627.GA3008@ziepe.ca>, <20190808081827.GB18351@dhcp22.suse.cz>';

const program = named([...REFUSAL_PROGRAMS, ...OOM_PROGRAMS]);

/** The driver's mutex is held from before it is asked until the reaper has its answer. */
const REFUSED: Window = {
  order: ['mutex is held', 'driver is asked', 'reaper is answered', 'mutex is held'],
};
/** … and then a fault begins. */
const REFUSED_THEN_FAULT: Window = { order: [...REFUSED.order, 'fault begins'] };
const ASKED_UNDER_MUTEX: Window = { order: ['mutex is held', 'driver is asked'] };
const ANSWERED_UNDER_MUTEX: Window = {
  order: ['mutex is held', 'driver is asked', 'reaper is answered'],
};

export const REFUSAL_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-13',
    title: 'one notifier agrees to an invalidation that may not block, and another refuses',
    source: UNPAIRED,
    variants: [
      {
        name: 'unpaired',
        title: 'who has agreed waits for an end that nobody calls (until 2021)',
        expected: 'unsafe',
        program: program('lt-13-unpaired'),
        window: REFUSED,
      },
      {
        name: 'interval-uncounted',
        title: 'the refusal of an interval is not counted back, as that of a mirror was not in 5.2',
        expected: 'unsafe',
        program: program('lt-14-interval'),
        mutant: 'M-2',
        window: ANSWERED_UNDER_MUTEX,
      },
      {
        name: 'refuse-shared',
        title: 'a list of two is not asked if nobody may block (2019, not merged)',
        expected: 'safe',
        program: program('lt-13-refused'),
        window: { order: ['mutex is held', 'reaper is answered', 'mutex is held'] },
      },
      {
        name: 'interval',
        title: 'the driver has an interval: the core counts, and counts back (5.5)',
        expected: 'safe',
        program: program('lt-14-interval'),
        window: ANSWERED_UNDER_MUTEX,
      },
      {
        name: 'end-all',
        title: 'the core calls the ends of all (2021)',
        expected: 'safe',
        program: program('lt-13'),
        window: REFUSED,
      },
    ],
  }),
  defineLitmus({
    id: 'LT-14',
    title: "who has a driver's mutex waits for memory, and the OOM reaper comes to the driver",
    source: 'non_block_start and the OOM reaper: linux-mm, August 2019',
    variants: [
      {
        name: 'blocks',
        title: 'the notifier waits for the mutex; a list is watched over, and it is reported',
        expected: 'unsafe',
        program: program('lt-14'),
        mutant: 'M-17',
        window: ASKED_UNDER_MUTEX,
      },
      {
        name: 'interval-blocks',
        title: 'the interval waits for the mutex, and nobody has any memory, for ever',
        expected: 'unsafe',
        program: program('lt-14-interval'),
        mutant: 'M-17',
        window: ASKED_UNDER_MUTEX,
      },
      {
        name: 'refuses',
        title: 'the notifier tries, and refuses; the reaper goes on without that memory',
        expected: 'safe',
        program: program('lt-14'),
        window: ANSWERED_UNDER_MUTEX,
      },
      {
        name: 'interval-refuses',
        title: 'the same with an interval',
        expected: 'safe',
        program: program('lt-14-interval'),
        window: ANSWERED_UNDER_MUTEX,
      },
      {
        name: 'device-faults',
        title: 'a victim that has exited is reaped while a device faults in its memory',
        expected: 'safe',
        program: program('oom-device'),
        window: {
          order: [
            'device has the space',
            'exit comes',
            'exit has put',
            'reaper comes',
            'reaper is done',
            'device has the space',
          ],
        },
      },
    ],
  }),
  defineLitmus({
    id: 'LT-16',
    title: 'a list refuses after the intervals have been counted, and then a fault collides',
    source:
      '__mmu_notifier_invalidate_range_start in mm/mmu_notifier.c of Linux 6.12; not reported',
    variants: [
      {
        name: 'linux',
        title: 'as in Linux: nobody counts the invalidation back, and the fault waits for its end',
        expected: 'unsafe',
        program: program('lt-16'),
        window: REFUSED_THEN_FAULT,
      },
      {
        name: 'counted-back',
        title: 'the core ends the invalidation of the intervals, too',
        expected: 'safe',
        program: program('lt-16-mended'),
        window: REFUSED_THEN_FAULT,
      },
    ],
  }),
];
