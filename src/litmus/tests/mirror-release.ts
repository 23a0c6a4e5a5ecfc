/**
 * LT-1 and LT-2: the end of an address space while a device's fault worker is at work.
 *
 * @module
 */
import { RELEASE_PROGRAMS } from '../../explore/programs/mirror-release.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const program = named(RELEASE_PROGRAMS);

export const RELEASE_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-1',
    title: 'exit releases a mirror, whose driver waits for a worker that invalidates',
    source:
      'the discussion of hmm_mirror_ops.release, March 2018: its second version against its third',
    variants: [
      {
        name: 'locked',
        title: 'release is called with mirrors_sem held for writing',
        expected: 'unsafe',
        program: program('lt-1-locked'),
      },
      {
        name: 'pop-loop',
        title: 'mirrors are taken off one by one, and released without the lock',
        expected: 'safe',
        program: program('lt-1'),
      },
    ],
  }),
  defineLitmus({
    id: 'LT-2',
    title: 'exit frees a page that a worker is about to map into its device',
    source:
      'the discussion of hmm_mirror_ops.release, March 2018: may release return before faults are over?',
    variants: [
      {
        name: 'kill',
        title: 'release says that the mirror is dead, and does not wait',
        expected: 'unsafe',
        program: program('lt-2-kill'),
      },
      {
        name: 'look-again',
        title: 'the worker looks again under the lock',
        expected: 'safe',
        program: program('lt-2'),
      },
      {
        name: 'drain',
        title: 'release waits for the worker',
        expected: 'safe',
        program: program('lt-2-drain'),
      },
    ],
  }),
];
