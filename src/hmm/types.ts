/**
 * Layouts of the HMM layer.
 *
 * @module
 */
import { address, pointer, type Ptr, struct, word } from '../memory/layout.js';

/** What a driver wants to know of a range of pages, and what it is told. @kernel struct hmm_range */
export const HmmRange = struct('hmm_range', {
  start: address, // of the first page; unit: bytes
  end: address, // exclusive
  cursor: address, // hmmRangeFault's own: the address it looks at
  notifier: pointer<'mmu_interval_notifier'>(),
  notifierSeq: word, // from mmuIntervalReadBegin
  pfns: word, // an HmmPfn for each page: in, what is wanted; out, what is there
  defaultFlags: word, // HMM_PFN_REQ_* wanted of every page
  pfnFlagsMask: word, // which of the request bits in `pfns` count
  devPrivateOwner: word, // whose device-private pages are reported as they are
  done: word, // hmmRangeFault's own: pages before this one are outputs already
});
export type HmmRange = Ptr<'hmm_range'>;

/**
 * One page of a range:
 *
 *   31 .............. 12   7 ....... 3   2       1       0
 *   frame number           order         error   write   valid
 *
 * The second word is the generation of the frame. As a request, `valid` asks for the page to be present
 * and `write` for it to be writable.
 */
export const HmmPfn = struct('hmm_pfn', {
  entry: word,
  generation: word,
});
export type HmmPfn = Ptr<'hmm_pfn'>;

export const HMM_PFN_VALID = 1 << 0;
export const HMM_PFN_WRITE = 1 << 1;
export const HMM_PFN_ERROR = 1 << 2;
export const HMM_PFN_ORDER_SHIFT = 3;
export const HMM_PFN_ORDER_MASK = 31 << HMM_PFN_ORDER_SHIFT;
export const HMM_PFN_SHIFT = 12;
/** Flags of a request. */
export const HMM_PFN_REQ_FAULT = HMM_PFN_VALID;
export const HMM_PFN_REQ_WRITE = HMM_PFN_WRITE;
