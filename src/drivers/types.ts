/**
 * Layouts that several drivers have.
 *
 * @module
 */
import { PercpuRef } from '../deferred/types.js';
import { type Ptr, struct } from '../memory/layout.js';
import { Completion } from '../sync/completion.js';

/** A driver's own count of users, and that it has come to 0. */
export const PagemapRef = struct('pagemap_ref', {
  ref: PercpuRef,
  done: Completion,
});
export type PagemapRef = Ptr<'pagemap_ref'>;
