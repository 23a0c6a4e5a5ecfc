/**
 * What is being measured, on stderr, where somebody is looking: a line that is taken away again.
 *
 * @module
 */

const CLEAR = '\r\x1b[K';

/** `yardstick: 2 of 6, pair 3 …` */
export function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`${CLEAR}${text} …`);
}

/** Takes the line away. */
export function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write(CLEAR);
}
