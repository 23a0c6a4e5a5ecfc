/**
 * The contents of frames, word by word.
 *
 * @module
 */
import { PAGE_WORDS } from '../base/units.js';
import { element, type Field, type Ptr, struct, words } from '../memory/layout.js';

/** A frame's contents. */
export const Frame = struct('frame', { contents: words(PAGE_WORDS) });
export type Frame = Ptr<'frame'>;

/** Word `index` of a frame. */
export function frameWord(index: number): Field<'frame'> {
  return element(Frame.contents, index);
}
