/**
 * Corpora of cases that were recorded on a real kernel: their format, and the reader of their files.
 *
 * A case is a list of steps. A step is an operation with its arguments, and beside them what the real kernel
 * answered: results, callbacks of notifiers in order, and the state of every page afterwards. Addresses are pages
 * relative to the start of an arena.
 *
 * @module
 */
import { readFileSync } from 'node:fs';

import * as v from 'valibot';

import { EXIT_USAGE, FaultlineError } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';

const integer = v.pipe(v.number(), v.integer());
const natural = v.pipe(integer, v.minValue(0));
const pageOrOpen = v.nullable(integer);

const eventSchema = v.looseObject({
  kind: v.string(),
  proc: v.optional(v.string()),
  id: v.optional(integer),
  event: v.optional(v.string()),
  start: v.optional(pageOrOpen),
  end: v.optional(pageOrOpen),
});

const tlbSchema = v.looseObject({
  proc: v.optional(v.string()),
  all: v.optional(v.boolean()),
  start: v.optional(pageOrOpen),
  end: v.optional(pageOrOpen),
});

const pagesSchema = v.looseObject({
  n: v.pipe(integer, v.minValue(1)),
  hmm: v.picklist(['V', 'VW', 'E', '-']),
  pte: v.optional(v.string()),
  page: v.optional(v.string()),
  val: v.optional(v.number()),
  shift: v.optional(integer),
  order: v.optional(natural),
});

const stepSchema = v.looseObject({
  op: v.string(),
  proc: v.optional(v.string()),
  at: v.optional(integer),
  n: v.optional(natural),
  async: v.optional(v.string()),
  result: v.optional(integer),
  events: v.optional(v.array(eventSchema)),
  tlb: v.optional(v.array(tlbSchema)),
  pages: v.optional(v.array(pagesSchema)),
  values: v.optional(v.array(v.tuple([natural, v.number()]))),
  snapshot: v.optional(v.record(v.string(), v.array(pagesSchema))),
  alternatives: v.optional(v.record(v.string(), v.array(v.unknown()))),
});

const caseSchema = v.looseObject({
  name: v.pipe(v.string(), v.nonEmpty()),
  category: v.string(),
  pages: v.pipe(integer, v.minValue(1), v.maxValue(1 << 16)),
  doc: v.optional(v.string()),
  opts: v.optional(v.string()),
  steps: v.array(stepSchema),
});

const corpusSchema = v.looseObject({
  format: v.literal(1),
  meta: v.optional(v.record(v.string(), v.unknown())),
  cases: v.array(caseSchema),
});

/** A callback of a notifier, as it was recorded. */
export type RecordedEvent = v.InferOutput<typeof eventSchema>;
/** A run of pages in the same state. */
export type RecordedPages = v.InferOutput<typeof pagesSchema>;
/** An operation, with what the real kernel answered. */
export type RecordedStep = v.InferOutput<typeof stepSchema>;
/** A list of operations on address spaces that are new. */
export type RecordedCase = v.InferOutput<typeof caseSchema>;
/** A whole file. */
export type Corpus = v.InferOutput<typeof corpusSchema>;

/** Reads a corpus. @throws FaultlineError if the file cannot be read, or is none: one line with the JSON path */
export function loadCorpus(path: string): Corpus {
  return parseCorpus(readText(path), path);
}

/** The corpus in a text; `source` is what an error calls it. @throws FaultlineError */
export function parseCorpus(text: string, source: string): Corpus {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw badCorpus(`${source}: is no JSON: ${reasonOf(error)}`);
  }
  const parsed = v.safeParse(corpusSchema, value, { abortEarly: true });
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw badCorpus(`${source}: ${pathOf(issue)}: ${wordsOf(issue)}`);
  }
  checkNames(parsed.output, source);
  return parsed.output;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw badCorpus(`${path}: cannot be read: ${reasonOf(error)}`);
  }
}

/** A case is asked for by its name. */
function checkNames({ cases }: Corpus, source: string): void {
  const seen = new Set<string>();
  cases.forEach(({ name }, index) => {
    if (seen.has(name)) {
      throw badCorpus(`${source}: $.cases[${index}].name: another case is called ${name} too`);
    }
    seen.add(name);
  });
}

/** Where in the file: `$.cases[3].steps[0].op`. */
function pathOf(issue: v.BaseIssue<unknown>): string {
  const keys = (issue.path ?? []).map(({ key }) =>
    typeof key === 'number' ? `[${key}]` : `.${String(key)}`,
  );
  return `$${keys.join('')}`;
}

function wordsOf({ expected, received }: v.BaseIssue<unknown>): string {
  if (received === 'undefined') return 'is missing';
  return `${expected ?? 'something else'} was expected, not ${received}`;
}

function badCorpus(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_CORPUS', message, EXIT_USAGE);
}
