/**
 * Reports of memory that is misused, found in the shadow (memory/shadow.ts): who did what to which member of which
 * struct, with its stack, and what the other had done.
 *
 * Protocol   Where an earlier use was made is not kept, as that would cost more than all the rest. So the first race
 *            at a member is reported with one stack, and from then on the uses of that member are noted with
 *            theirs ("armed"): the next race there completes the report.
 *              One member is armed at a time.
 *
 * @module
 */
import { readOwn } from '#memory';

import { bug } from '../base/bug.js';
import { hashName } from '../base/hash.js';
import type { Cpu } from '../machine/cpu.js';
import { isLockReported, keepLockReport, replaceLockReport } from '../machine/lock-report.js';
import { MachineHalted } from '../machine/sched.js';
import { MACHINE, Machine } from '../machine/types.js';
import type { Misuse, Shadow } from '../memory/shadow.js';
import { stackHere } from '../memory/shadow-stacks.js';
import { memoryWords } from '../memory/snapshot.js';
import { lockGraph, lockGraphOf, unlockGraph } from './lockdep/graph.js';
import { taskOf } from './lockdep/lockdep.js';
import { heldLines } from './lockdep/report.js';
import { nameOfWord, objectAround } from './word-name.js';

const TITLES: Readonly<Record<Misuse['kind'], string>> = {
  race: 'data race',
  'use-after-free': 'use after free',
  'double-free': 'double free',
  'out-of-bounds': 'out of bounds',
};
/** By USE_*. */
const DOES = ['writes', 'makes a marked write of', 'reads', 'makes a marked read of', 'gives back'];
const DID = ['wrote', 'made a marked write of', 'read', 'made a marked read of'];

/** From now on what this CPU does to memory that it must not is reported. Nothing where memory is not watched. */
export function watchMemory(cpu: Cpu): void {
  const { shadow } = cpu;
  if (shadow === null) return;
  const complete = new Set<string>();
  shadow.onMisuse = (misuse) => {
    reportMisuse(cpu, shadow, misuse, complete);
  };
  shadow.onStuck = () => {
    // not checkHalted: it would use the shadow
    if (readOwn(cpu, MACHINE, Machine.halted) !== 0) throw new MachineHalted();
  };
}

/** `complete`: what reports begin with that need not be made again. @throws KernelBug if the run cannot go on */
function reportMisuse(cpu: Cpu, shadow: Shadow, misuse: Misuse, complete: Set<string>): void {
  const first = `${TITLES[misuse.kind]}: ${memberOf(cpu, misuse.word)}`;
  if (!complete.has(first)) {
    const isComplete = misuse.kind !== 'race' || misuse.otherStack !== '';
    keep(cpu, first, isComplete, [first, ...bodyOf(cpu, shadow, misuse)].join('\n'));
    if (isComplete) complete.add(first);
    armNext(cpu, shadow, misuse, isComplete);
  }
  if (misuse.kind === 'double-free') bug(first);
}

function keep(cpu: Cpu, first: string, isComplete: boolean, text: string): void {
  const task = taskOf(cpu);
  const signature = hashName(first);
  const graph = lockGraphOf(cpu);
  const whole = [text, ...heldLines(cpu, task)].join('\n');
  lockGraph(cpu, graph);
  if (!isLockReported(cpu, signature)) keepLockReport(cpu, signature, whole);
  else if (isComplete) replaceLockReport(cpu, signature, whole);
  unlockGraph(cpu, graph);
}

/** Uses of the member are noted from now on, if it wants another stack; or not any more, if it has it. */
function armNext(cpu: Cpu, shadow: Shadow, { kind, word }: Misuse, isComplete: boolean): void {
  if (kind !== 'race') return;
  if (isComplete) {
    shadow.places.disarm();
  } else if (!shadow.places.isArmed) {
    const stride = objectAround(memoryWords(cpu), word)?.size ?? 0;
    shadow.places.arm(word, stride, cpu.frames);
  }
}

function bodyOf(cpu: Cpu, shadow: Shadow, misuse: Misuse): string[] {
  const words = memoryWords(cpu);
  const { word, use, otherCpu, other, otherStack, kind } = misuse;
  const value = ((words[word] ?? 0) >>> 0).toString(16);
  const name = nameOfWord(words, word).full;
  const lines = [
    `cpu ${cpu.id} ${DOES[use] ?? '?'} ${name} (word ${word}, 0x${value}):`,
    stackHere(),
  ];
  if (kind === 'race') {
    lines.push(
      `cpu ${otherCpu} ${DID[other] ?? '?'} it before, and nothing orders the two:`,
      otherStack === '' ? '    (its stack is kept from the next time on)' : otherStack,
    );
    return lines;
  }
  const object = objectAround(words, word);
  if (object !== undefined) {
    const offset = word - object.at;
    const inside =
      offset < object.layout.words
        ? `word ${offset} of`
        : `${offset - object.layout.words} words behind the`;
    lines.push(`which is ${inside} ${object.layout.words} words of ${object.path}, handed out by`);
    lines.push(shadow.lastSiteOf(object.at) || '    (nobody who was watched)');
  }
  if (kind !== 'out-of-bounds') lines.push('and given back by', otherStack);
  return lines;
}

/** What the word is in every object of its kind: `vm_area_struct.flags`; `page table entry`. */
function memberOf(cpu: Cpu, word: number): string {
  const words = memoryWords(cpu);
  const { full } = nameOfWord(words, word);
  const member = /^(\S+) of /.exec(full)?.[1];
  if (member?.includes('.')) return member;
  const object = objectAround(words, word);
  if (object !== undefined) return `behind a ${object.layout.structName}`;
  return full.replaceAll(/\d+/g, 'n');
}
