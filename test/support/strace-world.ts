/**
 * Invents programs, runs them on a naive model of a kernel, and writes the log that strace would have
 * written of them. What really happened is kept beside the log.
 *
 * Programs behave as programs do: a thread unmaps and remaps only what it mapped itself, the break is
 * moved by one thread at a time, a new program asks for its break first. With `overlapping`, calls of
 * different threads are in flight together and take effect at any moment between.
 *
 * @module
 */

const PAGE = 4096;
const MMAP_BASE = 0x7f0000000;
const MMAP_PAGES = 40;
const SPARE_BASE = 0x7e0000000;
const IMAGE_BASE = 0x400;
const IMAGE_PAGES = 8;
const HEAP_BASE = 0x550000000;
const THREADS_MAX = 6;
const THREAD_FLAGS = 'CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SETTLS';

/** What one exec mapped by itself. */
export interface TrueImage {
  readonly startBrk: number;
  /** Its pages (numbers) that some call of the log proves. */
  readonly proven: Set<number>;
}

export interface TrueStory {
  readonly log: string;
  readonly tasks: number;
  readonly processes: number;
  readonly forks: number;
  readonly images: readonly TrueImage[];
  /** Calls that the log shows no result of, but exits. */
  readonly cut: number;
}

interface Mm {
  readonly pages: Set<number>;
  readonly image: TrueImage;
  readonly isCopy: boolean;
  brk: number;
  isBrkMoving: boolean;
}

interface Process {
  readonly threads: Set<Thread>;
}

interface Thread {
  tid: number;
  readonly isLeader: boolean;
  readonly process: Process;
  mm: Mm;
  readonly owned: Set<number>;
  call: Call | undefined;
  /** Who lent it the address space until its exec. */
  lender: Thread | undefined;
  isNewProgram: boolean;
}

interface Call {
  readonly name: string;
  readonly args: string;
  readonly effect: () => string;
  result: string | undefined;
  /** A vfork returns only when the child has let go. */
  isHeld: boolean;
}

type Event = { readonly tid: number; readonly thread: Thread } & (
  | { readonly type: 'start' | 'end'; readonly call: Call }
  | { readonly type: 'note'; readonly text: string }
);

function hex(page: number): string {
  return `0x${(page * PAGE).toString(16)}`;
}

const BIRTHS: ReadonlySet<string> = new Set(['clone', 'clone3', 'fork', 'vfork']);
const NO_MEMORY = '-1 ENOMEM (Cannot allocate memory)';

/** Tells a story; `decisions` decide everything, in turn. */
export function inventStory(decisions: readonly number[], overlapping: boolean): TrueStory {
  return new World(decisions, overlapping).tell();
}

class World {
  readonly #decisions: readonly number[];
  readonly #overlapping: boolean;
  readonly #events: Event[] = [];
  readonly #threads = new Set<Thread>();
  readonly #images: TrueImage[] = [];
  readonly #freeTids: number[] = [];
  #at = 0;
  #nextTid = 100;
  #spare = SPARE_BASE;
  #tasks = 0;
  #processes = 0;
  #forks = 0;
  #cut = 0;

  constructor(decisions: readonly number[], overlapping: boolean) {
    this.#decisions = decisions;
    this.#overlapping = overlapping;
  }

  tell(): TrueStory {
    const first = this.#newThread({ threads: new Set() }, this.#newProgram(), true);
    first.isNewProgram = true;
    this.#processes++;
    while (this.#at < this.#decisions.length && this.#threads.size > 0) this.#step();
    // a vfork that is never seen to return would leave its child without a parent
    const isVforking = [...this.#threads].some(({ call }) => call?.isHeld === true);
    if (isVforking || this.#choose(2) === 0) this.#endAll();
    else this.#cutShort();
    return {
      log: render(this.#events, (count) => this.#choose(count)),
      tasks: this.#tasks,
      processes: this.#processes,
      forks: this.#forks,
      images: this.#images,
      cut: this.#cut,
    };
  }

  #choose(count: number): number {
    const decision = this.#decisions[this.#at++ % Math.max(this.#decisions.length, 1)] ?? 0;
    return decision % count;
  }

  #pick<T>(items: readonly T[]): T | undefined {
    return items[this.#choose(Math.max(items.length, 1))];
  }

  #step(): void {
    const busy = [...this.#threads].filter(({ call }) => call !== undefined && !call.isHeld);
    const candidates =
      !this.#overlapping && busy.length > 0
        ? busy
        : [...this.#threads].filter(({ call }) => call?.isHeld !== true);
    const thread = this.#pick(candidates);
    if (thread === undefined) return;
    const { call } = thread;
    if (call === undefined) this.#act(thread);
    else if (call.result === undefined) call.result = call.effect();
    else this.#finish(thread, call);
  }

  #finish(thread: Thread, call: Call): void {
    thread.call = undefined;
    if (call.name === 'brk' && call.args !== 'NULL') thread.mm.isBrkMoving = false;
    this.#events.push({ type: 'end', tid: thread.tid, thread, call });
  }

  #start(thread: Thread, name: string, args: string, effect: () => string): Call {
    const call: Call = { name, args, effect, result: undefined, isHeld: false };
    thread.call = call;
    this.#events.push({ type: 'start', tid: thread.tid, thread, call });
    return call;
  }

  #act(thread: Thread): void {
    if (thread.isNewProgram) {
      thread.isNewProgram = false;
      this.#askBreak(thread);
    } else if (thread.lender !== undefined) {
      // a vfork's child does little before it lets go of its parent's memory
      const what = this.#choose(4);
      if (what < 2) this.#use(thread);
      else if (what === 2) this.#exec(thread);
      else this.#exitGroup(thread);
    } else {
      this.#actFreely(thread);
    }
  }

  #actFreely(thread: Thread): void {
    const what = this.#choose(60);
    if (what < 14) this.#map(thread);
    else if (what < 24) this.#unmap(thread);
    else if (what < 34) this.#use(thread);
    else if (what < 40) this.#moveBreak(thread);
    else if (what < 42) this.#askBreak(thread);
    else if (what < 47) this.#remap(thread);
    else if (what < 53) this.#bear(thread);
    else if (what < 54) this.#exec(thread);
    else if (what < 57) this.#mapOver(thread);
    else if (what < 58) this.#note(thread, '--- SIGCHLD {si_signo=SIGCHLD, si_pid=1} ---');
    else if (what < 59 || this.#threads.size > 1) this.#exit(thread);
  }

  #map(thread: Thread): void {
    const count = 1 + this.#choose(5);
    const length = count * PAGE - this.#choose(2) * 100;
    const isFile = this.#choose(3) === 0;
    const backing = isFile
      ? `MAP_PRIVATE, ${3 + this.#choose(2)}`
      : 'MAP_PRIVATE|MAP_ANONYMOUS, -1';
    this.#start(thread, 'mmap', `NULL, ${length}, PROT_READ|PROT_WRITE, ${backing}, 0`, () => {
      const page = this.#freePlace(thread.mm, count);
      this.#fill(thread, page, count);
      return hex(page);
    });
  }

  /** MAP_FIXED over what the thread has, or MAP_FIXED_NOREPLACE, which that refuses. */
  #mapOver(thread: Thread): void {
    const run = this.#ownRun(thread);
    if (run === undefined) return;
    const [page, count] = run;
    const replaces = this.#choose(2) === 0;
    const flag = replaces ? 'MAP_FIXED' : 'MAP_FIXED_NOREPLACE';
    const args = `${hex(page)}, ${count * PAGE}, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS|${flag}, -1, 0`;
    this.#start(thread, 'mmap', args, () => {
      if (!replaces && hasAny(thread.mm, page, count)) return '-1 EEXIST (File exists)';
      this.#fill(thread, page, count);
      return hex(page);
    });
  }

  #unmap(thread: Thread): void {
    const takesImage = this.#choose(6) === 0 && !thread.mm.isCopy;
    const run: readonly [number, number] | undefined = takesImage
      ? [IMAGE_BASE + this.#choose(IMAGE_PAGES), 1]
      : this.#ownRun(thread);
    if (run === undefined) return;
    const [page, count] = run;
    for (let i = 0; i < count; i++) thread.owned.delete(page + i);
    this.#start(thread, 'munmap', `${hex(page)}, ${count * PAGE}`, () => {
      for (let i = 0; i < count; i++) thread.mm.pages.delete(page + i);
      return '0';
    });
  }

  /** Any call that fails on a hole and changes nothing else. */
  #use(thread: Thread): void {
    const place = this.#placeToUse(thread);
    if (place === undefined) return;
    const [page, count] = place;
    const range = `${hex(page)}, ${count * PAGE}`;
    const form = this.#pick([
      ['mprotect', `${range}, PROT_READ`],
      ['madvise', `${range}, MADV_DONTNEED`],
      ['mlock', range],
      ['munlock', range],
      ['mlock2', `${range}, MLOCK_ONFAULT`],
      ['msync', `${range}, MS_ASYNC`],
      ['mincore', `${range}, [1, 1, 1]`],
      ['pkey_mprotect', `${range}, PROT_READ|PROT_WRITE, -1`],
    ] as const)!;
    this.#start(thread, form[0], form[1], () => {
      if (!hasAll(thread.mm, page, count)) return NO_MEMORY;
      for (let i = page; i < page + count; i++) {
        if (i < IMAGE_BASE + IMAGE_PAGES) thread.mm.image.proven.add(i);
      }
      return '0';
    });
  }

  #placeToUse(thread: Thread): readonly [number, number] | undefined {
    const count = 1 + this.#choose(3);
    if (this.#choose(3) === 0) {
      const first = this.#choose(IMAGE_PAGES);
      return [IMAGE_BASE + first, Math.min(count, IMAGE_PAGES - first)];
    }
    // what other threads were about to map when a fork copied is not for the child to know
    if (thread.mm.isCopy || this.#choose(2) === 0) return this.#ownRun(thread);
    return [MMAP_BASE + this.#choose(MMAP_PAGES), count];
  }

  #remap(thread: Thread): void {
    const run = this.#ownRun(thread);
    if (run === undefined) return;
    const [page, count] = run;
    const newCount = 1 + this.#choose(6);
    const canMove = this.#choose(3) > 0;
    for (let i = 0; i < count; i++) thread.owned.delete(page + i);
    const flags = canMove ? 'MREMAP_MAYMOVE' : '0';
    const args = `${hex(page)}, ${count * PAGE}, ${newCount * PAGE}, ${flags}`;
    this.#start(thread, 'mremap', args, () =>
      this.#doRemap(thread, page, count, newCount, canMove),
    );
  }

  #doRemap(
    thread: Thread,
    page: number,
    count: number,
    newCount: number,
    canMove: boolean,
  ): string {
    const { mm } = thread;
    const grows = newCount > count;
    const staysPut = !grows || !hasAny(mm, page + count, newCount - count);
    const target = staysPut ? page : canMove ? this.#freePlace(mm, newCount) : undefined;
    if (target === undefined) {
      for (let i = 0; i < count; i++) thread.owned.add(page + i);
      return NO_MEMORY;
    }
    for (let i = 0; i < count; i++) mm.pages.delete(page + i);
    this.#fill(thread, target, newCount);
    return hex(target);
  }

  #askBreak(thread: Thread): void {
    this.#start(thread, 'brk', 'NULL', () => `0x${thread.mm.brk.toString(16)}`);
  }

  #moveBreak(thread: Thread): void {
    const { mm } = thread;
    if (mm.isBrkMoving || isForking(thread)) return;
    mm.isBrkMoving = true;
    const target = mm.brk + (this.#choose(9) - 3) * 0x800;
    this.#start(thread, 'brk', `0x${target.toString(16)}`, () => {
      if (target >= mm.image.startBrk) mm.brk = target;
      return `0x${mm.brk.toString(16)}`;
    });
  }

  #bear(thread: Thread): void {
    if (this.#threads.size >= THREADS_MAX) return;
    const how = this.#choose(4);
    if (how === 0)
      this.#fork(thread, 'clone', 'child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD');
    else if (how === 1) this.#fork(thread, 'fork', '');
    else if (how === 2) this.#vfork(thread);
    else this.#startThread(thread);
  }

  #fork(thread: Thread, name: string, args: string): void {
    if (thread.mm.isBrkMoving) return;
    this.#start(thread, name, args, () => {
      const { mm } = thread;
      const copy = { ...mm, pages: new Set(mm.pages), isCopy: true, isBrkMoving: false };
      const child = this.#newThread({ threads: new Set() }, copy, true);
      for (const page of thread.owned) child.owned.add(page);
      this.#forks++;
      this.#processes++;
      return String(child.tid);
    });
  }

  #vfork(thread: Thread): void {
    const call = this.#start(thread, 'vfork', '', () => '');
    call.isHeld = true;
    const child = this.#newThread({ threads: new Set() }, thread.mm, true);
    child.lender = thread;
    this.#processes++;
    call.result = String(child.tid);
  }

  #startThread(thread: Thread): void {
    const args = `{flags=${THREAD_FLAGS}, exit_signal=0} => {parent_tid=[0]}, 88`;
    this.#start(thread, 'clone3', args, () => {
      return String(this.#newThread(thread.process, thread.mm, false).tid);
    });
  }

  #exec(thread: Thread): void {
    const others = [...thread.process.threads].filter((other) => other !== thread);
    if (others.some(isBearing)) return;
    const leader = others.find(({ isLeader }) => isLeader);
    for (const other of others) this.#die(other, other === leader ? '' : 'exited with 0');
    if (leader !== undefined) {
      const { tid } = thread;
      this.#note(leader, `+++ superseded by execve in pid ${tid} +++`);
      thread.tid = leader.tid;
      this.#freeTids.splice(this.#freeTids.indexOf(leader.tid), 1, tid);
      // from here on it is the first of its process
      this.#threads.delete(thread);
      const first = { ...thread, isLeader: true };
      thread.process.threads.delete(thread);
      thread.process.threads.add(first);
      this.#threads.add(first);
      this.#becomeProgram(first);
    } else {
      this.#becomeProgram(thread);
    }
  }

  #becomeProgram(thread: Thread): void {
    this.#letGo(thread);
    thread.mm = this.#newProgram();
    thread.owned.clear();
    thread.isNewProgram = true;
  }

  #letGo(thread: Thread): void {
    if (thread.lender?.call !== undefined) thread.lender.call.isHeld = false;
    thread.lender = undefined;
  }

  #exit(thread: Thread): void {
    if (thread.isLeader) this.#exitGroup(thread);
    else this.#die(thread, 'exited with 0');
  }

  #exitGroup(thread: Thread): void {
    const others = [...thread.process.threads].filter((other) => other !== thread);
    if (others.some(isBearing)) return;
    const isKilled = this.#choose(4) === 0;
    if (!isKilled) {
      const call = this.#start(thread, 'exit_group', '0', () => '?');
      call.result = '?';
      this.#finish(thread, call);
    }
    const how = isKilled ? 'killed by SIGSEGV (core dumped)' : 'exited with 0';
    for (const other of others) this.#die(other, how);
    this.#letGo(thread);
    this.#die(thread, how);
  }

  /** Ends a thread, also in the middle of a call. */
  #die(thread: Thread, how: string): void {
    // what the others have seen the effect of is told to the end
    if (thread.call?.result !== undefined) this.#finish(thread, thread.call);
    if (thread.call !== undefined) this.#cut++;
    if (how !== '') this.#note(thread, `+++ ${how} +++`);
    this.#threads.delete(thread);
    thread.process.threads.delete(thread);
    this.#freeTids.push(thread.tid);
  }

  /** Everybody finishes what they are in, and exits; vforked children first. */
  #endAll(): void {
    while (this.#threads.size > 0) {
      for (const thread of [...this.#threads]) {
        const { call } = thread;
        if (!this.#threads.has(thread) || call?.isHeld === true) continue;
        if (call !== undefined) {
          call.result ??= call.effect();
          this.#finish(thread, call);
        } else this.#exit(thread);
      }
    }
  }

  /** The log ends in the middle; whoever has not shown in it yet is killed, so that it does. */
  #cutShort(): void {
    const calls = this.#events.filter(({ type }) => type !== 'note');
    const seen = new Set(calls.map(({ thread }) => thread));
    for (const thread of this.#threads) {
      if (thread.call?.result !== undefined && !thread.call.isHeld)
        this.#finish(thread, thread.call);
    }
    for (const thread of [...this.#threads]) {
      if (!seen.has(thread)) this.#die(thread, 'killed by SIGKILL');
      else if (thread.call !== undefined) this.#cut++;
    }
  }

  #newProgram(): Mm {
    const startBrk = (HEAP_BASE + this.#images.length * 0x1000) * PAGE;
    const image = { startBrk, proven: new Set<number>() };
    this.#images.push(image);
    const pages = new Set<number>();
    for (let i = 0; i < IMAGE_PAGES; i++) if (this.#choose(3) > 0) pages.add(IMAGE_BASE + i);
    return { pages, image, isCopy: false, brk: startBrk, isBrkMoving: false };
  }

  #newThread(process: Process, mm: Mm, isLeader: boolean): Thread {
    const tid = this.#choose(3) === 0 ? this.#reuseTid() : this.#nextTid++;
    const thread: Thread = {
      tid,
      isLeader,
      process,
      mm,
      owned: new Set(),
      call: undefined,
      lender: undefined,
      isNewProgram: false,
    };
    process.threads.add(thread);
    this.#threads.add(thread);
    this.#tasks++;
    return thread;
  }

  /** An id that was somebody else's before, and that nobody is just about to learn as a child's. */
  #reuseTid(): number {
    const returned = new Set([...this.#threads].map(({ call }) => call?.result));
    const at = this.#freeTids.findIndex((tid) => !returned.has(String(tid)));
    return at < 0 ? this.#nextTid++ : this.#freeTids.splice(at, 1)[0]!;
  }

  #fill(thread: Thread, page: number, count: number): void {
    for (let i = page; i < page + count; i++) {
      thread.mm.pages.add(i);
      thread.owned.add(i);
    }
  }

  /** A hole among pages that are used again and again; if there is none, pages that never were. */
  #freePlace(mm: Mm, count: number): number {
    const places = Array.from({ length: MMAP_PAGES - count }, (_, i) => MMAP_BASE + i);
    const place = this.#pick(places.filter((page) => !hasAny(mm, page, count)));
    if (place !== undefined) return place;
    while (hasAny(mm, this.#spare, count)) this.#spare++;
    return this.#spare;
  }

  /** Some pages in a row that the thread has mapped: the first and how many. */
  #ownRun(thread: Thread): readonly [number, number] | undefined {
    const page = this.#pick([...thread.owned]);
    if (page === undefined) return undefined;
    let count = 1;
    while (count < 4 && thread.owned.has(page + count)) count++;
    return [page, 1 + this.#choose(count)];
  }

  #note(thread: Thread, text: string): void {
    this.#events.push({ type: 'note', tid: thread.tid, thread, text });
  }
}

/** True if the thread has a child already, but the log would not tell so if it ended now. */
function isBearing({ call }: Thread): boolean {
  return call?.result !== undefined && BIRTHS.has(call.name);
}

/** The C library moves the break under a lock that a fork takes, too. */
function isForking(thread: Thread): boolean {
  return [...thread.process.threads].some(
    ({ call }) => call !== undefined && (call.name === 'clone' || call.name === 'fork'),
  );
}

function hasAny({ pages }: Mm, page: number, count: number): boolean {
  for (let i = page; i < page + count; i++) if (pages.has(i)) return true;
  return false;
}

function hasAll({ pages }: Mm, page: number, count: number): boolean {
  for (let i = page; i < page + count; i++) if (!pages.has(i)) return false;
  return true;
}

function render(events: readonly Event[], choose: (count: number) => number): string {
  const lines: string[] = [];
  const cuts = new Map<Call, string>();
  let time = 1_700_000_000_000_000;
  for (let i = 0; i < events.length; i++) {
    const event = events[i]!;
    time += 1 + choose(500);
    const stamp = `${event.tid} ${Math.floor(time / 1e6)}.${String(time % 1e6).padStart(6, '0')}`;
    if (event.type === 'note') {
      lines.push(`${stamp} ${event.text}`);
      continue;
    }
    const { call } = event;
    const { name, args, result } = call;
    const following = events[i + 1];
    if (event.type === 'end') {
      lines.push(`${stamp} <... ${name} resumed>${cuts.get(call) ?? ''}) = ${result ?? '?'}`);
    } else if (following?.type === 'end' && following.call === call) {
      lines.push(`${stamp} ${`${name}(${args})`.padEnd(15)} = ${result ?? '?'}`);
      i++;
    } else {
      // strace prints what it knows at the beginning; of some calls that is not all
      const comma = choose(3) === 0 ? args.lastIndexOf(', ') : -1;
      const head = comma < 0 ? args : args.slice(0, comma);
      cuts.set(call, args.slice(head.length));
      lines.push(`${stamp} ${name}(${head} <unfinished ...>`);
    }
  }
  return `${lines.join('\n')}\n`;
}
