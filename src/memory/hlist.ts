/**
 * Doubly linked lists with a single word as their head, which readers walk without a lock.
 *
 * Kernel     include/linux/rculist.h (hlist_add_head_rcu, hlist_del_init_rcu)
 * Protocol   Who changes a list holds its lock. Who walks it is in a read section of the domain by which
 *            what is taken off is freed: it may stand on a node that is taken off meanwhile, and goes on from
 *            there, because such a node keeps its `next`.
 *            `pprev` points at the word that points at the node: the head, or the `next` of the node before.
 * Invariant  I1  pprev is 0 exactly while the node is on no list.
 * Ordering   A node is complete when the head's release store shows it. The links and pprev are also looked at
 *            without the lock, and so are marked.
 *
 * @module
 */
import { read, readOnce, storeRelease, write, writeOnce } from '#memory';

import { member, NULL, pointer, type Ptr, struct } from './layout.js';
import type { MemoryPort } from './port.js';

/** A link: a list's head, or the `next` of a node. */
export const HlistHead = struct('hlist_head', { first: pointer<'hlist_node'>() });
export type HlistHead = Ptr<'hlist_head'>;

export const HlistNode = struct('hlist_node', {
  next: HlistHead, // stays when the node is taken off
  pprev: pointer<'hlist_head'>(), // the link that points here; 0 = on no list
});
export type HlistNode = Ptr<'hlist_node'>;

/** True if nobody is on the list. @kernel hlist_empty */
export function hlistEmpty(cpu: MemoryPort, head: HlistHead): boolean {
  return readOnce(cpu, head, HlistHead.first) === NULL;
}

/** True if exactly one is. The list's lock must be held, or the domain of its readers. @kernel hlist_is_singular_node */
export function hlistIsSingular(cpu: MemoryPort, head: HlistHead): boolean {
  const first = hlistFirst(cpu, head);
  return first !== NULL && hlistNext(cpu, first) === NULL;
}

/** True if the node is on no list (I1). @kernel hlist_unhashed_lockless */
export function hlistUnhashed(cpu: MemoryPort, node: HlistNode): boolean {
  return readOnce(cpu, node, HlistNode.pprev) === NULL;
}

/** The first node, or NULL. */
export function hlistFirst(cpu: MemoryPort, head: HlistHead): HlistNode {
  return readOnce(cpu, head, HlistHead.first); // pairs with hlistAddHeadRcu
}

/** The node after this one, or NULL. */
export function hlistNext(cpu: MemoryPort, node: HlistNode): HlistNode {
  return hlistFirst(cpu, member(node, HlistNode.next));
}

/** Puts the node first. The list's lock must be held. @kernel hlist_add_head_rcu */
export function hlistAddHeadRcu(cpu: MemoryPort, node: HlistNode, head: HlistHead): void {
  const first = read(cpu, head, HlistHead.first);
  const link = member(node, HlistNode.next);
  write(cpu, link, HlistHead.first, first);
  writeOnce(cpu, node, HlistNode.pprev, head);
  storeRelease(cpu, head, HlistHead.first, node); // pairs with hlistFirst
  if (first !== NULL) writeOnce(cpu, first, HlistNode.pprev, link);
}

/**
 * Takes the node off its list, for those who walk it later; false if it was on none. The list's lock must be held.
 * @kernel hlist_del_init_rcu
 */
export function hlistDelInitRcu(cpu: MemoryPort, node: HlistNode): boolean {
  const link = read(cpu, node, HlistNode.pprev);
  if (link === NULL) return false;
  const next = hlistNext(cpu, node);
  writeOnce(cpu, link, HlistHead.first, next);
  if (next !== NULL) writeOnce(cpu, next, HlistNode.pprev, link);
  writeOnce(cpu, node, HlistNode.pprev, NULL);
  return true;
}
