/**
 * The programs over address spaces as they ship: nothing fails, and everything that may happen does.
 *
 * @module
 */
import { describe } from 'node:test';

import { SPACE_PROGRAMS } from '../../src/explore/programs/address-space.js';
import { soundPrograms } from '../support/exploration.js';

describe('every program over address spaces', () => {
  soundPrograms(SPACE_PROGRAMS);
});
