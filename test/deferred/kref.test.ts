import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  Kref,
  krefGet,
  krefGetUnlessZero,
  krefInit,
  krefPut,
  krefRead,
} from '../../src/deferred/kref.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { warningTexts } from '../../src/machine/warn.js';
import { bootCpu, place } from '../support/machine.js';

test('who has a reference gets another, the put of the last releases, and then there is none to be had', () => {
  const cpu = bootCpu();
  const kref = place(cpu, Kref);
  const released: Kref[] = [];
  const put = (): boolean =>
    krefPut(cpu, kref, (_cpu: Cpu, last: Kref) => void released.push(last));
  krefInit(cpu, kref);
  assert.equal(krefRead(cpu, kref), 1);
  krefGet(cpu, kref);
  assert.ok(krefGetUnlessZero(cpu, kref));
  assert.equal(krefRead(cpu, kref), 3);
  assert.deepEqual([put(), put()], [false, false]);
  assert.deepEqual(released, []);
  assert.equal(put(), true);
  assert.deepEqual(released, [kref], 'I1');
  assert.equal(krefGetUnlessZero(cpu, kref), false);
  assert.equal(krefRead(cpu, kref), 0);
  assert.deepEqual(warningTexts(cpu), []);
});

test('a put too many releases nothing', () => {
  const cpu = bootCpu();
  const kref = place(cpu, Kref);
  let releases = 0;
  const put = (): boolean =>
    krefPut(cpu, kref, () => {
      releases++;
    });
  krefInit(cpu, kref);
  assert.equal(put(), true);
  assert.equal(put(), false);
  assert.equal(releases, 1, 'I1');
  assert.match(warningTexts(cpu)[0] ?? '', /underflow/);
});
