/**
 * Ctrl-C: the first ends the measurement, the second the process.
 *
 * @module
 */
import { EXIT_INTERRUPTED } from '../base/bug.js';

export interface Interrupt {
  /** Aborted by the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** Lets the signals mean again what they mean elsewhere. */
  readonly dispose: () => void;
}

/** Starts to listen. */
export function onInterrupt(): Interrupt {
  const controller = new AbortController();
  const handler = (): void => {
    if (controller.signal.aborted) process.exit(EXIT_INTERRUPTED);
    controller.abort();
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return {
    signal: controller.signal,
    dispose: () => {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
}
