/**
 * What a CPU can wait for, as a number in its area and as words in a report.
 *
 * @module
 */

/** Names of the wait kinds; the index is what CpuArea.waitKind holds. */
export const WAIT_KINDS = [
  'running',
  'spinlock',
  'mutex',
  'rwsem (read)',
  'rwsem (write)',
  'completion',
  'wait queue',
  'seqcount writer',
  'start barrier',
  'next round',
  'TLB shootdown',
  'device TLB fence',
  'fault replay',
  'fault buffer',
  'end of',
  'turn',
  'log time',
  'RCU grace period',
  'SRCU grace period',
  'percpu_ref switch',
  'work item',
  'work queue',
  'kthread',
  'next work item',
  'next kthread',
  'references',
  'OOM delay',
  'OOM reaper',
  'loading of',
  'driver',
  'users of a page',
  'lock of a page',
  'percpu_rwsem (read)',
  'percpu_rwsem (write)',
  'fence',
] as const;

export type WaitKindName = (typeof WAIT_KINDS)[number];

const kind = (name: WaitKindName): number => WAIT_KINDS.indexOf(name);

export const WAIT_NONE = kind('running');
export const WAIT_SPINLOCK = kind('spinlock');
export const WAIT_MUTEX = kind('mutex');
export const WAIT_RWSEM_READ = kind('rwsem (read)');
export const WAIT_RWSEM_WRITE = kind('rwsem (write)');
export const WAIT_COMPLETION = kind('completion');
export const WAIT_QUEUE = kind('wait queue');
export const WAIT_SEQCOUNT = kind('seqcount writer');
export const WAIT_START = kind('start barrier');
export const WAIT_ROUND = kind('next round');
export const WAIT_SHOOTDOWN = kind('TLB shootdown');
export const WAIT_DEVICE_FENCE = kind('device TLB fence');
export const WAIT_REPLAY = kind('fault replay');
export const WAIT_FAULT_BUFFER = kind('fault buffer');
export const WAIT_INVALIDATION = kind('end of');
export const WAIT_TURN = kind('turn');
export const WAIT_LOG_TIME = kind('log time');
export const WAIT_RCU = kind('RCU grace period');
export const WAIT_SRCU = kind('SRCU grace period');
export const WAIT_PERCPU_REF = kind('percpu_ref switch');
export const WAIT_WORK = kind('work item');
export const WAIT_WORKQUEUE = kind('work queue');
export const WAIT_KTHREAD = kind('kthread');
export const WAIT_NEXT_WORK = kind('next work item');
export const WAIT_NEXT_KTHREAD = kind('next kthread');
export const WAIT_REFERENCES = kind('references');
export const WAIT_OOM = kind('OOM delay');
export const WAIT_REAPER = kind('OOM reaper');
export const WAIT_MODULE = kind('loading of');
export const WAIT_DRIVER = kind('driver');
export const WAIT_PAGE = kind('users of a page');
export const WAIT_PAGE_LOCK = kind('lock of a page');
export const WAIT_PERCPU_RWSEM_READ = kind('percpu_rwsem (read)');
export const WAIT_PERCPU_RWSEM_WRITE = kind('percpu_rwsem (write)');
export const WAIT_DMA_FENCE = kind('fence');

/**
 * Waits that are no sign of trouble however long they last: the CPU has nothing to do until somebody
 * brings it work, or until it is time.
 */
export const IDLE_WAITS: ReadonlySet<number> = new Set([
  WAIT_START,
  WAIT_ROUND,
  WAIT_FAULT_BUFFER,
  WAIT_TURN,
  WAIT_LOG_TIME,
  WAIT_NEXT_WORK,
  WAIT_NEXT_KTHREAD,
  WAIT_OOM,
]);
