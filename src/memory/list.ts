/**
 * Circular doubly linked lists in shared memory.
 *
 * Kernel     include/linux/list.h
 * Protocol   A head is a node that belongs to no entry; an empty list is a head that points at itself.
 *            Entries embed a node and are found again with `containerOf`.
 * Ordering   None: the lock of the list's owner must be held. A look at whether a list is empty may do
 *            without (waitqueueActive): so what may be a head's `next` is stored by writeOnce, as in Linux.
 *
 * @module
 */
import { read, write, writeOnce } from '#memory';

import { pointer, type Ptr, struct } from './layout.js';
import type { MemoryPort } from './port.js';

export const ListHead = struct('list_head', {
  next: pointer<'list_head'>(),
  prev: pointer<'list_head'>(),
});
export type ListHead = Ptr<'list_head'>;

/** Makes `head` an empty list, or a node that is on no list. @kernel INIT_LIST_HEAD */
export function initListHead(cpu: MemoryPort, head: ListHead): void {
  writeOnce(cpu, head, ListHead.next, head);
  write(cpu, head, ListHead.prev, head);
}

/** True if the list is empty, or if the node is on no list. @kernel list_empty */
export function listEmpty(cpu: MemoryPort, head: ListHead): boolean {
  return read(cpu, head, ListHead.next) === head;
}

/** True if exactly one entry is on the list. @kernel list_is_singular */
export function listIsSingular(cpu: MemoryPort, head: ListHead): boolean {
  const next = read(cpu, head, ListHead.next);
  return next !== head && next === read(cpu, head, ListHead.prev);
}

/** The node after this one; after the last, the head. */
export function listNext(cpu: MemoryPort, node: ListHead): ListHead {
  return read(cpu, node, ListHead.next);
}

/** The node before this one; before the first, the head. */
export function listPrev(cpu: MemoryPort, node: ListHead): ListHead {
  return read(cpu, node, ListHead.prev);
}

/** Puts `node` first. @kernel list_add */
export function listAdd(cpu: MemoryPort, node: ListHead, head: ListHead): void {
  link(cpu, node, head, read(cpu, head, ListHead.next));
}

/** Puts `node` last. @kernel list_add_tail */
export function listAddTail(cpu: MemoryPort, node: ListHead, head: ListHead): void {
  link(cpu, node, read(cpu, head, ListHead.prev), head);
}

/** Takes `node` off its list and leaves it on none, so that a second call does no harm. @kernel list_del_init */
export function listDelInit(cpu: MemoryPort, node: ListHead): void {
  const next = read(cpu, node, ListHead.next);
  const prev = read(cpu, node, ListHead.prev);
  writeOnce(cpu, prev, ListHead.next, next);
  write(cpu, next, ListHead.prev, prev);
  initListHead(cpu, node);
}

/** Moves what is on the list `from` to the empty list `to`, and leaves it empty. @kernel list_splice_init */
export function listSpliceInit(cpu: MemoryPort, from: ListHead, to: ListHead): void {
  if (listEmpty(cpu, from)) return;
  const first = read(cpu, from, ListHead.next);
  const last = read(cpu, from, ListHead.prev);
  write(cpu, first, ListHead.prev, to);
  write(cpu, to, ListHead.next, first);
  write(cpu, last, ListHead.next, to);
  write(cpu, to, ListHead.prev, last);
  initListHead(cpu, from);
}

function link(cpu: MemoryPort, node: ListHead, prev: ListHead, next: ListHead): void {
  write(cpu, node, ListHead.prev, prev);
  write(cpu, node, ListHead.next, next);
  writeOnce(cpu, prev, ListHead.next, node);
  write(cpu, next, ListHead.prev, node);
}
