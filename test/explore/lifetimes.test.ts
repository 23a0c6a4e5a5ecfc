/**
 * The programs over the ends of address spaces as they ship: nothing fails, and everything that may happen does.
 *
 * @module
 */
import { describe } from 'node:test';

import { LIFETIME_PROGRAMS } from '../../src/explore/programs/list-lifetime.js';
import { DESIGN_PROGRAMS } from '../../src/explore/programs/mirror-designs.js';
import { OOM_PROGRAMS } from '../../src/explore/programs/oom.js';
import { lt24 } from '../../src/explore/programs/secondary-tlb.js';
import { soundPrograms } from '../support/exploration.js';

const PROGRAMS = [...LIFETIME_PROGRAMS, ...DESIGN_PROGRAMS, ...OOM_PROGRAMS, lt24];

describe('every program over the ends of address spaces', () => {
  soundPrograms(PROGRAMS);
});
