/**
 * Layouts of the test device.
 *
 * @module
 */
import { HmmPfn, HmmRange } from '../../hmm/types.js';
import { address, cacheline, pointer, type Ptr, struct, word, words } from '../../memory/layout.js';
import { MmuIntervalNotifier } from '../../notifier/types.js';
import { Rwsem } from '../../sync/rwsem.js';
import { CHUNK_PAGES } from '../svm/types.js';

/** One of the devices. @kernel struct dmirror_device */
export const DmirrorDevice = struct('dmirror_device', {
  svm: pointer<'svm_device'>(), // what opens address spaces, maps and migrates
  memorySem: Rwsem, // for reading: its memory stays; for writing: it comes or goes
  devmem: pointer<'devmem'>(), // its memory; NULL after a release, until a command; under memorySem
  type: word, // of its memory: MEMORY_DEVICE_PRIVATE or MEMORY_DEVICE_COHERENT
  owner: word, // of its memory; 1 for the first device
  offset: word, // where its memory is in the machine's device memory; unit: pages
  pages: word,
});
export type DmirrorDevice = Ptr<'dmirror_device'>;

/** What a program asks of an open device, and what it is told. @kernel struct hmm_dmirror_cmd */
export const DmirrorCmd = struct('hmm_dmirror_cmd', {
  addr: address, // of the first page
  npages: word,
  buffer: word, // words: contents of the pages, or (snapshot) a word of HMM_DMIRROR_PROT_* for each
  cpages: word, // out: pages that were copied, or migrated
  faults: word, // out: rounds in which the device had to fault
});
export type DmirrorCmd = Ptr<'hmm_dmirror_cmd'>;

/** What a snapshot of some pages needs. @kernel struct dmirror_interval */
export const DmirrorSnapshot = struct('dmirror_interval', {
  interval: MmuIntervalNotifier, // over these pages, as long as the look takes
  line1: cacheline,
  range: HmmRange,
  context: pointer<'svm_context'>(),
  pfns: words(CHUNK_PAGES * HmmPfn.words),
});
export type DmirrorSnapshot = Ptr<'dmirror_interval'>;
