/**
 * The kernel's locks as targets, a lock that is none, and a lock of the user's.
 *
 * @module
 */
import { bug } from '../../base/bug.js';
import {
  percpuDownRead,
  percpuDownReadTrylock,
  percpuDownWrite,
  percpuFreeRwsem,
  percpuInitRwsem,
  type PercpuRwsem,
  percpuUpRead,
  percpuUpWrite,
} from '../../deferred/percpu-rwsem.js';
import { lockClass } from '../../machine/lock-class.js';
import { initMutex, type Mutex, mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import {
  downgradeWrite,
  downRead,
  downReadTrylock,
  downWrite,
  downWriteTrylock,
  initRwsem,
  type Rwsem,
  upRead,
  upWrite,
} from '../../sync/rwsem.js';
import {
  initSpinlock,
  type Spinlock,
  spinLock,
  spinTrylock,
  spinUnlock,
} from '../../sync/spinlock.js';
import { LOCK_WORDS_MAX } from '../lock.js';
import { lockTarget, TORTURE_LOCK } from './exclusion.js';

// here, and not where they are given to a lock: so the main thread knows their names
const SPINLOCK = lockClass('torture_spinlock');
const MUTEX = lockClass('torture_mutex');
const RWSEM = lockClass('torture_rwsem');
const PERCPU_RWSEM = lockClass('torture_percpu_rwsem');

export const spinTarget = lockTarget({
  name: 'spin',
  title: 'spinlock: writers that never sleep inside',
  busted: ['busted-spinlock', 'busted-spinlock-wake'],
  invariant: 'INV-39',
  init: (cpu, lock) => {
    initSpinlock(cpu, lock as Spinlock, SPINLOCK);
  },
  lock: (cpu, lock) => {
    spinLock(cpu, lock as Spinlock);
  },
  unlock: (cpu, lock) => {
    spinUnlock(cpu, lock as Spinlock);
  },
  tryLock: (cpu, lock) => spinTrylock(cpu, lock as Spinlock),
});

export const mutexTarget = lockTarget({
  name: 'mutex',
  title: 'mutex: optimistic spinning, sleeping, hand-off',
  busted: ['busted-mutex', 'busted-mutex-handoff', 'busted-osq'],
  invariant: 'INV-39',
  init: (cpu, lock) => {
    initMutex(cpu, lock as Mutex, MUTEX);
  },
  lock: (cpu, lock) => {
    mutexLock(cpu, lock as Mutex);
  },
  unlock: (cpu, lock) => {
    mutexUnlock(cpu, lock as Mutex);
  },
  tryLock: (cpu, lock) => mutexTrylock(cpu, lock as Mutex),
});

export const rwsemTarget = lockTarget({
  name: 'rwsem',
  title: 'read/write semaphore: writers, readers, downgrades, tries',
  busted: [
    'M-20',
    'busted-rwsem-read',
    'busted-rwsem-write',
    'busted-rwsem-downgrade',
    'busted-rwsem-handoff',
  ],
  invariant: 'INV-1',
  init: (cpu, lock) => {
    initRwsem(cpu, lock as Rwsem, RWSEM);
  },
  lock: (cpu, lock) => {
    downWrite(cpu, lock as Rwsem);
  },
  unlock: (cpu, lock) => {
    upWrite(cpu, lock as Rwsem);
  },
  tryLock: (cpu, lock) => downWriteTrylock(cpu, lock as Rwsem),
  readLock: (cpu, lock) => {
    downRead(cpu, lock as Rwsem);
  },
  readUnlock: (cpu, lock) => {
    upRead(cpu, lock as Rwsem);
  },
  tryReadLock: (cpu, lock) => downReadTrylock(cpu, lock as Rwsem),
  downgrade: (cpu, lock) => {
    downgradeWrite(cpu, lock as Rwsem);
  },
});

export const percpuRwsemTarget = lockTarget({
  name: 'percpu_rwsem',
  title: 'per-CPU read/write semaphore: cheap readers, writers that wait for a grace period',
  busted: ['busted-percpu-rwsem', 'busted-percpu-rwsem-read'],
  invariant: 'INV-1',
  init: (cpu, lock) => {
    const error = percpuInitRwsem(cpu, lock as PercpuRwsem, PERCPU_RWSEM);
    if (error !== 0) bug('no memory for counts');
  },
  destroy: (cpu, lock) => {
    percpuFreeRwsem(cpu, lock as PercpuRwsem);
  },
  lock: (cpu, lock) => {
    percpuDownWrite(cpu, lock as PercpuRwsem);
  },
  unlock: (cpu, lock) => {
    percpuUpWrite(cpu, lock as PercpuRwsem);
  },
  readLock: (cpu, lock) => {
    percpuDownRead(cpu, lock as PercpuRwsem);
  },
  readUnlock: (cpu, lock) => {
    percpuUpRead(cpu, lock as PercpuRwsem);
  },
  tryReadLock: (cpu, lock) => percpuDownReadTrylock(cpu, lock as PercpuRwsem),
});

/** The canary: a run of it must report. @kernel lock_busted */
export const bustedTarget = lockTarget({
  name: 'lock_busted',
  title: 'no lock at all: a run must report that, and each run of anything begins with it',
  invariant: 'INV-39',
  init: () => undefined,
  lock: () => undefined,
  unlock: () => undefined,
});

export const ownLockTarget = lockTarget({
  name: 'lock',
  title: 'the lock of --lock MODULE',
  invariant: 'INV-39',
  hasReaders: ({ lock }) => lock?.readLock !== undefined,
  init: (cpu, at, { lock }) => {
    if (lock === undefined) bug('no lock was loaded: --lock MODULE names one');
    if (lock.words > LOCK_WORDS_MAX) bug(`a lock has ${LOCK_WORDS_MAX} words at most`);
    initSpinlock(cpu, at as Spinlock, TORTURE_LOCK); // its class, so that a report can name it
    lock.init(cpu, at);
  },
  lock: (cpu, at, { config }) => {
    config.lock?.lock(cpu, at);
  },
  unlock: (cpu, at, { config }) => {
    config.lock?.unlock(cpu, at);
  },
  hasTry: ({ lock }) => lock?.tryLock !== undefined,
  tryLock: (cpu, at, { config }) => config.lock?.tryLock?.(cpu, at) === true,
  readLock: (cpu, at, { config }) => {
    config.lock?.readLock?.(cpu, at);
  },
  readUnlock: (cpu, at, { config }) => {
    config.lock?.readUnlock?.(cpu, at);
  },
});
