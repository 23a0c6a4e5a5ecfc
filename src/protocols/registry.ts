/**
 * The protocols by which a driver can mirror an address space, in the order of their coming.
 *
 * @module
 */
import { interval } from './interval.js';
import { listTree } from './list-tree.js';
import { mirrorsSem } from './mirrors-sem.js';
import { popLoop } from './pop-loop.js';
import type { MirrorProtocol } from './protocol.js';
import { syncAtEnd } from './sync-at-end.js';
import { twoPass } from './two-pass.js';
import { validFlag, validFlagUncounted } from './valid-flag.js';

/** A protocol, and what people are told of it. */
export interface ProtocolEntry {
  /** As the command line calls it. */
  readonly name: string;
  readonly protocol: MirrorProtocol;
  /** When it was Linux's, and what it does, in a line. */
  readonly title: string;
  /** What is wrong with it, in a line; undefined if it is safe. */
  readonly flaw?: string;
}

export const PROTOCOLS: readonly ProtocolEntry[] = [
  {
    name: 'list-tree',
    protocol: listTree,
    title: "a notifier of the whole mm, and the driver's own tree, count and lock",
  },
  {
    name: 'sync-at-end',
    protocol: syncAtEnd,
    title: 'hmm_mirror of Linux 4.14 to 4.19: the driver is told at the end',
    flaw: 'uses pages that are free (LT-18)',
  },
  {
    name: 'mirrors-sem',
    protocol: mirrorsSem,
    title: 'hmm_mirror as proposed in 2018: release under mirrors_sem',
    flaw: 'exit may deadlock (LT-1), a fault does not wait for an end (LT-5)',
  },
  {
    name: 'pop-loop',
    protocol: popLoop,
    title: 'hmm_mirror of Linux 4.20 to 5.1: told at the start, released one by one',
    flaw: 'a fault does not wait for an end (LT-5)',
  },
  {
    name: 'valid-flag-5.2',
    protocol: validFlagUncounted,
    title: 'hmm_range of Linux 5.2: a flag, and a wait for invalidations under way',
    flaw: 'misses an invalidation inside a fault (LT-6), a refusal stays counted (M-2)',
  },
  {
    name: 'valid-flag',
    protocol: validFlag,
    title: 'hmm_range of Linux 5.3 and 5.4: the same, and a refusal is counted back',
    flaw: 'misses an invalidation inside a fault (LT-6)',
  },
  { name: 'interval', protocol: interval, title: 'interval notifiers, since Linux 5.5' },
  {
    name: 'two-pass',
    protocol: twoPass,
    title: 'interval notifiers that wait for devices together (2026)',
  },
];
