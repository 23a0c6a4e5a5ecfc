/**
 * The selftests of the kernel's test device, by their names, with private and with coherent memory.
 *
 * Written from descriptions of what each verifies. Those that need hugetlb say so and are skipped.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';

import { MEMORY_DEVICE_COHERENT, MEMORY_DEVICE_PRIVATE } from '../../src/memremap/pagemap.js';
import {
  runSelftests,
  SELFTEST_NAMES,
  serve,
  TeardownArena,
  unmapHalf,
} from '../programs/dmirror.js';
import { programUrl, runProgram } from '../support/crew.js';
import { bootMirrors, DEVICE_BYTES, MIRROR_RAM_BYTES } from '../support/dmirror.js';
import { place } from '../support/machine.js';

const TYPES = { private: MEMORY_DEVICE_PRIVATE, coherent: MEMORY_DEVICE_COHERENT } as const;

/** What needs memory that is not emulated. */
const HUGETLB = ['anon_write_hugetlbfs', 'compound'];

for (const [name, type] of Object.entries(TYPES)) {
  describe(`the kernel's selftests, with ${name} memory:`, () => {
    let outcomes: Record<string, string> = {};
    before(async () => {
      const { results } = await runProgram({
        cpus: 3,
        ramBytes: MIRROR_RAM_BYTES,
        deviceBytes: DEVICE_BYTES,
        module: programUrl('dmirror'),
        entry: [runSelftests.name, serve.name, unmapHalf.name],
        watchdog: { stallMs: 60_000 },
        setup: (cpu) => {
          bootMirrors(cpu);
          return { type, arena: place(cpu, TeardownArena) };
        },
      });
      outcomes = results[0]!.value as typeof outcomes;
    });
    for (const title of SELFTEST_NAMES)
      test(title, () => {
        assert.equal(outcomes[title], '');
      });
    for (const title of HUGETLB) test(title, { skip: 'there is no hugetlb' }, () => undefined);
  });
}
