/**
 * Layouts of what the emulated hardware and the lowest kernel layer keep in shared memory.
 *
 * Memory map, in this order: an empty line (so that 0 is NULL), the Machine, one CpuArea per CPU, the
 * per-CPU region, one Page per frame, the frames, the swap area, the graph of lock orders. Behind the frames of memory
 * come those of devices, with their Pages: they are numbered on.
 *
 * @module
 */
import {
  AddressCell,
  cacheline,
  CACHELINE_WORDS,
  type Ptr,
  struct,
  word,
  words,
} from '../memory/layout.js';

/**
 * Every lock that a CPU can hold keeps its class in this word of its struct, so that a report can name
 * a lock of which it only has the address.
 */
export const LOCK_CLASS_WORD = 1;

/** A spinlock; machine/arch-spinlock.ts has the protocol. */
export const Spinlock = struct('spinlock', {
  value: word, // 0 free, 1 held, 2 held and somebody is parked
  lockClass: word, // its lock class (machine/lock-class.ts); written once
});
export type Spinlock = Ptr<'spinlock'>;

/** What CPUs wait for that is no lock, and is called something in reports. */
export const Waited = struct('waited', {
  unused: word,
  lockClass: word, // its name; written once
});
export type Waited = Ptr<'waited'>;

/** Wait queues a CPU may be in at once. */
export const WAIT_ENTRIES_MAX = 4;
/** Words of one entry of a wait queue; sync/wait-queue.ts has its layout. */
export const WAIT_ENTRY_WORDS = 4;
/** Lines kept of each log, of this many characters at most. */
export const TEXTS_MAX = 16;
export const TEXT_CHARACTERS = 240;

/** Locks a CPU may hold at once. The deepest kernel path here holds six. */
export const HELD_LOCKS_MAX = 48;
/** Things a CPU may have begun at once, and reports know of. */
export const BEGUN_MAX = 8;

/** What one CPU shows the others: written by its own worker unless a member says otherwise. */
export const CpuArea = struct('cpu_area', {
  state: word, // TASK_*: set by its own CPU to a sleep, by any waker to TASK_RUNNING; parked on
  signal: word, // a fatal signal is pending; set by any CPU
  line1: cacheline,
  translation: word, // odd: between tlbEnter and tlbExit; others wait for it to move on
  rcuReader: word, // odd: in an RCU read section; a grace period waits for it to move on
  line2: cacheline,
  waitKind: word, // index into WAIT_KINDS; 0 = not waiting
  waitObject: word, // what is waited for: the lock, the completion, …
  waitSerial: word, // counts waits, so that an observer tells one wait from the next
  progress: word, // counts operations completed, for the watchdog
  resched: word, // counts turns of long loops, for the watchdog; condResched
  attached: word, // some thread is this CPU
  finished: word, // the CPU's program has returned
  failNth: word, // fallible calls until one is made to fail; 0 = none is; machine/fail.ts
  failSite: word, // … of this site alone; 0 = of any
  failedSite: word, // the site of the one that was made to fail; 0 = none yet
  begun: words(BEGUN_MAX), // what it has begun, and others wait for the end of; 0 = a free place
  held: words(HELD_LOCKS_MAX), // locks held, outermost first, 0-terminated
  line3: cacheline,
  waitEntries: words(WAIT_ENTRIES_MAX * WAIT_ENTRY_WORDS), // its places in wait queues
  waiter: words(CACHELINE_WORDS), // this CPU's place in the queue of one sleeping lock
  searchKey: AddressCell, // key of the search its own CPU is about to make
  wakeNext: word, // next in a wake queue; EMPTY_WAKE_Q for the last, 0 when in none
  osqNext: word, // optimistic-spin-queue node: successor (a cpu_area)
  osqPrev: word, // … predecessor
  osqLocked: word, // … set by the predecessor when it leaves
  line4: cacheline,
});
export type CpuArea = Ptr<'cpu_area'>;

/** Orders of the buddy allocator: blocks of 1 to 1024 frames. */
export const MAX_ORDER = 10;

/** Heads of the free lists of one order. */
export const FreeArea = struct('free_area', {
  head: word, // pfn of the first free block; 0 = none
  count: word,
});

/** All frames, and the blocks of them that are free. */
export const Zone = struct('zone', {
  lock: Spinlock,
  freeFrames: word, // frames in free blocks (not in per-CPU lists)
  areas: words(FreeArea.words * (MAX_ORDER + 1)),
  line1: cacheline,
});
export type Zone = Ptr<'zone'>;

/** Slots for the struct caches of machine/slab.ts. */
export const SLAB_CACHES_MAX = 64;

/** Sizes of pieces of per-CPU memory that come and go: 1, 2, 4, 8 and 16 words. */
export const PERCPU_CLASSES = 5;

/** All there is of one machine besides its CPUs and frames. */
export const Machine = struct('machine', {
  magic: word,
  cpus: word, // how many CPUs this machine has
  percpu: word, // start of the per-CPU region
  percpuStride: word, // words of one CPU's part of it
  percpuUsed: word, // offsets below are taken; under percpuLock
  percpuLock: Spinlock,
  percpuFree: words(PERCPU_CLASSES), // offsets of free pieces of 1, 2, 4, 8, 16 words; 0 = none; under percpuLock
  pages: word, // the Page of frame 0
  frames: word, // the first word of frame 0
  frameCount: word, // of the machine's own memory
  deviceFirst: word, // the first frame of devices' memory
  deviceCount: word, // … and how many there are
  swapArea: word, // mm/swap.ts; 0 = none
  swapSlots: word, // pages that it has room for
  zone: Zone,
  pagesets: word, // per-CPU offset of each CPU's Pageset
  pagesetBatch: word, // frames a Pageset takes from the zone, or gives back, at once
  watermarkMin: word, // free frames of the zone below which who allocates reclaims; 0 = nobody ever does
  watermarkLow: word, // … below which kswapd is woken
  watermarkHigh: word, // … that kswapd makes
  reclaim: word, // mm/types.ts; 0 = this machine does not reclaim
  reclaimOps: word, // the ReclaimOps that the allocator calls; 0 = none yet
  gathers: word, // per-CPU offset of each CPU's MmuGather
  scratch: word, // per-CPU offset of each CPU's scratch memory
  svmStats: word, // per-CPU offset of each CPU's SvmStats
  stacks: word, // per-CPU offset of each CPU's kernel stack
  deferred: word, // what deferred/boot.ts keeps; 0 = it has not run
  srcu: word, // an srcu_sleepers, of deferred/srcu.ts; 0 = there is no domain yet
  notifiers: word, // what notifier/boot.ts keeps; 0 = it has not run
  exitChain: word, // mm/exit-chain.ts
  oomReaper: word, // process/oom-reaper.ts; 0 = it has not run
  tlbs: word, // per-CPU offset of each CPU's TLB
  mms: word, // address spaces made so far; atomic
  anonVmaLock: Spinlock, // an anon_vma is given back; mm/anon-vma.ts
  pageWaits: word, // wait queues of who waits for locks of pages; sync/page-lock.ts
  tlbContexts: word, // TLB contexts made so far; atomic
  opsHash: word, // of the names of all ops tables; every worker must agree
  slabLock: Spinlock,
  slabNames: words(SLAB_CACHES_MAX), // hash of a struct's name; 0 = free slot; under slabLock
  slabCaches: words(SLAB_CACHES_MAX), // its kmem_cache
  deviceCore: word, // device/types.ts; written once, at boot
  memremapCore: word, // memremap/types.ts; written once, at boot
  mutant: word, // number of the mistake that is planted, 0 = none; written once, at boot
  redzoneWords: word, // of each object of a slab; machine/slab.ts
  lockReports: word, // LockReports, and behind it the graph of lock orders; machine/lock-report.ts
  line1: cacheline,
  halted: word, // why every CPU must stop now; 0 = running
  warnings: word, // warnings raised so far; atomic
  warningTexts: words(TEXTS_MAX * (1 + TEXT_CHARACTERS)), // each a length, then its characters
  messages: word, // lines of the kernel's log so far; atomic
  messageTexts: words(TEXTS_MAX * (1 + TEXT_CHARACTERS)), // as warningTexts
  line2: cacheline,
  arrived: word, // CPUs that are ready to start
  line3: cacheline,
  started: word, // the start barrier is open
  line4: cacheline,
});
export type Machine = Ptr<'machine'>;

/** A swap area, behind the frames: what mm/swap.ts keeps of it and of each slot, then the pages themselves. */
export const SWAP_HEAD_WORDS = CACHELINE_WORDS;
export const SWAP_SLOT_WORDS = 2;

/** Where the machine is in its own memory. */
export const MACHINE = CACHELINE_WORDS as Machine;

/** One CPU's stock of single frames. @kernel struct per_cpu_pages */
export const Pageset = struct('pageset', {
  lock: Spinlock, // its own CPU's, and whoever drains all sets because memory is short
  head: word, // pfn of the first; 0 = none
  count: word,
  line1: cacheline,
});
export type Pageset = Ptr<'pageset'>;

/** What the kernel knows about one frame. @kernel struct page */
export const Page = struct('page', {
  flags: word, // PG_*
  refcount: word, // atomic; 0 = free
  mapcount: word, // atomic; page table entries that map the frame
  generation: word, // advances when the frame is freed; accesses compare it
  mapping: word, // who owns the contents: an address_space, or 0
  index: word, // page number within the mapping, its lower 32 bits
  private: word, // buddy order, slab cache, state of a page table (mm/huge.ts), or the mapping's own
  freelist: word, // slab: first free object
  inuse: word, // slab: objects allocated; page table: entries in use
  next: word, // pfn links: a free list, a slab list, an LRU list
  prev: word,
  ptl: Spinlock, // split page table lock, if the frame holds a page table; else sync/page-lock.ts
  held: word, // 1 from allocation to free; its owner's other words may say anything
  indexHigh: word, // the rest of `index`
  line1: cacheline,
});
export type Page = Ptr<'page'>;

/** Page.held of a device's page that is there. */
export const DEVICE_PAGE_PRESENT = 2;

/** Objects in one CPU's Magazine at most. */
export const MAGAZINE_OBJECTS = 14;

/** One CPU's stock of free objects of one cache; only that CPU touches it. */
export const Magazine = struct('magazine', {
  count: word,
  objects: words(MAGAZINE_OBJECTS),
  allocations: word, // allocations minus frees made by this CPU, for the leak check
});
export type Magazine = Ptr<'magazine'>;

/** The objects of one kind of struct. @kernel struct kmem_cache */
export const KmemCache = struct('kmem_cache', {
  lock: Spinlock,
  objectWords: word,
  objectsPerSlab: word,
  structWords: word, // of an object, those that its struct has
  partial: word, // pfn of the first slab with a free object
  slabs: word, // frames in use
  magazines: word, // per-CPU offset of each CPU's Magazine
  line1: cacheline,
});
export type KmemCache = Ptr<'kmem_cache'>;
