/**
 * Layouts of the notifier layer.
 *
 * @module
 */
import { RcuHead, SrcuStruct } from '../deferred/types.js';
import { Spinlock, Waited } from '../machine/types.js';
import { HlistHead, HlistNode } from '../memory/hlist.js';
import { address, cacheline, pointer, type Ptr, struct, word } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { WaitQueue } from '../sync/wait-queue.js';
import { IntervalTreeNode, IntervalTreeRoot } from './interval-tree.js';

/** What is being invalidated, and why. @kernel struct mmu_notifier_range */
export const MmuNotifierRange = struct('mmu_notifier_range', {
  start: address, // of the first page; unit: bytes
  last: address, // end - 1: with start, the key of a search in the interval tree
  end: address, // exclusive
  mm: pointer<'mm_struct'>(),
  event: word, // MMU_NOTIFY_*
  flags: word, // MMU_NOTIFIER_RANGE_*
  owner: word, // MIGRATE, EXCLUSIVE: who does it, so that the owner's own intervals can tell
  seq: word, // the odd sequence number of this invalidation; set by range start
});
export type MmuNotifierRange = Ptr<'mmu_notifier_range'>;

/** MmuNotifierSubscriptions.kinds: intervals may be inserted; stays. */
export const HAS_ITREE = 1;
/** … somebody is on the list. */
export const HAS_LIST = 2;

/** All notifiers of one mm. @kernel struct mmu_notifier_subscriptions */
export const MmuNotifierSubscriptions = struct('mmu_notifier_subscriptions', {
  lock: Spinlock, // all of the below
  invalidateSeq: word, // odd: the tree is frozen (fully excluded); also read without the lock
  activeInvalidateRanges: word, // range starts without their end yet
  itree: IntervalTreeRoot,
  deferred: ListHead, // intervals to insert or remove when the sequence becomes even
  kinds: word, // HAS_*: who there is; also read without the lock
  list: HlistHead, // MmuNotifiers; walked in a read section of Notifiers.srcu
  invalidation: Waited, // what those have begun who are counted in activeInvalidateRanges
  line1: cacheline,
  wait: WaitQueue, // for the sequence to move on
});
export type MmuNotifierSubscriptions = Ptr<'mmu_notifier_subscriptions'>;

/** One driver's interest in everything that happens to an mm. @kernel struct mmu_notifier */
export const MmuNotifier = struct('mmu_notifier', {
  hlist: HlistNode, // in the subscriptions' list; under their lock
  ops: word, // MmuNotifierOps. Written once
  mm: pointer<'mm_struct'>(), // written once
  users: word, // mmuNotifierGet without a put; under the subscriptions' lock
  rcu: RcuHead, // from the last put until it is freed
});
export type MmuNotifier = Ptr<'mmu_notifier'>;

/** What a machine has for the lists of all its mms. */
export const Notifiers = struct('notifiers', {
  srcu: SrcuStruct, // whoever walks a list. @kernel srcu
  line1: cacheline,
  form: word, // LIST_*: what is done when a notifier refuses. Written before anything is registered
});
export type Notifiers = Ptr<'notifiers'>;

/** One driver's interest in a range of addresses. @kernel struct mmu_interval_notifier */
export const MmuIntervalNotifier = struct('mmu_interval_notifier', {
  node: IntervalTreeNode,
  mm: pointer<'mm_struct'>(),
  subscriptions: pointer<'mmu_notifier_subscriptions'>(), // the mm's; it stays as long as the mm does
  ops: word, // MmuIntervalNotifierOps
  deferredItem: ListHead,
  inTree: word, // under the subscriptions' lock
  privateData: word, // the driver's own: its device, its mirror
  line1: cacheline,
  invalidateSeq: word, // of the last invalidation that hit it; always odd (INV-17)
});
export type MmuIntervalNotifier = Ptr<'mmu_interval_notifier'>;

/** What an interval's callback has begun and not waited for. */
export const MmuIntervalNotifierFinish = struct('mmu_interval_notifier_finish', {
  next: pointer<'mmu_interval_notifier_finish'>(), // of the same invalidation; the core's
  interval: pointer<'mmu_interval_notifier'>(), // whose it is; the driver's
});
export type MmuIntervalNotifierFinish = Ptr<'mmu_interval_notifier_finish'>;
