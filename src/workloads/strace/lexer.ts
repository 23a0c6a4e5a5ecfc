/**
 * The inside of one line of strace: its number and time columns, a call's arguments, its result.
 *
 * Everything here walks forward over the characters of the line once; a line may be megabytes long.
 * Positions are indices into the text, `to` is exclusive, and -1 says that the text is malformed.
 *
 * @module
 */

const TAB = 9;
const SPACE = 32;
const DOUBLE_QUOTE = 34;
const OPEN_PARENTHESIS = 40;
const CLOSE_PARENTHESIS = 41;
const STAR = 42;
const MINUS = 45;
const DOT = 46;
const DIGIT_0 = 48;
const DIGIT_9 = 57;
const LESS = 60;
const EQUALS = 61;
const GREATER = 62;
const QUESTION_MARK = 63;
const CAPITAL_A = 65;
const CAPITAL_E = 69;
const CAPITAL_Z = 90;
const BACKSLASH = 92;
const UNDERSCORE = 95;
const SMALL_A = 97;
const SMALL_Z = 122;

/** What a character means for the splitting of arguments; most mean nothing. */
const PLAIN = 0;
const COMMA = 1;
const QUOTE = 2;
const OPEN = 3;
const CLOSE = 4;
const SLASH = 5;
const ANGLE = 6;

const MEANINGS = meanings({
  ',': COMMA,
  '"': QUOTE,
  '(': OPEN,
  '[': OPEN,
  '{': OPEN,
  ')': CLOSE,
  ']': CLOSE,
  '}': CLOSE,
  '/': SLASH,
  '<': ANGLE,
});
const CLOSERS: ReadonlyMap<number, number> = new Map(
  ['()', '[]', '{}'].map((pair) => [pair.charCodeAt(0), pair.charCodeAt(1)]),
);

function meanings(entries: Record<string, number>): Uint8Array {
  const table = new Uint8Array(128);
  for (const [character, meaning] of Object.entries(entries)) {
    table[character.charCodeAt(0)] = meaning;
  }
  return table;
}

export function isDigit(code: number): boolean {
  return code >= DIGIT_0 && code <= DIGIT_9;
}

/** First position that is neither space nor tab. */
export function skipSpaces(text: string, from: number, to: number): number {
  let at = from;
  while (at < to) {
    const code = text.charCodeAt(at);
    if (code !== SPACE && code !== TAB) break;
    at++;
  }
  return at;
}

/** First position that is no digit. */
export function skipDigits(text: string, from: number, to: number): number {
  let at = from;
  while (at < to && isDigit(text.charCodeAt(at))) at++;
  return at;
}

/** End of a time as -ttt prints it, `1795187379.102903`, or -1. */
export function endOfTime(text: string, from: number, to: number): number {
  const dot = skipDigits(text, from, to);
  if (dot === from || dot >= to || text.charCodeAt(dot) !== DOT) return -1;
  const end = skipDigits(text, dot + 1, to);
  return end === dot + 1 ? -1 : end;
}

/** End of a call's name, which a `(` must follow, or -1. */
export function endOfName(text: string, from: number, to: number): number {
  let at = from;
  while (at < to && isNameCharacter(text.charCodeAt(at))) at++;
  return at > from && at < to && text.charCodeAt(at) === OPEN_PARENTHESIS ? at : -1;
}

/** Letters, digits, `_`, and the `?` of a call that strace could not name. */
function isNameCharacter(code: number): boolean {
  return (
    (code >= SMALL_A && code <= SMALL_Z) ||
    (code >= CAPITAL_A && code <= CAPITAL_Z) ||
    isDigit(code) ||
    code === UNDERSCORE ||
    code === QUESTION_MARK
  );
}

/**
 * Splits what stands after a call's opening parenthesis at the commas of the top level, and appends
 * the parts to `args`. Returns the position after the closing parenthesis, or -1 if there is none or
 * a bracket, a string or a comment is not closed.
 */
export function splitArguments(text: string, from: number, to: number, args: string[]): number {
  let closers: number[] | undefined; // of brackets that are open; most calls have none
  let start = skipSpaces(text, from, to);
  for (let at = start; at < to; at++) {
    const code = text.charCodeAt(at);
    const meaning = (code < 128 ? MEANINGS[code] : PLAIN) ?? PLAIN;
    if (meaning === PLAIN) continue;
    if (meaning === COMMA) {
      if (closers !== undefined && closers.length > 0) continue;
      args.push(text.slice(start, at).trimEnd());
      start = skipSpaces(text, at + 1, to);
    } else if (meaning === OPEN) {
      (closers ??= []).push(CLOSERS.get(code) ?? 0);
    } else if (meaning !== CLOSE) {
      at = endOfQuoted(text, at, to, meaning);
      if (at < 0) return -1;
    } else if (closers !== undefined && closers.length > 0) {
      if (closers.pop() !== code) return -1;
    } else {
      if (code !== CLOSE_PARENTHESIS) return -1;
      const last = text.slice(start, at).trimEnd();
      if (args.length > 0 || last !== '') args.push(last);
      return at + 1;
    }
  }
  return -1;
}

/** Last position of a string, a comment or a descriptor's path that begins at `at`; -1 if it has no end. */
function endOfQuoted(text: string, at: number, to: number, meaning: number): number {
  if (meaning === QUOTE) return endOfString(text, at, to);
  const next = text.charCodeAt(at + 1);
  if (meaning === SLASH) {
    if (next !== STAR) return at;
    const end = text.indexOf('*/', at + 2);
    return end < 0 || end + 2 > to ? -1 : end + 1;
  }
  // `3</etc/passwd>`, but neither `21<<MAP_HUGE_SHIFT` nor `<... resuming interrupted …>`
  const annotates = isDigit(text.charCodeAt(at - 1)) && next !== LESS;
  return annotates ? endOfPath(text, at + 1, to) : next === LESS ? at + 1 : at;
}

function endOfString(text: string, at: number, to: number): number {
  for (let i = at + 1; i < to; i++) {
    const code = text.charCodeAt(i);
    if (code === BACKSLASH) i++;
    else if (code === DOUBLE_QUOTE) return i;
  }
  return -1;
}

/** The closing angle of a path or an address; the `->` between two addresses is none. */
function endOfPath(text: string, from: number, to: number): number {
  for (let i = from; i < to; i++) {
    if (text.charCodeAt(i) === GREATER && text.charCodeAt(i - 1) !== MINUS) return i;
  }
  return -1;
}

/** What a call returned. */
export interface CallResult {
  /** Undefined if the log shows none. */
  readonly value: number | undefined;
  /** `ENOMEM`, or empty. */
  readonly error: string;
}

const NO_RESULT: CallResult = { value: undefined, error: '' };

/** Reads what stands after a call's closing parenthesis: `= 0`, `= -1 ENOMEM (…)`, `= ?`. */
export function readResult(text: string, from: number, to: number): CallResult | undefined {
  const equals = skipSpaces(text, from, to);
  if (text.charCodeAt(equals) !== EQUALS) return undefined;
  const start = skipSpaces(text, equals + 1, to);
  let end = start;
  while (end < to && !endsValue(text.charCodeAt(end))) end++;
  const word = text.slice(start, end);
  const value = word === '?' ? undefined : readNumber(word);
  if (word !== '?' && value === undefined) return undefined;
  const rest = skipSpaces(text, end, to);
  if (rest >= to) return value === undefined ? NO_RESULT : { value, error: '' };
  return readRemark(text, rest, to, value);
}

function endsValue(code: number): boolean {
  return code === SPACE || code === TAB || code === LESS;
}

/** What may follow a value: an error's name, then remarks in parentheses or angles. */
function readRemark(
  text: string,
  from: number,
  to: number,
  value: number | undefined,
): CallResult | undefined {
  let at = from;
  let error = '';
  if (text.charCodeAt(at) === CAPITAL_E) {
    while (at < to && isNameCharacter(text.charCodeAt(at))) at++;
    error = text.slice(from, at);
    at = skipSpaces(text, at, to);
    if (at >= to) return { value, error };
  }
  const opens = text.charAt(at);
  const closes = text.charAt(to - 1);
  const isRemark = (opens === '(' || opens === '<') && (closes === ')' || closes === '>');
  return isRemark ? { value, error } : undefined;
}

const DECIMAL = /^-?[0-9]+$/;
const HEXADECIMAL = /^0x[0-9a-fA-F]+$/;

/** No register holds more. */
const NUMBER_MAX = 2 ** 64;

/** A number as strace prints it, `NULL` included; undefined for anything else, or if it is beyond 64 bits. */
export function readNumber(word: string): number | undefined {
  if (word === 'NULL') return 0;
  if (!HEXADECIMAL.test(word) && !DECIMAL.test(word)) return undefined;
  const value = Number(word);
  return Math.abs(value) <= NUMBER_MAX ? value : undefined;
}
