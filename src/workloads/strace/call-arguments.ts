/**
 * Reads the arguments of one call: numbers, descriptors, and flags by name.
 *
 * @module
 */
import { MAP_HUGE_SHIFT } from '../../mm/uapi.js';
import type { FlagTable } from './constants.js';
import { readNumber } from './lexer.js';
import type { StraceCall } from './parse.js';
import { badTrace, quoted } from './trace-error.js';

/** `21<<MAP_HUGE_SHIFT`: the logarithm of a huge page's size. */
const HUGE_SIZE = /^([0-9]+)<<MAP_HUGE_SHIFT$/;
/** What `-v` and numbers without a name add: `0x66 /* MADV_??? *\/`. */
const COMMENT = /\/\*.*?\*\//g;

export class CallArguments {
  readonly #call: StraceCall;
  readonly #file: string;

  constructor(call: StraceCall, file: string) {
    this.#call = call;
    this.#file = file;
  }

  /** @throws FaultlineError if the call has another number of arguments. */
  expectCount(least: number, most = least): void {
    const count = this.#call.args.length;
    if (count >= least && count <= most) return;
    const range = least === most ? `${least}` : `${least} to ${most}`;
    throw this.error(`${this.#call.name} with ${range} arguments`, `${count}`);
  }

  /**
   * An address, a length or an offset; 0 if there is no such argument.
   * @throws FaultlineError if it is no number, or negative: strace prints what the kernel got, unsigned
   */
  number(index: number): number {
    const word = this.#word(index);
    if (word === '') return 0;
    const value = readNumber(word);
    if (value === undefined) throw this.error(`a number in ${this.#call.name}`, quoted(word));
    if (value < 0) throw this.error(`no negative number in ${this.#call.name}`, quoted(word));
    return value;
  }

  /** A file descriptor, which may have its path behind it: `3</lib/libc.so.6>`. */
  descriptor(index: number): number {
    const word = this.#word(index);
    const path = word.indexOf('<');
    const value = readNumber(path < 0 ? word : word.slice(0, path));
    if (value === undefined) throw this.error('a file descriptor', quoted(word));
    return value;
  }

  /** As it is written, without comments. */
  text(index: number): string {
    return this.#word(index);
  }

  /** Flags joined by `|`, or one value out of a table. */
  flags(index: number, table: FlagTable): number {
    return this.flagsOf(this.#word(index), table);
  }

  /** No two of the names share a bit, so flags may be added; some are beyond 32 bits. */
  flagsOf(word: string, table: FlagTable): number {
    const known = table.get(word);
    if (known !== undefined) return known;
    let sum = 0;
    for (const part of word.split('|')) sum += this.#flag(part.trim(), table);
    return sum;
  }

  /** The text after `name=` in the arguments, or undefined: `flags=CLONE_VM|…`. */
  named(name: string): string | undefined {
    for (const word of this.#call.args) {
      if (word.startsWith(`${name}=`)) return word.slice(name.length + 1);
    }
    return undefined;
  }

  error(expected: string, found: string): Error {
    return badTrace({ file: this.#file, line: this.#call.startLine }, expected, found);
  }

  #flag(name: string, table: FlagTable): number {
    const value = table.get(name) ?? readNumber(name);
    if (value !== undefined && value >= 0 && name !== 'NULL') return value;
    const logarithm = HUGE_SIZE.exec(name)?.[1];
    if (logarithm !== undefined) return Number(logarithm) * 2 ** MAP_HUGE_SHIFT;
    throw this.error(`a flag that ${this.#call.name} has`, quoted(name));
  }

  #word(index: number): string {
    const word = this.#call.args[index] ?? '';
    return word.includes('/*') ? word.replace(COMMENT, '').trim() : word;
  }
}
