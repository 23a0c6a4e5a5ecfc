/**
 * A progress bar with an estimate of what is left, on stderr. Silent where nobody watches.
 *
 * @module
 */
import { Presets, SingleBar } from 'cli-progress';

export interface Progress {
  /** How much is done, 0 to 1, and what is being done. */
  readonly update: (done: number, label: string) => void;
  /** Takes the bar away. */
  readonly stop: () => void;
}

const STEPS = 1000;
/** Short, so that the line fits on a terminal of 80 characters. */
const BAR_WIDTH = 20;

/** Starts a bar if stderr is a terminal. */
export function startProgress(): Progress {
  if (!process.stderr.isTTY) return { update: () => undefined, stop: () => undefined };
  const bar = new SingleBar(
    {
      format: '{bar} {percentage} % · {eta_formatted} left · {label}',
      barsize: BAR_WIDTH,
      hideCursor: true,
      clearOnComplete: true,
      stream: process.stderr,
      etaBuffer: 20,
    },
    Presets.shades_classic,
  );
  bar.start(STEPS, 0, { label: '' });
  return {
    update: (done, label) => {
      bar.update(Math.round(done * STEPS), { label });
    },
    stop: () => {
      bar.stop();
    },
  };
}
