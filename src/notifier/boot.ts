/**
 * What the notifier layer has one of in a machine: the SRCU domain of all lists, and what happens when a notifier
 * refuses an invalidation that may not block.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../base/bug.js';
import { bootSrcu, initSrcuStruct } from '../deferred/srcu.js';
import type { SrcuStruct } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { allocPercpu } from '../machine/percpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import { member } from '../memory/layout.js';
import { Notifiers } from './types.js';

/** As Linux since 2021: every `end` of the list is called; what the intervals' pass has counted stays (LT-16). */
export const LIST_END_ALL = 0;
/** As Linux from 2018 to 2021: nothing is called, and who has agreed waits for an end for ever (LT-13). */
export const LIST_UNPAIRED = 1;
/** As proposed in August 2019: with more than one on the list nobody is asked, and the answer is no. */
export const LIST_REFUSE_SHARED = 2;
/** In no Linux: as LIST_END_ALL, and the intervals' pass is closed too. */
export const LIST_END_BOTH = 3;
export type ListForm =
  typeof LIST_END_ALL | typeof LIST_UNPAIRED | typeof LIST_REFUSE_SHARED | typeof LIST_END_BOTH;

const MMU_NOTIFIER_SRCU = lockClass('mmu_notifier srcu');

/** Makes the domain. Runs once, on the boot CPU; needs no frames. */
export function bootNotifiers(cpu: Cpu): void {
  const notifiers = (cpu.percpu + allocPercpu(cpu, Notifiers.words)) as Notifiers;
  bootSrcu(cpu);
  const error = initSrcuStruct(cpu, member(notifiers, Notifiers.srcu), MMU_NOTIFIER_SRCU);
  if (error !== 0) bug('there is no per-CPU memory for the notifiers');
  write(cpu, notifiers, Notifiers.form, LIST_END_ALL);
  write(cpu, MACHINE, Machine.notifiers, notifiers);
}

/** The domain of whoever walks a list of notifiers. @kernel srcu */
export function notifierSrcu(cpu: Cpu): SrcuStruct {
  return member(notifiersOf(cpu), Notifiers.srcu);
}

/** What is done when a notifier of a list refuses. */
export function listForm(cpu: Cpu): number {
  return read(cpu, notifiersOf(cpu), Notifiers.form);
}

/**
 * Chooses a form that Linux has or had, one that was proposed, or the mending of LT-16; before anything is
 * registered.
 */
export function setListForm(cpu: Cpu, form: ListForm): void {
  write(cpu, notifiersOf(cpu), Notifiers.form, form);
}

function notifiersOf(cpu: Cpu): Notifiers {
  const notifiers = read(cpu, MACHINE, Machine.notifiers) as Notifiers;
  if (notifiers === 0) bug('there are no notifiers on this machine: call bootMm first');
  return notifiers;
}
