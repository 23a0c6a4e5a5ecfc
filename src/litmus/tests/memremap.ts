/**
 * LT-7 to LT-10: page maps that go while their pages are used, and one that never goes.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { MEMREMAP_PROGRAMS } from '../../explore/programs/memremap.js';
import { defineLitmus, type LitmusTest } from '../litmus.js';
import { named } from '../named.js';

const DISCUSSION = 'discussion of devm_memremap_pages, linux-mm, November and December 2018';

const program = named(MEMREMAP_PROGRAMS);

/** A page is used from before the struct pages go until after. */
const USED_PAGE_GOES: Window = {
  order: ['page is in use', 'unbind begins', 'struct pages are gone', 'page is in use'],
};
/** A page is used from before the page map is killed until somebody waits for it. */
const USERS_WAITED_FOR: Window = {
  order: ['page is in use', 'unbind begins', 'users are waited for', 'page is in use'],
};
const BOUND_TWICE: Window = { order: ['first binding is over', 'range is bound again'] };

export const MEMREMAP_TESTS: readonly LitmusTest[] = [
  defineLitmus({
    id: 'LT-7',
    title: 'a page of a device is used while its driver lets go of the device',
    source: DISCUSSION,
    variants: [
      {
        name: 'caller-waits',
        title: 'the driver kills the count, and waits for it when the struct pages are gone (4.18)',
        expected: 'unsafe',
        program: program('lt-7-caller-kills'),
        window: USED_PAGE_GOES,
      },
      {
        name: 'kill',
        title: 'the page map is killed, and waited for when its struct pages are gone (5.0)',
        expected: 'unsafe',
        program: program('lt-7-kill'),
        window: USED_PAGE_GOES,
      },
      {
        name: 'removal-first',
        title: 'the page map waits by itself, but after it has removed its struct pages',
        expected: 'unsafe',
        program: program('lt-7'),
        mutant: 'M-13',
        window: USERS_WAITED_FOR,
      },
      {
        name: 'cleanup',
        title: 'a cleanup callback waits before the struct pages go (5.2)',
        expected: 'safe',
        program: program('lt-7-cleanup'),
        window: USERS_WAITED_FOR,
      },
      {
        name: 'own-count',
        title: 'the page map has a count of its own, and waits for it (5.19)',
        expected: 'safe',
        program: program('lt-7'),
        window: USERS_WAITED_FOR,
        build: 'checked',
      },
    ],
  }),
  defineLitmus({
    id: 'LT-8',
    title: 'who kills a page map waits, and the references of its pages are put elsewhere',
    source: DISCUSSION,
    variants: [
      {
        name: 'kill-waits',
        title: 'kill waits for references that are put after it',
        expected: 'unsafe',
        program: program('lt-8'),
        window: USERS_WAITED_FOR,
      },
      {
        name: 'wait-first',
        title: 'the page map waits for its own count before it puts the references',
        expected: 'unsafe',
        program: program('lt-7'),
        mutant: 'M-12',
        window: USERS_WAITED_FOR,
      },
      {
        name: 'kill-last',
        title: 'kill waits, but comes after the references are put (not merged)',
        expected: 'safe',
        program: program('lt-8-kill-last'),
        window: USERS_WAITED_FOR,
      },
      {
        name: 'cleanup',
        title: 'kill first, then the references, and the wait last (5.2)',
        expected: 'safe',
        program: program('lt-7-cleanup'),
        window: USERS_WAITED_FOR,
      },
    ],
  }),
  defineLitmus({
    id: 'LT-9',
    title: 'a device with two page maps goes while a page is used',
    source: `p2pdma in the ${DISCUSSION}`,
    variants: [
      {
        name: 'one-count',
        title: 'both share a count: the first to go waits for the references of the second',
        expected: 'unsafe',
        program: program('lt-9'),
        mutant: 'M-14',
        window: USERS_WAITED_FOR,
      },
      {
        name: 'count-each',
        title: 'each has a count of its own',
        expected: 'safe',
        program: program('lt-9'),
        window: USERS_WAITED_FOR,
      },
    ],
  }),
  defineLitmus({
    id: 'LT-10',
    title: 'a device is bound again after a binding whose release could not be written down',
    source: DISCUSSION,
    variants: [
      {
        name: 'unchecked',
        title: 'nobody looks whether the release could be written down: it never runs',
        expected: 'unsafe',
        program: program('lt-10'),
        mutant: 'busted-devm-memremap',
        window: BOUND_TWICE,
      },
      {
        name: 'unchecked-radix',
        title: 'the same, when entries that were left could not be overwritten',
        expected: 'unsafe',
        program: program('lt-10-radix'),
        mutant: 'busted-devm-memremap',
        window: BOUND_TWICE,
      },
      {
        name: 'or-reset',
        title: 'devm_add_action_or_reset: the map is undone, and the binding fails',
        expected: 'safe',
        program: program('lt-10'),
        window: BOUND_TWICE,
      },
      {
        name: 'or-reset-radix',
        title: 'the same, when the driver killed the count',
        expected: 'safe',
        program: program('lt-10-radix'),
        window: BOUND_TWICE,
      },
    ],
  }),
];
