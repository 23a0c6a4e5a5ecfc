/**
 * Descriptors, messages with files, and what becomes of a file when a process forks or ends.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { EAGAIN, EBADF, EEXIST, EMFILE, ENOENT } from '../../src/base/errno.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { allocPage } from '../../src/machine/page-alloc.js';
import { preemptDisable, preemptEnable } from '../../src/machine/sched.js';
import { allocatedObjects, kzalloc } from '../../src/machine/slab.js';
import { NULL } from '../../src/memory/layout.js';
import { mmputAsync } from '../../src/mm/exit.js';
import {
  type ExitChainOps,
  exitChainRegister,
  exitChainUnregister,
} from '../../src/mm/exit-chain.js';
import { type FileOperations, fput, openDeviceFile } from '../../src/mm/file.js';
import { mmget } from '../../src/mm/mm-struct.js';
import { File, MmStruct } from '../../src/mm/types.js';
import type { MmuNotifierOps } from '../../src/notifier/mmu-notifier-list.js';
import {
  mmuNotifierRegister,
  mmuNotifierUnregister,
} from '../../src/notifier/mmu-notifier-register.js';
import { MmuNotifier } from '../../src/notifier/types.js';
import {
  allocFiles,
  allocScmQueue,
  closeFd,
  dupFiles,
  fget,
  freeScmQueue,
  installFd,
  putFiles,
  scmReceive,
  scmSend,
} from '../../src/process/files.js';
import { allocTask, CLONE_FILES, CLONE_VM, cloneTask, exitTask } from '../../src/process/task.js';
import { FDS_MAX, FilesStruct, SCM_MAX, ScmQueue, Task } from '../../src/process/types.js';
import { bootSpace, mapPages } from '../support/address-space.js';
import { assertBug } from '../support/machine.js';

/** What has happened: one test runs at a time. */
const happened: string[] = [];

export const testFile: FileOperations = defineOps({
  opsName: 'files test file',
  release(cpu: Cpu, file: File) {
    happened.push(`file ${read(cpu, file, File.privateData)}`);
  },
});
export const testNotifier: MmuNotifierOps = defineOps({
  opsName: 'files test notifier',
  release: () => happened.push('notifier'),
});
export const firstChain: ExitChainOps = defineOps({
  opsName: 'files test chain 1',
  mmExit: () => happened.push('chain 1'),
});
export const secondChain: ExitChainOps = defineOps({
  opsName: 'files test chain 2',
  mmExit: () => happened.push('chain 2'),
});

function boot(): { readonly cpu: Cpu; readonly mm: MmStruct } {
  happened.length = 0;
  const { cpu, mm } = bootSpace([{ testFile, testNotifier, firstChain, secondChain }]);
  bootDeferred(cpu);
  return { cpu, mm };
}

const take = (): string[] => happened.splice(0);

describe('a table of descriptors', () => {
  test('gives the lowest that is free, as long as there is one', () => {
    const { cpu } = boot();
    const files = allocFiles(cpu);
    const open = (name: number): number =>
      installFd(cpu, files, openDeviceFile(cpu, testFile, name));
    for (let fd = 0; fd < FDS_MAX; fd++) assert.equal(open(fd), fd);
    const late = openDeviceFile(cpu, testFile, 99);
    assert.equal(installFd(cpu, files, late), -EMFILE);
    fput(cpu, late);
    assert.equal(closeFd(cpu, files, 3), 0);
    assert.deepEqual(take(), ['file 99', 'file 3']);
    assert.equal(open(33), 3);
    for (const fd of [-1, FDS_MAX, 1000]) assert.equal(closeFd(cpu, files, fd), -EBADF);
    assert.equal(closeFd(cpu, files, 5), 0);
    assert.equal(closeFd(cpu, files, 5), -EBADF);
    putFiles(cpu, files);
    assert.equal(take().length, FDS_MAX);
    assert.equal(allocatedObjects(cpu, File), 0);
  });

  test('keeps a file as long as anybody uses it', () => {
    const { cpu } = boot();
    const files = allocFiles(cpu);
    installFd(cpu, files, openDeviceFile(cpu, testFile, 1));
    const file = fget(cpu, files, 0);
    closeFd(cpu, files, 0);
    assert.deepEqual(take(), []);
    fput(cpu, file);
    assert.deepEqual(take(), ['file 1']);
    assert.equal(fget(cpu, files, 0), NULL);
    assert.equal(fget(cpu, files, -1), NULL);
  });

  test('is copied with its files, not with copies of them', () => {
    const { cpu } = boot();
    const files = allocFiles(cpu);
    installFd(cpu, files, openDeviceFile(cpu, testFile, 1));
    const copy = dupFiles(cpu, files);
    const [original, same] = [fget(cpu, files, 0), fget(cpu, copy, 0)];
    assert.equal(original, same);
    fput(cpu, original);
    fput(cpu, same);
    putFiles(cpu, files);
    assert.deepEqual(take(), []);
    putFiles(cpu, copy);
    assert.deepEqual(take(), ['file 1']);
  });
});

describe('a message', () => {
  test('carries files, oldest first, and keeps them', () => {
    const { cpu } = boot();
    const [sender, receiver] = [allocFiles(cpu), allocFiles(cpu)];
    const queue = allocScmQueue(cpu);
    for (const name of [1, 2]) {
      const fd = installFd(cpu, sender, openDeviceFile(cpu, testFile, name));
      const file = fget(cpu, sender, fd);
      assert.equal(scmSend(cpu, queue, file), 0);
      fput(cpu, file);
    }
    putFiles(cpu, sender);
    assert.deepEqual(take(), [], 'on their way');
    assert.equal(scmReceive(cpu, queue, receiver), 0);
    assert.equal(scmReceive(cpu, queue, receiver), 1);
    assert.equal(scmReceive(cpu, queue, receiver), -EAGAIN);
    closeFd(cpu, receiver, 0);
    assert.deepEqual(take(), ['file 1']);
    freeScmQueue(cpu, queue);
    putFiles(cpu, receiver);
    assert.deepEqual(take(), ['file 2']);
  });

  test('is refused when there are too many, and lost with its socket', () => {
    const { cpu } = boot();
    const queue = allocScmQueue(cpu);
    const file = openDeviceFile(cpu, testFile, 1);
    for (let i = 0; i < SCM_MAX; i++) assert.equal(scmSend(cpu, queue, file), 0);
    assert.equal(scmSend(cpu, queue, file), -EAGAIN);
    fput(cpu, file);
    assert.deepEqual(take(), []);
    freeScmQueue(cpu, queue);
    assert.deepEqual(take(), ['file 1']);
    assert.equal(allocatedObjects(cpu, ScmQueue), 0);
  });

  test('that finds no descriptor is lost', () => {
    const { cpu } = boot();
    const files = allocFiles(cpu);
    for (let fd = 0; fd < FDS_MAX; fd++) installFd(cpu, files, openDeviceFile(cpu, testFile, 0));
    const queue = allocScmQueue(cpu);
    const file = openDeviceFile(cpu, testFile, 1);
    scmSend(cpu, queue, file);
    fput(cpu, file);
    assert.equal(scmReceive(cpu, queue, files), -EMFILE);
    assert.deepEqual(take(), ['file 1']);
  });
});

describe('a task that ends', () => {
  function family(): { cpu: Cpu; mm: MmStruct; parent: Task; notifier: MmuNotifier } {
    const { cpu, mm } = boot();
    const notifier = kzalloc(cpu, MmuNotifier);
    assert.equal(mmuNotifierRegister(cpu, notifier, mm, testNotifier), 0);
    const parent = allocTask(cpu, mm);
    installFd(cpu, read(cpu, parent, Task.files), openDeviceFile(cpu, testFile, 1));
    return { cpu, mm, parent, notifier };
  }

  test('gives up its address space first, then its files', () => {
    const { cpu, mm, parent, notifier } = family();
    exitTask(cpu, parent);
    assert.deepEqual(take(), ['notifier', 'file 1']);
    mmuNotifierUnregister(cpu, notifier, mm);
    for (const layout of [MmStruct, Task, FilesStruct, File]) {
      assert.equal(allocatedObjects(cpu, layout as typeof Task), 0, layout.structName);
    }
  });

  test('leaves its files to a child (LT-11)', () => {
    const { cpu, parent } = family();
    const child = cloneTask(cpu, parent, 0);
    assert.notEqual(read(cpu, child, Task.mm), read(cpu, parent, Task.mm));
    exitTask(cpu, parent);
    assert.deepEqual(take(), ['notifier']);
    exitTask(cpu, child);
    assert.deepEqual(take(), ['file 1']);
  });

  test('leaves its address space to a sibling, which may have no files of it', () => {
    const { cpu, parent } = family();
    const sibling = cloneTask(cpu, parent, CLONE_VM);
    assert.equal(read(cpu, sibling, Task.mm), read(cpu, parent, Task.mm));
    closeFd(cpu, read(cpu, sibling, Task.files), 0);
    exitTask(cpu, parent);
    assert.deepEqual(take(), ['file 1'], 'the file goes before the address space');
    exitTask(cpu, sibling);
    assert.deepEqual(take(), ['notifier']);
  });

  test('leaves both to a thread', () => {
    const { cpu, parent } = family();
    const thread = cloneTask(cpu, parent, CLONE_VM | CLONE_FILES);
    exitTask(cpu, parent);
    assert.deepEqual(take(), []);
    exitTask(cpu, thread);
    assert.deepEqual(take(), ['notifier', 'file 1']);
  });

  test('does so once', () => {
    const { cpu, parent } = family();
    const thread = cloneTask(cpu, parent, CLONE_VM);
    exitTask(cpu, thread);
    assert.throws(() => {
      exitTask(cpu, thread);
    });
  });

  test('has left nothing if there was no memory for it', () => {
    const { cpu, mm, parent } = family();
    mapPages(cpu, mm, 0, 4);
    while (allocPage(cpu) !== 0);
    let child: Task;
    const children: Task[] = [];
    do {
      child = cloneTask(cpu, parent, CLONE_VM);
      if (child !== NULL) children.push(child);
    } while (child !== NULL);
    assert.equal(cloneTask(cpu, parent, 0), NULL);
    assert.equal(read(cpu, mm, MmStruct.users), 1 + children.length);
    for (const one of children) exitTask(cpu, one);
    assert.deepEqual(take(), []);
    exitTask(cpu, parent);
    assert.deepEqual(take(), ['notifier', 'file 1']);
    assert.equal(allocatedObjects(cpu, FilesStruct), 0);
  });
});

describe('the exit chain', () => {
  test('is called in the order it was made, before the notifiers', () => {
    const { cpu, mm } = boot();
    const notifier = kzalloc(cpu, MmuNotifier);
    assert.equal(mmuNotifierRegister(cpu, notifier, mm, testNotifier), 0);
    assert.equal(exitChainRegister(cpu, firstChain), 0);
    assert.equal(exitChainRegister(cpu, secondChain), 0);
    assert.equal(exitChainRegister(cpu, firstChain), -EEXIST);
    const task = allocTask(cpu, mm);
    const child = cloneTask(cpu, task, 0);
    exitTask(cpu, task);
    assert.deepEqual(take(), ['chain 1', 'chain 2', 'notifier']);
    assert.equal(exitChainUnregister(cpu, firstChain), 0);
    assert.equal(exitChainUnregister(cpu, firstChain), -ENOENT);
    exitTask(cpu, child);
    assert.deepEqual(take(), ['chain 2']);
  });
});

describe('mmputAsync', () => {
  test('has a kworker take the address space down, and does not sleep', () => {
    const { cpu, mm } = boot();
    exitChainRegister(cpu, firstChain);
    mmget(cpu, mm);
    preemptDisable(cpu);
    mmputAsync(cpu, mm);
    mmputAsync(cpu, mm);
    preemptEnable(cpu);
    assert.equal(read(cpu, mm, MmStruct.users), 0);
    assert.deepEqual(take(), []);
    assert.equal(runPendingWork(cpu), 1);
    assert.deepEqual(take(), ['chain 1']);
    assert.equal(allocatedObjects(cpu, MmStruct), 0);
  });

  test('is counted like every other', () => {
    const { cpu, mm } = boot();
    mmputAsync(cpu, mm);
    assertBug(() => {
      mmputAsync(cpu, mm);
    }, /mm_users underflow/);
  });
});
