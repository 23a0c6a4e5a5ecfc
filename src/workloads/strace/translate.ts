/**
 * What each call of the log means to a replay, read without regard to any other call.
 *
 * @module
 */
import { errnoValue } from '../../base/errno.js';
import { MAP_ANONYMOUS, MAP_FIXED } from '../../mm/uapi.js';
import { CallArguments } from './call-arguments.js';
import {
  CLONE_FLAGS,
  CLONE_THREAD,
  CLONE_VFORK,
  CLONE_VM,
  EMULATED_ADVICE,
  MADV_ADVICE,
  MAP_FLAGS,
  MCL_FLAGS,
  MEMORY_CALLS,
  MLOCK_FLAGS,
  MREMAP_FLAGS,
  MS_FLAGS,
  PROT_FLAGS,
} from './constants.js';
import type { Action } from './operations.js';
import type { StraceCall, StraceLog } from './parse.js';

/** A call on the caller's address space. */
export interface AddressSpaceCall {
  readonly means: 'operation';
  /** As logged; `file` of an mmap is still to be found, from `descriptor`. */
  readonly action: Action;
  /** The value it returned, or a negative error number (NaN if that error is not known here). */
  readonly outcome: number;
  /** The mapped file's, or -1. */
  readonly descriptor: number;
  /** The descriptor may stand for another file than before. */
  readonly opensFile: boolean;
}

/** A call that made a thread or a process. */
export interface Birth {
  readonly means: 'birth';
  readonly childTid: number;
  readonly sharesMemory: boolean;
  readonly sharesProcess: boolean;
  /** The caller slept until the child did an exec or ended. */
  readonly waitsForExec: boolean;
}

export type Meaning =
  | AddressSpaceCall
  | Birth
  | { readonly means: 'exec' } // one that succeeded
  | { readonly means: 'nothing' } // no operation of its own
  | { readonly means: 'skipped'; readonly reason: string }
  | { readonly means: 'notEmulated'; readonly what: string } // on memory, with an effect that a replay has not
  | { readonly means: 'unknown' }; // no call on memory

type Reader = (args: CallArguments, outcome: number) => Action;

const READERS: ReadonlyMap<string, Reader> = new Map(
  Object.entries<Reader>({
    mmap: readMmap,
    munmap: (args) => {
      args.expectCount(2);
      return { kind: 'munmap', address: args.number(0), length: args.number(1) };
    },
    mprotect: (args) => readMprotect(args, 3),
    pkey_mprotect: (args) => readMprotect(args, 4), // keys only restrict further what protections allow
    mremap: readMremap,
    madvise: (args) => {
      args.expectCount(3);
      const advice = args.flags(2, MADV_ADVICE);
      return { kind: 'madvise', address: args.number(0), length: args.number(1), advice };
    },
    brk: (args) => {
      args.expectCount(1);
      return { kind: 'brk', address: args.number(0) };
    },
    mlock: (args) => {
      args.expectCount(2);
      return { kind: 'mlock', address: args.number(0), length: args.number(1) };
    },
    mlock2: (args) => {
      args.expectCount(3);
      const flags = args.flags(2, MLOCK_FLAGS);
      return { kind: 'mlock2', address: args.number(0), length: args.number(1), flags };
    },
    munlock: (args) => {
      args.expectCount(2);
      return { kind: 'munlock', address: args.number(0), length: args.number(1) };
    },
    mlockall: (args) => {
      args.expectCount(1);
      return { kind: 'mlockall', flags: args.flags(0, MCL_FLAGS) };
    },
    munlockall: (args) => {
      args.expectCount(0);
      return { kind: 'munlockall' };
    },
    msync: (args) => {
      args.expectCount(3);
      const flags = args.flags(2, MS_FLAGS);
      return { kind: 'msync', address: args.number(0), length: args.number(1), flags };
    },
    mincore: (args) => {
      args.expectCount(3);
      return { kind: 'mincore', address: args.number(0), length: args.number(1) };
    },
  }),
);

const BIRTHS: ReadonlySet<string> = new Set(['clone', 'clone3', 'fork', 'vfork']);
const EXECS: ReadonlySet<string> = new Set(['execve', 'execveat']);
const EXITS: ReadonlySet<string> = new Set(['exit', 'exit_group']);

const NOTHING: Meaning = { means: 'nothing' };
const UNKNOWN: Meaning = { means: 'unknown' };

/** The meaning of each call, in the order of `log.calls`. @throws FaultlineError */
export function translateCalls(log: StraceLog): Meaning[] {
  return log.calls.map((call) => translate(call, log.file));
}

function translate(call: StraceCall, file: string): Meaning {
  const { name } = call;
  const reader = READERS.get(name);
  if (reader === undefined && !BIRTHS.has(name)) {
    if (EXECS.has(name)) return call.result === 0 ? { means: 'exec' } : NOTHING;
    if (EXITS.has(name)) return NOTHING;
    return MEMORY_CALLS.has(name) ? { means: 'notEmulated', what: name } : UNKNOWN;
  }
  if (call.result === undefined) return { means: 'skipped', reason: whyNoResult(call) };
  const outcome = outcomeOf(call.result, call.error);
  const args = new CallArguments(call, file);
  if (reader === undefined) return translateBirth(call, args, outcome);
  const action = reader(args, outcome);
  if (action.kind === 'madvise' && !EMULATED_ADVICE.has(action.advice)) {
    return { means: 'notEmulated', what: `${name}(${args.text(2)})` };
  }
  return translateOperation(call, args, outcome, action);
}

function whyNoResult(call: StraceCall): string {
  if (call.endLine === 0) return 'was never resumed: the thread died in it, or the log ends';
  return call.error === '' ? 'has no result' : `was interrupted (${call.error})`;
}

function outcomeOf(result: number, error: string): number {
  if (error === '') return result >= 0 ? result : NaN; // `-1 (errno 531)` is an error without a name
  return errnoValue(error) ?? NaN;
}

function translateOperation(
  call: StraceCall,
  args: CallArguments,
  outcome: number,
  action: Action,
): Meaning {
  const isFile = action.kind === 'mmap' && (action.flags & MAP_ANONYMOUS) === 0;
  const descriptor = isFile ? args.descriptor(4) : -1;
  const opensFile = isFile && call.args[0] === 'NULL' && action.offset === 0;
  return { means: 'operation', action, outcome, descriptor, opensFile };
}

function translateBirth(call: StraceCall, args: CallArguments, outcome: number): Meaning {
  if (!(outcome > 0)) return { means: 'skipped', reason: `fails with ${call.error}` };
  const flags = birthFlags(call, args);
  return {
    means: 'birth',
    childTid: outcome,
    sharesMemory: (flags & CLONE_VM) !== 0,
    sharesProcess: (flags & CLONE_THREAD) !== 0,
    waitsForExec: (flags & CLONE_VFORK) !== 0,
  };
}

function birthFlags(call: StraceCall, args: CallArguments): number {
  if (call.name === 'fork') return 0;
  if (call.name === 'vfork') return CLONE_VM | CLONE_VFORK;
  const inBraces = /^\{(?:.*?[ ,])?flags=([^,}]*)/.exec(call.args[0] ?? '')?.[1];
  const word = call.name === 'clone3' ? inBraces : args.named('flags');
  if (word === undefined) throw args.error(`the flags of ${call.name}`, 'none');
  // the signal that tells of the child's end stands among the flags
  const names = word.split('|').filter((name) => !name.startsWith('SIG'));
  return names.length === 0 ? 0 : args.flagsOf(names.join('|'), CLONE_FLAGS);
}

function readMmap(args: CallArguments, outcome: number): Action {
  args.expectCount(6);
  const flags = args.flags(3, MAP_FLAGS);
  const wasPlaced = outcome >= 0 && (flags & MAP_FIXED) === 0;
  return {
    kind: 'mmap',
    address: wasPlaced ? outcome : args.number(0),
    length: args.number(1),
    protection: args.flags(2, PROT_FLAGS),
    flags,
    file: -1,
    offset: args.number(5),
  };
}

function readMprotect(args: CallArguments, count: number): Action {
  args.expectCount(count);
  const protection = args.flags(2, PROT_FLAGS);
  return { kind: 'mprotect', address: args.number(0), length: args.number(1), protection };
}

function readMremap(args: CallArguments, outcome: number): Action {
  args.expectCount(4, 5);
  return {
    kind: 'mremap',
    address: args.number(0),
    oldLength: args.number(1),
    newLength: args.number(2),
    flags: args.flags(3, MREMAP_FLAGS),
    newAddress: outcome >= 0 ? outcome : args.number(4),
  };
}
