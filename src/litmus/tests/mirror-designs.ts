/**
 * LT-11 and LT-12: who frees what a driver keeps for an address space.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { DESIGN_PROGRAMS } from '../../explore/programs/mirror-designs.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const DISCUSSION = 'discussion of a hook in mmput, linux-mm, July 2014';

const program = named(DESIGN_PROGRAMS);

/** The child has the file before its parent exits, and uses it after. */
const FILE_OUTLIVES: Window = {
  order: ['child has the file', 'parent exits', 'parent has exited', 'child uses the file'],
};

export const DESIGN_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-11',
    title: 'a process that has opened a device forks and exits; its child has the file',
    source: DISCUSSION,
    variants: [
      {
        name: 'file-release',
        title: 'the mirror ends when the file is released',
        expected: 'unsafe',
        program: program('lt-11-file'),
        window: { order: ['child has the file', 'parent exits', 'parent has exited'] },
      },
      {
        name: 'interval',
        title: 'an interval ends the use of the memory; the mirror stays until the file goes',
        expected: 'safe',
        program: program('lt-11-interval'),
        window: FILE_OUTLIVES,
      },
      {
        name: 'exit-chain',
        title: 'a chain of functions that mmput calls frees the mirror (2014, not merged)',
        expected: 'safe',
        program: program('lt-11-chain'),
        window: FILE_OUTLIVES,
      },
      {
        name: 'notifier-put',
        title: "the mirror is its mm's notifier, which release puts (2019)",
        expected: 'safe',
        program: program('lt-11'),
        window: FILE_OUTLIVES,
      },
    ],
  }),
  defineLitmus({
    id: 'LT-12',
    title: "a notifier's release wants to free the notifier, while exit walks the list",
    source: DISCUSSION,
    variants: [
      {
        name: 'job',
        title: 'a job that release has queued frees it',
        expected: 'unsafe',
        program: program('lt-12-job'),
        window: { order: ['job is queued', 'mirror is freed', 'job is queued'] },
        build: 'checked',
        onlyExplored: true,
      },
      {
        name: 'job-unregisters',
        title: 'the job unregisters it before, and so waits for the walk',
        expected: 'safe',
        program: program('lt-12'),
        window: { order: ['job is queued', 'job unregisters', 'job is queued'] },
      },
      {
        name: 'grace-period',
        title: 'there is no job: release puts it, and call_srcu frees it after the walk',
        expected: 'safe',
        program: program('lt-12-put'),
        window: { order: ['release has put', 'kworker comes', 'release has put'] },
      },
    ],
  }),
];
