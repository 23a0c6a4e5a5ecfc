/**
 * A process with a virtual engine: finds schedules of a program, or replays those on its stdin, and prints
 * what they came to.
 *
 *   node --conditions=faultline-turnstile virtual-process.js find lt-5 20
 *   node --conditions=faultline-turnstile virtual-process.js replay lt-5 < schedules.json
 *
 * @module
 */
import { readFileSync } from 'node:fs';

import { findSchedules, type Found, newVirtualEngine, replaySchedules } from './explorers.js';

const [, , what, name = '', count = '0'] = process.argv;
const engine = await newVirtualEngine(name);
const found =
  what === 'find'
    ? findSchedules(engine, { name, plans: Number(count) })
    : replaySchedules(engine, {
        name,
        schedules: JSON.parse(readFileSync(0, 'utf8')) as Found[],
      });
console.log(JSON.stringify(found));
