/**
 * Why something failed, in one line for people.
 *
 * @module
 */
import { getSystemErrorMap } from 'node:util';

/** Whatever was thrown, as text: also what cannot be made one. */
export function textOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? thrown.message : String(thrown);
  } catch {
    return `something of type ${typeof thrown}`;
  }
}

/** `no such file or directory` for an error of the system, else the first line of its message. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return firstLine(textOf(error));
  const { errno, path, syscall } = error as NodeJS.ErrnoException;
  const known = errno === undefined ? undefined : getSystemErrorMap().get(errno);
  if (known === undefined || (path === undefined && syscall === undefined)) {
    return firstLine(error.message);
  }
  return known[1];
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}
