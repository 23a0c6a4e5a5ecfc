import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import { FaultlineError } from '../../src/base/bug.js';
import { STEPS_MAX, TASKS_MAX } from '../../src/explore/control.js';
import {
  formatSchedule,
  parseSchedule,
  replayLine,
  type Schedule,
} from '../../src/explore/schedule.js';

const name = fc.stringMatching(/^[\w./-]{1,12}$/);
const ascending = (max: number, maxLength: number) =>
  fc
    .uniqueArray(fc.nat({ max }), { maxLength })
    .map((numbers) => numbers.sort((one, other) => one - other));

const schedules: fc.Arbitrary<Schedule> = fc
  .record(
    {
      program: name,
      mutants: fc.array(name, { maxLength: 3 }),
      operations: fc.array(ascending(12, 6), { minLength: 1, maxLength: 4 }),
      stepLimit: fc.integer({ min: 1, max: STEPS_MAX }),
      steps: ascending(STEPS_MAX - 1, 8),
      tasks: fc.array(fc.nat({ max: TASKS_MAX - 1 }), { minLength: 8, maxLength: 8 }),
      check: fc.nat({ max: 0xff_ff_ff }),
    },
    { requiredKeys: ['program', 'mutants', 'steps', 'tasks', 'check'] },
  )
  .map(({ steps, tasks, ...rest }) => ({
    ...rest,
    deviations: steps.map((step, i) => ({ step, task: tasks[i]! })),
  }));

const bad = (text: string, pattern: RegExp): void => {
  assert.throws(
    () => parseSchedule(text),
    (error: unknown) => {
      assert.ok(error instanceof FaultlineError, String(error));
      assert.equal(error.code, 'FAULTLINE_BAD_SCHEDULE');
      assert.match(error.message, pattern);
      return true;
    },
    text,
  );
};

describe('a schedule as a string', () => {
  test('is what it was made from, after reading', () => {
    fc.assert(
      fc.property(schedules, (schedule) => {
        assert.deepEqual(parseSchedule(formatSchedule(schedule)), schedule);
      }),
    );
  });

  test('is written in one way', () => {
    fc.assert(
      fc.property(schedules, (schedule) => {
        const text = formatSchedule(schedule);
        assert.equal(formatSchedule(parseSchedule(text)), text);
      }),
    );
  });

  test('shows program, mutants, options, switches and check', () => {
    const text = formatSchedule({
      program: 'lt-5',
      mutants: ['M-4'],
      operations: [[0, 1, 2, 5], [0], []],
      stepLimit: 90,
      deviations: [
        { step: 12, task: 1 },
        { step: 15, task: 0 },
      ],
      check: 0xa1b2c3,
    });
    assert.equal(text, 'lt-5+M-4:ops=0-2.5/0/-,steps=90@12>1.15>0~a1b2c3');
    assert.equal(replayLine(text), `faultline replay '${text}'`);
    assert.equal(
      formatSchedule({ program: 'x', mutants: [], deviations: [], check: 5 }),
      'x~000005',
    );
  });

  test('that is cut off or mistyped is refused with the place and what belongs there', () => {
    bad('', /character 1 should be the name of a program, but it ends there/);
    bad('lt-5+@1>0~000000', /character 6 should be the name of a mutant after '\+'/);
    bad('lt-5@12', /character 8 should be '>' and a task after the step, but it ends there/);
    bad('lt-5@12>1', /character 10 should be '\.' or '~' \(a schedule ends with ~/);
    bad('lt-5@12>x~000000', /character 9 should be a task after '>', but there is "x~000000"/);
    bad('lt-5@12>99~000000', /character 9 should be a task after '>', from 0 to 15/);
    bad('lt-5@12>1.12>0~000000', /character 11 should be the step of a switch, from 13 to/);
    bad('lt-5~a1b2', /character 10 should be 6 hexadecimal digits/);
    bad('lt-5~a1b2c3x', /character 12 should be the end of the schedule, but there is "x"/);
    bad('lt-5:speed=3~000000', /character 6 should be an option: 'ops'/);
    bad('lt-5:steps=1,steps=2~000000', /character 14 should be another option than steps/);
    bad('lt-5:ops=2-1~000000', /character 12 should be the last operation of the range/);
    bad('lt-5:ops=0/~000000', /character 12 should be the number of an operation, or '-'/);
    bad('a program~000000', /character 2 should be '\+', ':', '@' or '~'/);
  });

  test('is not made of names that it could not be read from', () => {
    assert.throws(() => formatSchedule({ program: 'a b', mutants: [], deviations: [], check: 0 }), {
      code: 'FAULTLINE_BAD_SCHEDULE',
      message: /"a b" cannot be in a schedule/,
    });
  });

  test('never fails to be read in another way than that', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-c+:@~>.=,/0-9-]{0,24}$/), (text) => {
        try {
          parseSchedule(text);
        } catch (error) {
          assert.ok(error instanceof FaultlineError, String(error));
        }
      }),
    );
  });
});
