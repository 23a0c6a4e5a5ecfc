/**
 * The stack of whoever asks, as the engine writes it.
 *
 * @module
 */

/**
 * The frames of whoever calls `above`, innermost first, as lines `    at name (position)`; `max` of them at most.
 * Takes some microseconds.
 */
export function framesAbove(above: (...args: never) => unknown, max: number): string[] {
  const holder: { stack?: string } = {};
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = max;
  Error.captureStackTrace(holder, above);
  Error.stackTraceLimit = limit;
  return (holder.stack ?? '').split('\n').filter((line) => line.startsWith('    at '));
}
