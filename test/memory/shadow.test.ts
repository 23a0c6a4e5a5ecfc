/**
 * What the shadow says of uses, CPU by CPU on one thread: each test is a history.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';

import fc from 'fast-check';

import {
  createShadow,
  type Misuse,
  RUN_ACQUIRES,
  RUN_UNORDERED,
  RUN_UPDATES,
  Shadow,
  USE_READ,
  USE_READ_ONCE,
  USE_WRITE,
  USE_WRITE_ONCE,
} from '../../src/memory/shadow.js';

const WORDS = 4096;
const CPUS = 3;
const DATA = 100;
const FLAG = 300;
const LINE = 16;

/** One CPU and what it was told. */
class Watched {
  readonly shadow: Shadow;
  readonly misuses: Misuse[] = [];

  constructor(handle: ReturnType<typeof createShadow>, cpu: number) {
    this.shadow = new Shadow(handle, cpu);
    this.shadow.onMisuse = (misuse) => this.misuses.push(misuse);
  }

  read(word: number): void {
    this.shadow.plain(word, USE_READ);
  }
  write(word: number): void {
    this.shadow.plain(word, USE_WRITE);
  }
  readOnce(word: number): void {
    const version = this.shadow.beginLoad(word);
    assert.ok(this.shadow.endLoad(word, version), 'nobody else is there');
  }
  writeOnce(word: number): void {
    this.shadow.begin(word, USE_WRITE_ONCE);
    this.shadow.endRelease(word);
    this.shadow.end(word);
  }
  storeRelease(word: number): void {
    this.shadow.begin(word, USE_WRITE_ONCE);
    this.shadow.release(word);
    this.shadow.end(word);
  }
  update(word: number): void {
    this.shadow.begin(word, USE_WRITE_ONCE);
    this.shadow.acquire(word);
    this.shadow.release(word);
    this.shadow.end(word);
  }

  // all words of the line that the word is in
  fill(word: number): void {
    this.shadow.run(lineStart(word), LINE, USE_WRITE);
  }
  readLine(word: number): void {
    this.shadow.run(lineStart(word), LINE, USE_READ);
  }
  readOnceLine(word: number): void {
    this.shadow.cells(lineStart(word), LINE / 2, USE_READ_ONCE, RUN_ACQUIRES);
  }
  writeOnceLine(word: number): void {
    this.shadow.cells(lineStart(word), LINE / 2, USE_WRITE_ONCE, RUN_UNORDERED);
  }
  updateLine(word: number): void {
    this.shadow.cells(lineStart(word), LINE / 2, USE_WRITE_ONCE, RUN_UPDATES);
  }
}

const lineStart = (word: number): number => word - (word % LINE);

let cpus: Watched[] = [];
let [one, two, three] = [] as unknown as [Watched, Watched, Watched];

beforeEach(() => {
  const handle = createShadow(WORDS, CPUS);
  cpus = Array.from({ length: CPUS }, (_, cpu) => new Watched(handle, cpu));
  [one, two, three] = cpus as [Watched, Watched, Watched];
});

function onlyMisuse({ misuses }: Watched): Misuse {
  assert.equal(misuses.length, 1);
  return misuses[0]!;
}

describe('two uses of a word by different CPUs, with nothing between them', () => {
  const uses = {
    read: (cpu: Watched) => {
      cpu.read(DATA);
    },
    write: (cpu: Watched) => {
      cpu.write(DATA);
    },
    readOnce: (cpu: Watched) => {
      cpu.readOnce(DATA);
    },
    writeOnce: (cpu: Watched) => {
      cpu.writeOnce(DATA);
    },
    storeRelease: (cpu: Watched) => {
      cpu.storeRelease(DATA);
    },
    update: (cpu: Watched) => {
      cpu.update(DATA);
    },
  };
  type Use = keyof typeof uses;
  const stores = new Set<Use>(['write', 'writeOnce', 'storeRelease', 'update']);
  const plain = new Set<Use>(['read', 'write']);
  for (const first of Object.keys(uses) as Use[]) {
    for (const second of Object.keys(uses) as Use[]) {
      const races =
        (stores.has(first) || stores.has(second)) && (plain.has(first) || plain.has(second));
      // what was released at the word itself is acquired with it, but not by a plain use
      test(`${first}, then ${second}: ${races ? 'a race' : 'none'}`, () => {
        uses[first](one);
        uses[second](two);
        assert.deepEqual(
          two.misuses.map(({ kind, word, otherCpu }) => ({ kind, word, otherCpu })),
          races ? [{ kind: 'race', word: DATA, otherCpu: 0 }] : [],
        );
        assert.deepEqual(one.misuses, []);
      });
    }
  }
});

describe('what orders two stores', () => {
  test('a store-release that a readOnce has seen', () => {
    one.write(DATA);
    one.storeRelease(FLAG);
    two.readOnce(FLAG);
    two.write(DATA);
    assert.deepEqual(two.misuses, []);
  });

  test('updates of one word, over a CPU between them', () => {
    one.write(DATA);
    one.update(FLAG);
    two.update(FLAG);
    two.storeRelease(FLAG + 40);
    three.readOnce(FLAG + 40);
    three.write(DATA);
    assert.deepEqual(three.misuses, []);
  });

  test('not a marked store: it ends what was released there', () => {
    one.write(DATA);
    one.storeRelease(FLAG);
    three.writeOnce(FLAG);
    two.readOnce(FLAG);
    two.write(DATA);
    assert.equal(onlyMisuse(two).kind, 'race');
  });

  test('not what is done after the release', () => {
    one.storeRelease(FLAG);
    one.write(DATA);
    two.readOnce(FLAG);
    two.write(DATA);
    assert.equal(onlyMisuse(two).other, USE_WRITE);
  });

  test('a release that was made before the word was forgotten is nobody’s any more', () => {
    one.write(DATA);
    one.storeRelease(FLAG);
    one.shadow.run(FLAG - (FLAG % LINE), LINE, USE_WRITE);
    three.storeRelease(FLAG + 200); // takes the place in which the release was kept
    two.readOnce(FLAG);
    two.write(DATA);
    assert.equal(two.misuses.filter(({ word }) => word === DATA).length, 1);
  });
});

describe('runs of words', () => {
  test('a fill races with who has used a word of it, and with who uses one later', () => {
    two.readOnce(DATA);
    one.shadow.run(64, 64, USE_WRITE);
    assert.deepEqual(
      one.misuses.map(({ word, other }) => [word, other]),
      [[DATA, USE_READ_ONCE]],
    );
    three.readOnce(DATA + 1);
    assert.equal(onlyMisuse(three).otherCpu, 0);
  });

  test('a fill that is ordered forgets what came before', () => {
    two.write(DATA);
    two.storeRelease(FLAG);
    one.readOnce(FLAG);
    one.shadow.run(64, 64, USE_WRITE);
    one.storeRelease(FLAG + 40);
    three.readOnce(FLAG + 40);
    three.write(DATA);
    assert.deepEqual([...one.misuses, ...three.misuses], []);
  });

  test('a run of cells acquires at each', () => {
    one.write(DATA);
    one.storeRelease(FLAG + 6);
    two.shadow.cells(FLAG, 8, USE_READ_ONCE, RUN_ACQUIRES);
    two.write(DATA);
    assert.deepEqual(two.misuses, []);
  });
});

describe('memory of an allocator', () => {
  const OBJECT = 1024;

  test('is nobody’s when it was given back, whoever ordered what', () => {
    one.shadow.alloc(OBJECT, 20);
    one.shadow.free(OBJECT, 20);
    one.storeRelease(FLAG);
    two.readOnce(FLAG);
    two.readOnce(OBJECT + 19);
    const { kind, otherStack } = onlyMisuse(two);
    assert.equal(kind, 'use-after-free');
    assert.match(otherStack, /shadow\.test/);
  });

  test('is somebody’s again, and nothing was before', () => {
    one.shadow.alloc(OBJECT, 20);
    one.write(OBJECT);
    one.shadow.free(OBJECT, 20);
    two.shadow.alloc(OBJECT, 20);
    two.write(OBJECT);
    assert.deepEqual(two.misuses, []);
    assert.match(two.shadow.siteOf(OBJECT) ?? '', /shadow\.test/);
  });

  test('is given back once', () => {
    one.shadow.alloc(OBJECT, 20);
    one.shadow.free(OBJECT, 20);
    one.shadow.free(OBJECT, 20);
    assert.equal(onlyMisuse(one).kind, 'double-free');
    assert.equal(one.shadow.siteOf(OBJECT), undefined);
  });

  test('is not given back under who may be looking', () => {
    one.shadow.alloc(OBJECT, 20);
    two.readOnce(OBJECT + 3);
    one.shadow.free(OBJECT, 20);
    assert.deepEqual(
      one.misuses.map(({ kind, word, otherCpu }) => [kind, word, otherCpu]),
      [['race', OBJECT + 3, 1]],
    );
  });

  test('has words that are in no object', () => {
    one.shadow.takeSlab(OBJECT, 1024);
    one.shadow.alloc(OBJECT, 20);
    one.write(OBJECT + 19);
    assert.deepEqual(one.misuses, []);
    one.write(OBJECT + 20);
    assert.equal(onlyMisuse(one).kind, 'out-of-bounds');
  });

  test('fills of a slab are looked at word by word', () => {
    one.shadow.takeSlab(OBJECT, 1024);
    one.shadow.alloc(OBJECT, 20);
    one.shadow.run(OBJECT, 32, USE_WRITE);
    assert.equal(onlyMisuse(one).word, OBJECT + 20);
  });

  test('that is a frame’s again is anybody’s', () => {
    one.shadow.takeSlab(OBJECT, 1024);
    one.shadow.giveFrame(OBJECT, 1024);
    two.shadow.run(OBJECT, 1024, USE_WRITE);
    assert.deepEqual(two.misuses, []);
  });
});

describe('stacks of both', () => {
  test('are known from when the word is armed', () => {
    one.write(DATA);
    two.write(DATA);
    assert.equal(onlyMisuse(two).otherStack, '');
    two.shadow.places.arm(DATA, 0, 0);
    assert.equal(one.shadow.places.isArmed, true);
    one.write(DATA);
    three.write(DATA);
    assert.match(onlyMisuse(three).otherStack, /Watched\.write/);
    one.shadow.places.disarm();
  });

  test('are those of the same member of all objects of a kind', () => {
    const frames = 1024;
    one.shadow.places.arm(frames + 5, 48, frames);
    one.write(frames + 48 + 5);
    one.write(frames + 48 + 6);
    two.write(frames + 48 + 5);
    two.write(frames + 48 + 6);
    assert.deepEqual(
      two.misuses.map(({ otherStack }) => otherStack !== ''),
      [true, false],
    );
  });
});

// --- against a model that forgets nothing ---

const OPERATIONS = {
  read: 'read',
  write: 'write',
  readOnce: 'readOnce',
  writeOnce: 'writeOnce',
  storeRelease: 'writeOnce',
  update: 'writeOnce',
  fill: 'write',
  readLine: 'read',
  readOnceLine: 'readOnce',
  writeOnceLine: 'writeOnce',
  updateLine: 'writeOnce',
} as const;
type Operation = keyof typeof OPERATIONS;
interface Step {
  readonly cpu: number;
  readonly operation: Operation;
  readonly word: number;
}

/** An event of the model: which come before it is a set. */
interface Event extends Step {
  readonly number: number;
  readonly before: ReadonlySet<number>;
}

const isWhole = ({ operation }: Step): boolean =>
  operation === 'fill' || operation.endsWith('Line');
const isStore = ({ operation }: Step): boolean => OPERATIONS[operation].startsWith('write');
const isPlain = ({ operation }: Step): boolean => !OPERATIONS[operation].endsWith('Once');
const ACQUIRING: readonly Operation[] = ['readOnce', 'update', 'readOnceLine', 'updateLine'];

/** What was released, by words and, below 0, by lines. */
class Releases {
  readonly #kept = new Map<number, ReadonlySet<number>>();

  /** What whoever acquires there has seen. */
  *at(step: Step): Generator<number> {
    for (const key of [...keysOf(step), -lineOf(step.word)]) yield* this.#kept.get(key) ?? [];
  }

  /** Somebody who has seen and done all that does this. */
  note(step: Step, mine: ReadonlySet<number>): void {
    const { operation, word } = step;
    if (operation === 'update' || operation === 'storeRelease') this.#kept.set(word, new Set(mine));
    if (operation === 'writeOnce') this.#kept.delete(word);
    if (operation !== 'fill' && operation !== 'updateLine') return;
    for (const key of keysOf(step)) this.#kept.delete(key);
    if (operation === 'fill') this.#kept.delete(-lineOf(word));
    else this.#kept.set(-lineOf(word), new Set(mine));
  }
}

/** The words that a step touches. */
function keysOf(step: Step): number[] {
  if (!isWhole(step)) return [step.word];
  return Array.from({ length: LINE }, (_, i) => lineStart(step.word) + i);
}

/** All events of a history, and for each the words that race with which earlier events. */
function modelOf(steps: readonly Step[]): { events: Event[]; races: [number, number][][] } {
  const seen = Array.from({ length: CPUS }, () => new Set<number>());
  const releases = new Releases();
  const events: Event[] = [];
  const races = steps.map((step, number) => {
    const mine = seen[step.cpu]!;
    const races = events
      .filter((other) => touches(other, step) && other.cpu !== step.cpu)
      .filter((other) => isStore(other) || isStore(step))
      .filter((other) => isPlain(other) || isPlain(step))
      .filter((other) => !mine.has(other.number))
      .map((other): [number, number] => [isWhole(other) ? step.word : other.word, other.number]);
    if (ACQUIRING.includes(step.operation)) {
      for (const before of releases.at(step)) mine.add(before);
    }
    mine.add(number);
    releases.note(step, mine);
    events.push({ ...step, number, before: new Set(mine) });
    return races;
  });
  return { events, races };
}

const lineOf = (word: number): number => Math.floor(word / LINE);

function touches(one: Step, other: Step): boolean {
  const isEither = isWhole(one) || isWhole(other);
  return isEither ? lineOf(one.word) === lineOf(other.word) : one.word === other.word;
}

/** True if a use was forgotten in a fill, or another of its kind, and of as many words, came after. */
function isForgotten(events: readonly Event[], event: Event, now: Step): boolean {
  return events.some(
    (later) =>
      later.number > event.number &&
      touches(later, event) &&
      (later.operation === 'fill' ||
        (isWhole(later) === isWhole(event) &&
          touches(later, now) &&
          OPERATIONS[later.operation] === OPERATIONS[event.operation])),
  );
}

test('says nothing that a model does not say, and what the model says of last uses', () => {
  const step = fc.record({
    cpu: fc.nat({ max: CPUS - 1 }),
    operation: fc.constantFrom(...(Object.keys(OPERATIONS) as Operation[])),
    word: fc.constantFrom(160, 161, 176, 177),
  });
  let races = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const handle = createShadow(WORDS, CPUS);
      const watched = Array.from({ length: CPUS }, (_, cpu) => new Watched(handle, cpu));
      const model = modelOf(steps);
      /** Lines with a race that somebody has been told of: whoever repeats his use of it need not be. */
      const told = new Set<number>();
      for (const [number, { cpu, operation, word }] of steps.entries()) {
        const { misuses } = watched[cpu]!;
        misuses.length = 0;
        watched[cpu]![operation](word);
        const expected = model.races[number]!;
        for (const misuse of misuses) {
          const known = expected.some(([, other]) => steps[other]!.cpu === misuse.otherCpu);
          assert.ok(known, `step ${number}: ${JSON.stringify(misuse)}`);
          told.add(lineOf(misuse.word));
        }
        const remembered = expected.filter(
          ([, other]) =>
            !isForgotten(model.events.slice(0, number), model.events[other]!, steps[number]!),
        );
        if (remembered.length > 0) {
          races++;
          const [at, other] = remembered[0]!;
          assert.ok(told.has(lineOf(at)), `step ${number} races with step ${other}`);
        }
      }
    }),
    { numRuns: 1000 },
  );
  assert.ok(races > 1000, `only ${races} races`);
});
