/**
 * Whose line it is, when the line does not say.
 *
 * With `-f -o` every line begins with the id of its thread. Without `-o` a line names its thread only
 * while strace follows several: the first process runs without a name until it has a child, and after
 * the others have ended the last one runs without a name again. A log of `strace` without `-f` names
 * nobody at all.
 *
 * @module
 */

/** The thread of lines that name none, as long as no line has named it. */
export const UNNAMED_PID = 0;

/** Anything of the log that belongs to a thread, and may learn its name late. */
export interface Owned {
  pid: number;
}

/** What the first unnamed thread is in the middle of, as far as it tells whose a named line is. */
export interface UnnamedState {
  /** Name of its call that is not finished, or empty. */
  readonly openCall: string;
  /** Name of the call that the line at hand resumes, or empty. */
  readonly resumes: string;
}

export class LinePids {
  readonly #named = new Set<number>();
  readonly #alive = new Set<number>();
  readonly #children = new Set<number>();
  #owned: Owned[] = [];
  #unnamedIsAlive = false;

  /** The thread of a line that names none, or undefined if it could be one of several. */
  bare(): number | undefined {
    const known = this.#alive.size;
    if (known === 0) {
      this.#unnamedIsAlive = true;
      return UNNAMED_PID;
    }
    if (known > 1 || this.#unnamedIsAlive) return undefined;
    const [only] = this.#alive;
    return only;
  }

  /** Notes a line that names its thread. True if that is the one unnamed so far: see `adopt`. */
  name(pid: number, unnamed: UnnamedState): boolean {
    if (this.#named.has(pid)) return false;
    this.#named.add(pid);
    this.#alive.add(pid);
    if (!this.#unnamedIsAlive || this.#children.has(pid)) return false;
    // in the middle of a call it can only resume it: any other line is of a child it is just making
    return unnamed.openCall === '' || unnamed.openCall === unnamed.resumes;
  }

  /** Remembers what belongs to the unnamed thread, so that it gets the name with it. */
  own(thing: Owned): void {
    if (thing.pid === UNNAMED_PID) this.#owned.push(thing);
  }

  /** Gives the unnamed thread its name. */
  adopt(pid: number): void {
    for (const thing of this.#owned) thing.pid = pid;
    this.#owned = [];
    this.#unnamedIsAlive = false;
  }

  /** A call returned the id of a new thread. */
  born(pid: number): void {
    this.#children.add(pid);
  }

  ended(pid: number): void {
    if (pid === UNNAMED_PID) this.#unnamedIsAlive = false;
    this.#alive.delete(pid);
    this.#named.delete(pid);
    this.#children.delete(pid);
  }
}
