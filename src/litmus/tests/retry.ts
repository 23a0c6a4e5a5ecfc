/**
 * LT-3 to LT-6: a device fault and an invalidation of its page.
 *
 * @module
 */
import { RETRY_PROGRAMS } from '../../explore/programs/retry.js';
import { validFlag } from '../../explore/programs/valid-flag.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const INTERVAL_NOTIFIERS =
  'review of the interval notifiers, linux-mm, October 2019 <20191015181242.8343-1-jgg@ziepe.ca>';

const program = named(RETRY_PROGRAMS);

export const RETRY_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-3',
    title: 'an invalidation calls back between what a fault reads and what it maps',
    source: INTERVAL_NOTIFIERS,
    variants: [
      {
        name: 'no-retry',
        title: 'the fault maps what it has read, and does not ask',
        expected: 'unsafe',
        program: program('lt-3-no-retry'),
      },
      {
        name: 'retry-unlocked',
        title: "the fault asks for the retry before it takes the driver's lock",
        expected: 'unsafe',
        program: program('lt-3'),
        mutant: 'M-9',
        window: {
          order: ['fault has asked', 'callback begins', 'callback is done', 'fault locks'],
        },
      },
      {
        name: 'sequence-unlocked',
        title: "the callback sets the sequence after it gave the driver's lock back",
        expected: 'unsafe',
        program: program('lt-3'),
        mutant: 'M-8',
        window: {
          order: [
            'fault has read',
            'callback begins',
            'callback is done',
            'fault locks',
            'fault is done',
            'callback is done',
          ],
        },
      },
      {
        name: 'retry',
        title: 'both hold the lock: the fault is told, and starts over',
        expected: 'safe',
        program: program('lt-3'),
      },
    ],
  }),
  defineLitmus({
    id: 'LT-4',
    title: 'an invalidation calls back while a fault maps the page',
    source: INTERVAL_NOTIFIERS,
    variants: [
      {
        name: 'no-lock',
        title: 'the callback does not take the lock under which faults map',
        expected: 'unsafe',
        program: program('lt-4-no-lock'),
      },
      {
        name: 'driver-lock',
        title: 'the callback waits for the lock, then clears what was mapped',
        expected: 'safe',
        program: program('lt-4'),
      },
    ],
  }),
  defineLitmus({
    id: 'LT-5',
    title: 'a fault begins between the callback and the end of an invalidation',
    source: INTERVAL_NOTIFIERS,
    variants: [
      {
        name: 'no-wait',
        title:
          'the fault does not wait: it has the sequence of the invalidation, and never notices',
        expected: 'unsafe',
        program: program('lt-5'),
        mutant: 'M-4',
      },
      {
        name: 'wait',
        title: 'mmu_interval_read_begin sleeps until the end',
        expected: 'safe',
        program: program('lt-5'),
      },
    ],
  }),
  defineLitmus({
    id: 'LT-6',
    title: 'a whole invalidation passes inside a fault',
    source: `hmm_range.valid until Linux 5.4, and its replacement: ${INTERVAL_NOTIFIERS}`,
    variants: [
      {
        name: 'valid-flag',
        title: 'a flag, which is up again when the fault looks',
        expected: 'unsafe',
        program: validFlag,
      },
      {
        name: 'sequence',
        title: 'a sequence, which has moved on',
        expected: 'safe',
        program: program('lt-6'),
      },
    ],
  }),
];
