import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  awaitGate,
  awaitStage,
  comeToGate,
  gateNumber,
  openGate,
  passStage,
  RENDEZVOUS_WORDS,
  resetStages,
  stagesPassed,
} from '../../src/memory/rendezvous.js';
import { sharedIntegers } from '../../src/memory/shared-tables.js';

const SPINS = 10;

describe('a gate', () => {
  test('has one who comes last, each time it is opened', () => {
    const words = sharedIntegers(RENDEZVOUS_WORDS);
    for (let number = 0; number < 3; number++) {
      assert.equal(gateNumber(words, 0), number);
      assert.deepEqual(
        [0, 1, 2].map(() => comeToGate(words, 0, 3)),
        [false, false, true],
      );
      openGate(words, 0);
    }
  });

  test('is waited for until it is opened, or time is up', () => {
    const words = sharedIntegers(RENDEZVOUS_WORDS);
    assert.equal(awaitGate(words, 0, 0, SPINS, 1), false);
    openGate(words, 0);
    assert.equal(awaitGate(words, 0, 0, SPINS, Number.POSITIVE_INFINITY), true);
    assert.equal(awaitGate(words, 0, 0, 0, Number.POSITIVE_INFINITY), true, 'asleep at once');
  });
});

describe('a row of stages', () => {
  test('is passed in order only', () => {
    const words = sharedIntegers(RENDEZVOUS_WORDS);
    assert.equal(passStage(words, 0, 1), false);
    assert.equal(passStage(words, 0, 0), true);
    assert.equal(passStage(words, 0, 0), false, 'each once');
    assert.equal(passStage(words, 0, 1), true);
    assert.equal(stagesPassed(words, 0), 2);
    resetStages(words, 0);
    assert.equal(stagesPassed(words, 0), 0);
  });

  test('lets who comes to the next go on, and does not hold up who comes late', () => {
    const words = sharedIntegers(RENDEZVOUS_WORDS);
    passStage(words, 0, 0);
    assert.equal(awaitStage(words, 0, 1, SPINS, Number.POSITIVE_INFINITY), true);
    assert.equal(awaitStage(words, 0, 0, SPINS, Number.POSITIVE_INFINITY), false);
  });

  for (const spins of [SPINS, 0]) {
    test(`is broken by who waits in vain, after ${spins} looks; what was passed still counts`, () => {
      const words = sharedIntegers(RENDEZVOUS_WORDS);
      passStage(words, 0, 0);
      assert.equal(awaitStage(words, 0, 2, spins, 1), false);
      assert.equal(awaitStage(words, 0, 3, spins, Number.POSITIVE_INFINITY), false, 'nobody waits');
      assert.equal(passStage(words, 0, 1), false);
      assert.equal(stagesPassed(words, 0), 1);
    });
  }
});
