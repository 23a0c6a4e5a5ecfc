/**
 * Copies of pages between the machine's memory and that of devices: what a driver does between setup and finalize.
 *
 * Both pages are locked, and neither is mapped by anything but migration entries, so nobody writes them. A driver whose
 * device has an engine for it has the engine copy, and waits for that before it finalizes.
 *
 * @module
 */
import { copyWords, fillWords } from '#memory';

import { PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameOf, type Pfn } from '../machine/page-alloc.js';

/** Fills `to` with what is in `from`; 0 is a page that was never written. Either may be memory of a device. */
export function copyPage(cpu: Cpu, to: Pfn, from: Pfn): void {
  if (from === 0) fillWords(cpu, frameOf(cpu, to), 0, PAGE_WORDS);
  else copyWords(cpu, frameOf(cpu, to), frameOf(cpu, from), PAGE_WORDS);
}
