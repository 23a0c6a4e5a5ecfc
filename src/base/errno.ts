/**
 * Error numbers with Linux's values; kernel functions return them negated.
 *
 * @module
 */

export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const EBADF = 9;
export const EAGAIN = 11;
/** Another name of EAGAIN, for who would have to wait and may not. */
export const EWOULDBLOCK = EAGAIN;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const EMFILE = 24;
export const ENOSPC = 28;
export const ERANGE = 34;
export const EOVERFLOW = 75;
export const EOPNOTSUPP = 95;
/** Interrupted by a signal; the call would be restarted. */
export const ERESTARTSYS = 512;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries({
    EPERM,
    ENOENT,
    ESRCH,
    EINTR,
    EIO,
    ENXIO,
    EBADF,
    EAGAIN,
    ENOMEM,
    EACCES,
    EFAULT,
    EBUSY,
    EEXIST,
    ENODEV,
    EINVAL,
    EMFILE,
    ENOSPC,
    ERANGE,
    EOVERFLOW,
    EOPNOTSUPP,
    ERESTARTSYS,
  }).map(([name, value]) => [value, name]),
);

/** Linux answers no number beyond this. */
export const MAX_ERRNO = 4095;

/** `-14` reads `-EFAULT`; a value that is no known error reads as the number it is. */
export function errnoName(result: number): string {
  const name = NAMES.get(-result);
  return name === undefined ? String(result) : `-${name}`;
}

/** The negated error number for `EFAULT`, or undefined for a name that is not known here. */
export function errnoValue(name: string): number | undefined {
  for (const [value, known] of NAMES) if (known === name) return -value;
  return undefined;
}
