/**
 * Two test devices and a process that has them open, on the test's own thread.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, write, writeAddress } from '#memory';

import { PAGE_SIZE, PAGE_WORDS } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { bootDevices } from '../../src/device/boot.js';
import {
  dmirrorCheckExclusive,
  dmirrorExclusive,
  dmirrorMigrateToDevice,
  dmirrorMigrateToSystem,
  DmirrorPerm,
  dmirrorRead,
  dmirrorSnapshot,
  dmirrorWrite,
} from '../../src/drivers/dmirror/commands.js';
import {
  dmirrorAdd,
  type DmirrorConfig,
  dmirrorContext,
  dmirrorOpen,
  dmirrorRemove,
} from '../../src/drivers/dmirror/device.js';
import { DmirrorCmd, type DmirrorDevice } from '../../src/drivers/dmirror/types.js';
import { bootSvmStats } from '../../src/drivers/svm/stats.js';
import type { SvmContext } from '../../src/drivers/svm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { type Frame, frameWord } from '../../src/machine/frame.js';
import { allocWords, freeWords, kfree, kzalloc } from '../../src/machine/slab.js';
import { NULL } from '../../src/memory/layout.js';
import { bootMemremap } from '../../src/memremap/core.js';
import { bootMm } from '../../src/mm/boot.js';
import { fput } from '../../src/mm/file.js';
import type { File } from '../../src/mm/types.js';
import { at, newSpace, type Space } from './space.js';

/** Pages of the buffer of most tests. */
export const BUFFER_PAGES = 1024;
/** Pages of each device. */
const DEVICE_PAGES = 2048;

export type MemoryType = DmirrorConfig['type'];

/** What a command has answered. */
export interface Answer {
  readonly result: number;
  readonly cpages: number;
  readonly faults: number;
}

type Command = (cpu: Cpu, context: SvmContext, cmd: DmirrorCmd) => number;

/** An open device. */
export class Mirror {
  readonly cpu: Cpu;
  readonly file: File;
  readonly context: SvmContext;

  constructor(cpu: Cpu, file: File) {
    assert.notEqual(file, NULL, 'the device cannot be opened');
    this.cpu = cpu;
    this.file = file;
    this.context = dmirrorContext(cpu, file);
  }

  /** Runs a command; `fill` gives the buffer its words, `take` takes them out. */
  run(
    command: Command,
    page: number,
    pages: number,
    fill?: (page: number) => number,
    take?: (page: number, word: number) => void,
  ): Answer {
    const { cpu } = this;
    const cmd = kzalloc(cpu, DmirrorCmd);
    const words = pages * PAGE_WORDS;
    const buffer = allocWords(cpu, words);
    assert.ok(cmd !== NULL && buffer !== 0, 'there is no memory for a command');
    const wordAt = (i: number): Frame => (buffer + i * PAGE_WORDS) as Frame;
    for (let i = 0; fill && i < pages; i++) write(cpu, wordAt(i), frameWord(0), fill(page + i));
    writeAddress(cpu, cmd, DmirrorCmd.addr, at(page));
    write(cpu, cmd, DmirrorCmd.npages, pages);
    write(cpu, cmd, DmirrorCmd.buffer, buffer);
    const result = command(cpu, this.context, cmd);
    for (let i = 0; take && i < pages; i++) take(page + i, read(cpu, wordAt(i), frameWord(0)));
    const cpages = read(cpu, cmd, DmirrorCmd.cpages);
    const faults = read(cpu, cmd, DmirrorCmd.faults);
    freeWords(cpu, buffer, words);
    kfree(cpu, DmirrorCmd, cmd);
    return { result, cpages, faults };
  }

  /** Word 0 of each page must be what `value` says. */
  reads(page: number, pages: number, value: (page: number) => number): Answer {
    return this.#expecting(dmirrorRead, page, pages, value);
  }

  writes(page: number, pages: number, value: (page: number) => number): Answer {
    return this.run(dmirrorWrite, page, pages, value);
  }

  migrates(page: number, pages: number, value: (page: number) => number): Answer {
    return this.#expecting(dmirrorMigrateToDevice, page, pages, value);
  }

  migratesBack(page: number, pages: number): Answer {
    return this.run(dmirrorMigrateToSystem, page, pages);
  }

  takes(page: number, pages: number, value: (page: number) => number): Answer {
    return this.#expecting(dmirrorExclusive, page, pages, value);
  }

  checksExclusive(page: number, pages: number): number {
    return this.run(dmirrorCheckExclusive, page, pages).result;
  }

  /** HMM_DMIRROR_PROT_* of each page. */
  snapshot(page: number, pages: number): number[] {
    const { cpu } = this;
    const cmd = kzalloc(cpu, DmirrorCmd);
    const buffer = allocWords(cpu, pages);
    writeAddress(cpu, cmd, DmirrorCmd.addr, at(page));
    write(cpu, cmd, DmirrorCmd.npages, pages);
    write(cpu, cmd, DmirrorCmd.buffer, buffer);
    assert.equal(dmirrorSnapshot(cpu, this.context, cmd), 0);
    assert.equal(read(cpu, cmd, DmirrorCmd.cpages), pages);
    const perms = Array.from({ length: pages }, (_, i) =>
      read(cpu, (buffer + i) as DmirrorPerm, DmirrorPerm.prot),
    );
    freeWords(cpu, buffer, pages);
    kfree(cpu, DmirrorCmd, cmd);
    return perms;
  }

  #expecting(
    command: Command,
    page: number,
    pages: number,
    value: (page: number) => number,
  ): Answer {
    const seen: [number, number][] = [];
    const answer = this.run(command, page, pages, undefined, (at_, word) => seen.push([at_, word]));
    for (const [at_, word] of seen.slice(0, answer.cpages)) {
      assert.equal(word, value(at_), `page ${at_}`);
    }
    return answer;
  }
}

/** What such a machine needs. Unit: bytes. */
export const MIRROR_RAM_BYTES = 48 << 20;
export const DEVICE_BYTES = 2 * DEVICE_PAGES * PAGE_SIZE;

/** Makes a machine ready for test devices. */
export function bootMirrors(cpu: Cpu): void {
  bootMm(cpu);
  bootDeferred(cpu);
  bootDevices(cpu);
  bootMemremap(cpu);
  bootSvmStats(cpu);
}

/** Two devices, and a process. Some CPU serves RCU. */
export class MirrorWorld {
  readonly cpu: Cpu;
  readonly space: Space;
  readonly devices: readonly DmirrorDevice[];
  readonly type: MemoryType;
  readonly #mirrors: Mirror[] = [];

  constructor(cpu: Cpu, type: MemoryType) {
    this.cpu = cpu;
    this.type = type;
    this.devices = [0, 1].map((minor) => {
      const offset = minor * DEVICE_PAGES;
      const device = dmirrorAdd(cpu, { minor, type, offset, pages: DEVICE_PAGES });
      assert.notEqual(device, NULL);
      return device;
    });
    this.space = newSpace(cpu);
  }

  open(minor = 0, space = this.space): Mirror {
    const mirror = new Mirror(this.cpu, dmirrorOpen(this.cpu, this.devices[minor]!, space.mm));
    this.#mirrors.push(mirror);
    return mirror;
  }

  close(mirror: Mirror): void {
    this.#mirrors.splice(this.#mirrors.indexOf(mirror), 1);
    fput(this.cpu, mirror.file);
  }

  /** Ends everything; nothing may be left. */
  end(): void {
    this.space.check();
    for (const mirror of [...this.#mirrors]) this.close(mirror);
    this.space.end();
    for (const device of this.devices) dmirrorRemove(this.cpu, device);
  }
}
