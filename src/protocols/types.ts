/**
 * Layouts of the protocols by which drivers mirror an address space.
 *
 * @module
 */
import { Spinlock, Waited } from '../machine/types.js';
import { address, cacheline, pointer, type Ptr, struct, word } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { IntervalTreeNode, IntervalTreeRoot } from '../notifier/interval-tree.js';
import { MmuIntervalNotifier, MmuIntervalNotifierFinish, MmuNotifier } from '../notifier/types.js';
import { Refcount } from '../sync/refcount.js';
import { Rwsem } from '../sync/rwsem.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** What a protocol with a list notifier keeps of an address space. @kernel struct hmm */
export const MirrorSpace = struct('mirror_space', {
  notifier: MmuNotifier,
  refs: Refcount, // mirrors that are not freed
  mm: pointer<'mm_struct'>(), // which the mirrors' drivers hold; written once
  registered: word, // mirrors that are registered; under mmapLock, for writing
  line1: cacheline,
  mirrorsSem: Rwsem, // mirrors, tree
  mirrors: ListHead, // in the order of their registration
  tree: IntervalTreeRoot, // the same by their addresses, in list-tree
  line2: cacheline,
  lock: Spinlock, // all of the below
  ranges: ListHead, // MirrorRanges of faults under way
  inProgress: word, // invalidations that have started. @kernel notifiers
  seq: word, // invalidations that have ended
  dead: word, // the address space ends
  invalidation: Waited, // what those have begun who are counted in inProgress
  line3: cacheline,
  wait: WaitQueue, // for a range to be valid, for inProgress to be 0
});
export type MirrorSpace = Ptr<'mirror_space'>;

/** One device's view of an address space. @kernel struct hmm_mirror */
export const Mirror = struct('hmm_mirror', {
  interval: MmuIntervalNotifier, // in a tree since 5.5; before, all it tells hmm_range_fault is the mm
  line1: cacheline,
  node: IntervalTreeNode, // in MirrorSpace.tree
  protocol: word, // MirrorProtocol; written once, as all of these
  ops: word, // MirrorOps
  driverData: word, // the driver's own: its context
  space: pointer<'mirror_space'>(), // NULL if the protocol needs none
  link: ListHead, // on MirrorSpace.mirrors; empty once it is unregistered or released
  finish: MmuIntervalNotifierFinish, // of two-pass
  finishing: word, // … is in use; taken under the driver's lock by cmpxchg, given back without it
});
export type Mirror = Ptr<'hmm_mirror'>;

/** A fault under way, as the protocol sees it. @kernel struct hmm_range */
export const MirrorRange = struct('mirror_range', {
  start: address, // unit: bytes
  end: address, // exclusive
  mirror: pointer<'hmm_mirror'>(),
  link: ListHead, // on MirrorSpace.ranges
  valid: word, // no invalidation has come across; under MirrorSpace.lock
  seq: word, // from `begin`: of the mirror's interval; 0 while that is in no tree
  count: word, // from `begin`: MirrorSpace.seq, in list-tree
  dead: word, // from `begin`: MirrorSpace.dead, in list-tree
});
export type MirrorRange = Ptr<'mirror_range'>;
