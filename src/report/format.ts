/**
 * Numbers as people read them.
 *
 * @module
 */

/** `8.21 M`, `931 k`, `12`. */
export function formatCount(value: number): string {
  if (value >= 1e9) return `${significant(value / 1e9)} G`;
  if (value >= 1e6) return `${significant(value / 1e6)} M`;
  if (value >= 1e4) return `${significant(value / 1e3)} k`;
  return String(Math.round(value));
}

/** `95 ns`, `1.23 µs`, `4.5 ms`. */
export function formatNs(ns: number): string {
  if (ns >= 1e9) return `${significant(ns / 1e9)} s`;
  if (ns >= 1e6) return `${significant(ns / 1e6)} ms`;
  if (ns >= 1e3) return `${significant(ns / 1e3)} µs`;
  return `${Math.round(ns)} ns`;
}

/** `12.3 %`, of a share between 0 and 1. */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}

/** `±`: `2.3 %`, of percents; a margin that says nothing is `> 100 %`. */
export function formatMargin(percent: number): string {
  return percent > 100 ? '> 100 %' : `${percent.toFixed(1)} %`;
}

/** `1 page`, `16 pages`; `plural` for words that do not just take an s. */
export function countOf(count: number, word: string, plural = `${word}s`): string {
  return `${count} ${count === 1 ? word : plural}`;
}

function significant(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}
