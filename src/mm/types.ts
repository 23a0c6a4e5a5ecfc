/**
 * Layouts of the address space; the kernel's mm_types.h. Imported from anywhere, imports layouts only.
 *
 * @module
 */
import { WorkStruct } from '../deferred/types.js';
import { TlbContext } from '../machine/tlb.js';
import { Spinlock } from '../machine/types.js';
import { address, cacheline, pointer, type Ptr, struct, word, words } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { Rwsem } from '../sync/rwsem.js';
import { Seqcount } from '../sync/seqcount.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** The tree of an address space's VMAs; mm/vma-tree.ts. */
export const VmaTree = struct('vma_tree', {
  root: pointer<'vma_tree_node'>(), // NULL = empty
  height: word, // levels below the root; 0 = the root is a leaf
  count: word, // VMAs in the tree
  spare: pointer<'vma_tree_node'>(), // nodes set aside for the insertion under way
});
export type VmaTree = Ptr<'vma_tree'>;

/** An address space. @kernel struct mm_struct */
export const MmStruct = struct('mm_struct', {
  users: word, // users of the address space; atomic
  count: word, // users of this struct; all `users` together hold one; atomic
  flags: word, // MMF_*; atomic
  pgd: word, // first word of the top page table
  subscriptions: pointer<'mmu_notifier_subscriptions'>(), // NULL until a notifier is registered
  line1: cacheline,
  mmapLock: Rwsem, // VMAs and their tree
  line2: cacheline,
  pageTableLock: Spinlock, // page tables above the last level
  writeProtectSeq: Seqcount, // odd while fork write-protects
  tlb: TlbContext,
  line3: cacheline,
  vmas: VmaTree, // all of these under mmapLock
  mmapBase: address, // where the top-down search for room starts
  startBrk: address,
  brk: address,
  totalVm: address, // pages mapped by VMAs: up to 2^35
  lockedVm: address, // of which mlocked
  defFlags: word, // VMA flags that new mappings get (mlockall)
  id: word, // of no other mm of this machine; for reports
  mirrorSpace: pointer<'mirror_space'>(), // what src/protocols keeps of it; NULL = nobody mirrors it. @kernel mm->hmm
  line4: cacheline,
  rss: word, // frames mapped; atomic
  tlbFlushPending: word, // gathers that are open; atomic
  asyncPut: WorkStruct, // the end of the address space, if a kworker does it
  allLock: Rwsem, // for reading: an invalidation without mmap lock; for writing: a notifier comes. @kernel mm_take_all_locks
  line5: cacheline,
});
export type MmStruct = Ptr<'mm_struct'>;

/** MmStruct.flags: page tables must not be touched any more. @kernel MMF_OOM_SKIP */
export const MMF_OOM_SKIP = 1 << 21;
/** MmStruct.flags: the OOM reaper knows of it. @kernel MMF_OOM_REAP_QUEUED */
export const MMF_OOM_REAP_QUEUED = 1 << 23;
/** MmStruct.flags: contents may have been lost. @kernel MMF_UNSTABLE */
export const MMF_UNSTABLE = 1 << 22;

/** MmStruct.flags: some page has been pinned; stays. @kernel MMF_HAS_PINNED */
export const MMF_HAS_PINNED = 1 << 27;

/** A run of pages with one backing and one protection. @kernel struct vm_area_struct */
export const VmAreaStruct = struct('vm_area_struct', {
  start: address, // all under mmapLock for writing; `start` and `end` through the tree only
  end: address, // exclusive
  pgoff: address, // page of the file (or, for anonymous memory, of the address space) at `start`
  mm: pointer<'mm_struct'>(),
  flags: word, // VM_*
  file: pointer<'file'>(), // NULL = anonymous
  anonVma: pointer<'anon_vma'>(), // of the pages that it gets; NULL = none yet; mm/anon-vma.ts
  anonShared: ListHead, // on the list of the family
  prev: pointer<'vm_area_struct'>(), // neighbours, by address; kept by the tree
  next: pointer<'vm_area_struct'>(),
  shared: ListHead, // on File.vmas
  leaf: pointer<'vma_tree_node'>(), // node of the tree that it is in; kept by the tree
});
export type VmAreaStruct = Ptr<'vm_area_struct'>;

/** Whose anonymous pages are whose; mm/anon-vma.ts. @kernel struct anon_vma */
export const AnonVma = struct('anon_vma', {
  root: pointer<'anon_vma'>(), // the oldest of the family, which has its lock and list; written once
  parent: pointer<'anon_vma'>(), // that of the VMA which was forked; NULL = it is the root. Written once
  refs: word, // VMAs and children; atomic
  rwsem: Rwsem, // the root's: the list, and where entries of its VMAs lie. @kernel anon_vma->rwsem
  vmas: ListHead, // the root's: VMAs of the whole family
});
export type AnonVma = Ptr<'anon_vma'>;

/** A fault of a CPU on a page that only a device can address. @kernel struct vm_fault */
export const VmFault = struct('vm_fault', {
  address: address, // of the page; unit: bytes
  vma: pointer<'vm_area_struct'>(),
  page: pointer<'page'>(), // the device's; the fault has a reference
  flags: word, // FAULT_FLAG_*
});
export type VmFault = Ptr<'vm_fault'>;

/** Pages that are to be migrated, and where to. @kernel struct migrate_vma */
export const MigrateVma = struct('migrate_vma', {
  start: address, // of the first page; unit: bytes
  end: address, // exclusive
  vma: pointer<'vm_area_struct'>(), // all of the range lies in it
  src: pointer<'migrate_pfn'>(), // a word for each page: out, what was found
  dst: pointer<'migrate_pfn'>(), // … in, where it is to go; 0 = nowhere
  cpages: word, // out: entries of src that can be migrated
  npages: word, // out: entries of src
  pgmapOwner: word, // whose device pages are meant; the owner of the invalidation
  flags: word, // MIGRATE_VMA_SELECT_*: what is to be migrated
  faultPage: word, // frame of the device's page to which a fault has a reference; 0 = none
});
export type MigrateVma = Ptr<'migrate_vma'>;

/**
 * One page of a migration:
 *
 *   31 … 26   25 .............. 6   3       1         0
 *   unused    frame number          write   migrate   valid
 */
export const MigratePfn = struct('migrate_pfn', { entry: word });
export type MigratePfn = Ptr<'migrate_pfn'>;

export const VM_READ = 0x1;
export const VM_WRITE = 0x2;
export const VM_EXEC = 0x4;
export const VM_SHARED = 0x8;
export const VM_MAYREAD = 0x10;
export const VM_MAYWRITE = 0x20;
export const VM_MAYEXEC = 0x40;
export const VM_MAYSHARE = 0x80;
export const VM_GROWSDOWN = 0x100;
export const VM_PFNMAP = 0x400;
export const VM_LOCKED = 0x2000;
export const VM_IO = 0x4000;
export const VM_SEQ_READ = 0x8000;
export const VM_RAND_READ = 0x10000;
export const VM_DONTCOPY = 0x20000;
export const VM_DONTEXPAND = 0x40000;
export const VM_LOCKONFAULT = 0x80000;
export const VM_ACCOUNT = 0x100000;
export const VM_NORESERVE = 0x200000;
export const VM_HUGETLB = 0x400000;
export const VM_WIPEONFORK = 0x2000000;
export const VM_DONTDUMP = 0x4000000;
export const VM_SOFTDIRTY = 0x8000000;
export const VM_MIXEDMAP = 0x10000000;
export const VM_HUGEPAGE = 0x20000000;
export const VM_NOHUGEPAGE = 0x40000000;
export const VM_MERGEABLE = 0x80000000 | 0;
/** What an access needs one of. @kernel VM_ACCESS_FLAGS */
export const VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC;
/** Mappings that are not ordinary memory. @kernel VM_SPECIAL */
export const VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP;

/** A file, with its page cache; or an open device. @kernel struct file, struct address_space */
export const File = struct('file', {
  refs: word, // descriptors and VMAs; atomic
  id: word, // seed of its contents: what untouched pages read as; 0 = zeroes (shmem)
  sizeBytes: address, // under invalidateLock
  invalidateLock: Rwsem, // the size, and the page cache against truncation. @kernel invalidate_lock
  pagesLock: Spinlock, // the page cache. @kernel i_pages lock
  pages: word, // root of its radix tree; NULL = empty
  pagesHeight: word, // levels of the tree
  pageCount: word,
  vmasLock: Rwsem, // the list of VMAs that map it. @kernel i_mmap_rwsem
  vmas: ListHead,
  ops: word, // FileOperations of a device; 0 = none
  privateData: word, // the device's own
});
export type File = Ptr<'file'>;

/** One LRU list: pages by when they were last known to be used. */
export const LruList = struct('lru_list', {
  head: word, // pfn of the latest; 0 = none
  tail: word, // pfn of the oldest
  count: word,
});
export type LruList = Ptr<'lru_list'>;

/** How often what happened in reclaim. Each is atomic. @kernel enum vm_event_item */
export const ReclaimStats = struct('reclaim_stats', {
  kswapdWakes: word, // kswapd began to make room
  directReclaims: word, // somebody who allocated did. @kernel allocstall
  kswapdScanned: word, // pages that it looked at. @kernel pgscan_kswapd
  directScanned: word, // @kernel pgscan_direct
  kswapdStolen: word, // frames that it freed. @kernel pgsteal_kswapd
  directStolen: word, // @kernel pgsteal_direct
  activated: word, // pages that turned out to be in use. @kernel pgactivate
  deactivated: word, // @kernel pgdeactivate
  swappedOut: word, // pages that reclaim or advice wrote to a slot. @kernel pswpout
  swappedIn: word, // pages that were read from one. @kernel pswpin
});
export type ReclaimStats = Ptr<'reclaim_stats'>;

/** What a machine that reclaims has of it. @kernel struct pglist_data, struct lruvec */
export const Reclaim = struct('reclaim', {
  lock: Spinlock, // the LRU lists, and Page.next and .prev of what is on them. @kernel lruvec->lru_lock
  lists: words(4 * LruList.words), // anonymous inactive, active; of files inactive, active
  line1: cacheline,
  kswapd: pointer<'kthread'>(), // NULL = not started; written while nobody reclaims
  failures: word, // balancings in a row that freed nothing; atomic. @kernel kswapd_failures
  wait: WaitQueue, // kswapd, until memory is low
  line2: cacheline,
  stats: ReclaimStats,
});
export type Reclaim = Ptr<'reclaim'>;
