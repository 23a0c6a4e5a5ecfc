/**
 * Why an answer does not follow from the log, and whether that speaks against it.
 *
 * Outside        A call failed where the log shows nothing in its way. What no log shows can have refused
 *                it: a limit, a file's mode, a descriptor that is closed, a privilege that is missing.
 * Contradiction  The log decides the answer, and it is another one: a call succeeded that had to fail, a
 *                fixed mapping lies elsewhere, or a call failed with an error that only mapped pages or
 *                holes can cause.
 *
 * @module
 */
import { EEXIST, EFAULT, ENOMEM, errnoName } from '../../base/errno.js';
import { MAP_ANONYMOUS, PROT_WRITE } from '../../mm/uapi.js';
import type { Action, Unexplained } from './operations.js';
import { answerOf } from './outcome.js';
import type { InFlight } from './state.js';

/** Why the answer of a call is not the one that follows from the log. */
export function explain(flight: InFlight): Unexplained {
  const isOutside = canBeFromOutside(flight);
  return { reason: isOutside ? whyOutside(flight) : whyContradiction(flight), isOutside };
}

function canBeFromOutside({ action, outcome, mm }: InFlight): boolean {
  if (action.kind === 'brk') return action.address > mm.space.brk && outcome === mm.space.brk;
  return !(outcome >= 0) && !isDecidedByPages(action, outcome);
}

/** True for an error that has no other cause than what is mapped. */
function isDecidedByPages(action: Action, error: number): boolean {
  switch (action.kind) {
    case 'mmap':
      return error === -EEXIST;
    case 'mremap':
      return error === -EFAULT;
    case 'msync':
    case 'mincore':
      return error === -ENOMEM;
    case 'mprotect': // memory that becomes writable counts against limits
      return error === -ENOMEM && (action.protection & PROT_WRITE) === 0;
    default:
      return false;
  }
}

function whyOutside(flight: InFlight): string {
  const { call, action } = flight;
  if (action.kind === 'brk') return whyBreak(flight);
  const isFile = action.kind === 'mmap' && (action.flags & MAP_ANONYMOUS) === 0;
  const reason = isFile
    ? 'and what the file allows is not in the log'
    : 'for a reason that is not in the log';
  return `fails with ${errorName(call.error)}, ${reason}`;
}

function whyContradiction(flight: InFlight): string {
  const { call, action, outcome, mm } = flight;
  if (action.kind === 'brk') return whyBreak(flight);
  const answer = answerOf(mm.space, action, outcome);
  if (action.kind === 'mmap' && outcome >= 0 && answer >= 0) {
    return `answers ${hex(outcome)}, but had to map ${hex(answer)}, which was a fixed place`;
  }
  const logged = outcome >= 0 ? 'succeeds' : `fails with ${errorName(call.error)}`;
  const due = answer >= 0 ? 'succeed' : `fail with ${errnoName(answer).slice(1)}`;
  return `${logged}, but by the log it had to ${due}`;
}

function whyBreak({ action, outcome, mm }: InFlight): string {
  const answer = answerOf(mm.space, action, outcome);
  return `answers ${hex(outcome)}, but by the log the break is ${hex(answer)}`;
}

/** Some errors strace prints without a name. */
function errorName(error: string): string {
  return error === '' ? 'an unknown error' : error;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
