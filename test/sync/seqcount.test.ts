import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { readOnce, write } from '#memory';

import { lockClass } from '../../src/machine/lock-class.js';
import { mightSleep } from '../../src/machine/sched.js';
import { member } from '../../src/memory/layout.js';
import {
  initSeqcount,
  rawSeqcountBegin,
  readSeqcountBegin,
  readSeqcountRetry,
  Seqcount,
  writeSeqcountBegin,
  writeSeqcountEnd,
  writeSeqcountInvalidate,
} from '../../src/sync/seqcount.js';
import {
  initSeqlock,
  readSeqbegin,
  readSeqlockExcl,
  readSeqretry,
  readSequnlockExcl,
  Seqlock,
  writeSeqlock,
  writeSequnlock,
} from '../../src/sync/seqlock.js';
import {
  seqExclusiveReader,
  seqReader,
  seqReaderWithoutRetry,
  seqWriter,
  SyncArena,
} from '../programs/sync.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

const NAME = lockClass('test->seqlock');

describe('a sequence counter', () => {
  test('asks for no retry if nobody wrote', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    initSeqcount(cpu, seqcount);
    const seen = readSeqcountBegin(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), false);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), false);
  });

  test('asks for a retry from the first moment of a write, and after it', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    const seen = readSeqcountBegin(cpu, seqcount);
    writeSeqcountBegin(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
    writeSeqcountEnd(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
    assert.equal(readSeqcountRetry(cpu, seqcount, readSeqcountBegin(cpu, seqcount)), false);
  });

  test('that is begun raw under a writer asks for a retry whatever happens', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    writeSeqcountBegin(cpu, seqcount);
    const seen = rawSeqcountBegin(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
    writeSeqcountEnd(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
    const quiet = rawSeqcountBegin(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, quiet), false);
  });

  test('that is invalidated makes open sections retry, and stays even', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    const seen = readSeqcountBegin(cpu, seqcount);
    writeSeqcountInvalidate(cpu, seqcount);
    assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
    assert.equal(readOnce(cpu, seqcount, Seqcount.sequence), 2);
  });

  test('wraps: only parity and equality count', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    for (const start of [0x7ffffffe, -2]) {
      write(cpu, seqcount, Seqcount.sequence, start);
      const seen = readSeqcountBegin(cpu, seqcount);
      assert.equal(readSeqcountRetry(cpu, seqcount, seen), false);
      writeSeqcountBegin(cpu, seqcount);
      assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
      writeSeqcountEnd(cpu, seqcount);
      assert.equal(readSeqcountRetry(cpu, seqcount, seen), true);
      assert.equal(readSeqcountRetry(cpu, seqcount, readSeqcountBegin(cpu, seqcount)), false);
    }
  });

  test('whose writers overlap, or end without having begun, is a bug', () => {
    const cpu = bootCpu();
    const seqcount = place(cpu, Seqcount);
    assertBug(() => {
      writeSeqcountEnd(cpu, seqcount);
    }, /end without begin \(I1\)/);
    const other = place(cpu, Seqcount);
    writeSeqcountBegin(cpu, other);
    assertBug(() => {
      writeSeqcountBegin(cpu, other);
    }, /writers overlap \(I2\)/);
  });
});

describe('a sequence lock', () => {
  test('is a counter whose writers exclude each other, and may not sleep', () => {
    const cpu = bootCpu();
    const seqlock = place(cpu, Seqlock);
    initSeqlock(cpu, seqlock, NAME);
    const seen = readSeqbegin(cpu, seqlock);
    writeSeqlock(cpu, seqlock);
    assertBug(() => {
      mightSleep(cpu);
    }, /preempt_count 1/);
    writeSequnlock(cpu, seqlock);
    mightSleep(cpu);
    assert.equal(readSeqretry(cpu, seqlock, seen), true);
  });

  test('that a reader holds makes no reader retry', () => {
    const cpu = bootCpu();
    const seqlock = place(cpu, Seqlock);
    initSeqlock(cpu, seqlock, NAME);
    const seen = readSeqbegin(cpu, seqlock);
    readSeqlockExcl(cpu, seqlock);
    readSequnlockExcl(cpu, seqlock);
    assert.equal(readSeqretry(cpu, seqlock, seen), false);
  });

  const puppets = new Puppets(1);
  after(() => puppets.stop());

  test('holds up readers while a write is in progress, and a writer while a reader excludes it', async () => {
    const { boot } = puppets;
    const seqlock = place(boot, Seqlock);
    initSeqlock(boot, seqlock, NAME);
    writeSeqlock(boot, seqlock);
    const reader = puppets.start(0, 'readSeqbegin', seqlock);
    await reader.blocked();
    assert.equal(puppets.waitOf(0), 'seqcount writer');
    writeSequnlock(boot, seqlock);
    const seen = await reader.done;
    assert.equal(seen, 2);
    assert.equal(await puppets.call(0, 'readSeqretry', seqlock, seen), 0);
    readSeqlockExcl(boot, seqlock);
    const writer = puppets.start(0, 'writeSeqlock', seqlock);
    await writer.blocked();
    assert.equal(puppets.waitOf(0), 'spinlock');
    readSequnlockExcl(boot, seqlock);
    await writer.done;
    await puppets.call(0, 'writeSequnlock', seqlock);
    assert.equal(readOnce(boot, member(seqlock, Seqlock.seqcount), Seqcount.sequence), 4);
  });
});

describe('under contention', () => {
  const run = async (readers: readonly string[]): Promise<{ torn: number[]; retries: number }> => {
    let arena = 0 as SyncArena;
    const { machine, results } = await runProgram({
      cpus: 2 + readers.length,
      module: programUrl('sync'),
      entry: [seqWriter.name, seqWriter.name, ...readers],
      setup: (cpu) => {
        arena = place(cpu, SyncArena);
        initSeqlock(cpu, member(arena, SyncArena.seqlock), NAME);
        write(cpu, arena, SyncArena.readers, readers.length);
        return arena;
      },
    });
    const torn = results.slice(2).map((result) => Number(result.value));
    return { torn, retries: readOnce(machine.cpu, arena, SyncArena.retries) };
  };

  test('a reader that need not retry saw no half of a write (INV-5)', async () => {
    const { torn, retries } = await run([seqReader.name, seqReader.name, seqExclusiveReader.name]);
    assert.deepEqual(torn, [0, 0, 0]);
    assert.ok(retries > 0, 'some had to retry');
  });

  test('control: a reader that does not look sees halves of writes', async () => {
    const { torn } = await run([seqReaderWithoutRetry.name]);
    assert.deepEqual(torn, [1]);
  });
});
