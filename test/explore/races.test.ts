/**
 * The race detector on traces written by hand.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  C_STEP,
  CONTROL_WORDS,
  TRACE_AT,
  TRACE_TIMED_OUT,
  TRACE_WORDS,
} from '../../src/explore/control.js';
import { RaceDetector } from '../../src/explore/races.js';
import {
  OP_ACQUIRE,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_PARK,
  OP_READ,
  OP_READ_ONCE,
  OP_RELEASE,
  OP_RESUME,
  OP_RMW,
  OP_UNPARK,
  OP_WRITE,
  OP_WRITE_ONCE,
} from '../../src/memory/turnstile.js';

const DATA = 100;
const FLAG = 200;

/** Task, kind, first word, and how many words (1), flags (0). */
type Step = readonly [task: number, kind: number, at: number, count?: number, flags?: number];

const control = new Int32Array(CONTROL_WORDS);

function find(steps: readonly Step[], detector = new RaceDetector(3, 1000)) {
  steps.forEach(([task, kind, at, count = 1, flags = 0], step) => {
    const trace = TRACE_AT + step * TRACE_WORDS;
    control.set([task | (kind << 4) | flags, at, count, 7], trace);
  });
  control[C_STEP] = steps.length;
  return detector.find(control);
}

function racesOf(steps: readonly Step[]): readonly number[] | undefined {
  const race = find(steps);
  assert.ok(race === undefined || race.kind === 'race');
  return race?.steps;
}

describe('order', () => {
  const store: Step = [0, OP_WRITE, DATA];
  const load: Step = [1, OP_READ, DATA];

  test('a store and a load with nothing in between race', () => {
    assert.deepEqual(racesOf([store, load]), [0, 1]);
    assert.deepEqual(racesOf([load, store]), [0, 1]);
    assert.deepEqual(racesOf([store, [1, OP_WRITE, DATA]]), [0, 1]);
    assert.equal(racesOf([[0, OP_READ, DATA], load]), undefined);
    assert.equal(racesOf([store, [0, OP_READ, DATA]]), undefined);
  });

  test('a plain access races with a marked one, two marked ones do not', () => {
    assert.deepEqual(racesOf([store, [1, OP_READ_ONCE, DATA]]), [0, 1]);
    assert.deepEqual(racesOf([[0, OP_WRITE_ONCE, DATA], load]), [0, 1]);
    assert.deepEqual(
      racesOf([
        [0, OP_RMW, DATA],
        [1, OP_WRITE, DATA],
      ]),
      [0, 1],
    );
    assert.equal(
      racesOf([
        [0, OP_WRITE_ONCE, DATA],
        [1, OP_READ_ONCE, DATA],
      ]),
      undefined,
    );
    assert.equal(racesOf([[0, OP_READ_ONCE, DATA], load]), undefined);
  });

  test('a store-release orders what comes before it, a marked store does not', () => {
    const acquire: Step = [1, OP_ACQUIRE, FLAG];
    assert.equal(racesOf([store, [0, OP_RELEASE, FLAG], acquire, load]), undefined);
    assert.equal(racesOf([store, [0, OP_RELEASE, FLAG], [1, OP_READ_ONCE, FLAG], load]), undefined);
    assert.deepEqual(racesOf([store, [0, OP_WRITE_ONCE, FLAG], acquire, load]), [0, 3]);
    assert.deepEqual(racesOf([[0, OP_RELEASE, FLAG], store, acquire, load]), [1, 3]);
    assert.deepEqual(racesOf([store, acquire, [0, OP_RELEASE, FLAG], load]), [0, 3]);
  });

  test('a release is passed on by updates, and ended by stores', () => {
    const steps = (kind: number): Step[] => [
      store,
      [0, OP_RELEASE, FLAG],
      [2, kind, FLAG],
      [1, OP_ACQUIRE, FLAG],
      load,
    ];
    assert.equal(racesOf(steps(OP_RMW)), undefined);
    assert.deepEqual(racesOf(steps(OP_WRITE_ONCE)), [0, 4]);
    assert.deepEqual(racesOf(steps(OP_RELEASE)), [0, 4]);
  });

  test('sections under a lock are in order', () => {
    const section = (task: number): Step[] => [
      [task, OP_LOCK, FLAG],
      [task, OP_READ, DATA],
      [task, OP_WRITE, DATA],
      [task, OP_RMW, FLAG],
    ];
    assert.equal(racesOf([...section(0), ...section(1), ...section(2)]), undefined);
  });

  test('whoever is woken has seen what came before, whoever wakes by itself has not', () => {
    const sleep = (flags: number): Step[] => [
      [1, OP_PARK, FLAG],
      store,
      [0, OP_UNPARK, FLAG],
      [1, OP_RESUME, FLAG, 1, flags],
      load,
    ];
    assert.equal(racesOf(sleep(0)), undefined);
    assert.deepEqual(racesOf(sleep(TRACE_TIMED_OUT)), [1, 4]);
  });

  test('runs of words race where they overlap', () => {
    assert.deepEqual(
      racesOf([
        [0, OP_WRITE, DATA, 16],
        [1, OP_READ, DATA + 15, 2],
      ]),
      [0, 1],
    );
    assert.equal(
      racesOf([
        [0, OP_WRITE, DATA, 16],
        [1, OP_READ, DATA + 16, 2],
      ]),
      undefined,
    );
  });

  test('one run knows nothing of the run before', () => {
    const detector = new RaceDetector(3, 1000);
    assert.equal(find([store, [0, OP_RELEASE, FLAG]], detector), undefined);
    assert.equal(find([[1, OP_ACQUIRE, FLAG], load], detector), undefined);
    assert.deepEqual(find([[1, OP_ACQUIRE, FLAG], load, store], detector)?.steps, [1, 2]);
  });
});

describe('freed memory', () => {
  const free: Step = [0, OP_FREE, DATA, 8];

  test('must not be touched', () => {
    for (const kind of [OP_READ, OP_WRITE, OP_READ_ONCE, OP_WRITE_ONCE, OP_RMW, OP_LOCK]) {
      const found = find([free, [1, kind, DATA + 7]]);
      assert.equal(found?.kind, 'use-after-free');
      assert.deepEqual(found.steps, [0, 1]);
      assert.equal(found.word, DATA + 7);
    }
    assert.equal(find([free, [0, OP_READ, DATA]])?.kind, 'use-after-free');
    assert.equal(find([free, [1, OP_READ, DATA + 8]]), undefined);
  });

  test('must not be freed again', () => {
    assert.equal(find([free, [0, OP_FREE, DATA, 8]])?.kind, 'use-after-free');
  });

  test('is anybody’s again once it was handed out', () => {
    assert.equal(find([free, [0, OP_ALLOC, DATA, 8], [0, OP_WRITE, DATA]]), undefined);
  });
});
