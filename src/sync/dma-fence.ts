/**
 * DMA fence: the end of what a device does, said once and waited for.
 *
 * Kernel     drivers/dma-buf/dma-fence.c
 * Protocol   Whoever gives a device something to do makes a fence; the agent of the device that takes it on says so
 *            (dmaFenceBegin), and signals when it is done. Who waits sleeps until then, and later never.
 * Invariant  I1  A fence is signalled once. Its owner outlives all who wait.
 * Ordering   What the agent has written before the signal is seen after the wait: the completion's lock.
 * Deviation  No callbacks, contexts and sequence numbers. lockdep does not know fences (in Linux it does between
 *            dma_fence_begin_signalling and its end); the wait-for graph knows who has taken on what.
 *
 * @module
 */
import { noteBegun, noteEnded } from '../debug/begun.js';
import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import { WAIT_DMA_FENCE } from '../machine/wait-kind.js';
import { member, type Ptr, struct } from '../memory/layout.js';
import { completeAll, Completion, initCompletion, waitForCompletionOf } from './completion.js';
import type { WaitQueue } from './wait-queue.js';

/** The end of something that a device does. */
export const DmaFence = struct('dma_fence', {
  signaled: Completion,
});
export type DmaFence = Ptr<'dma_fence'>;

/** What reports know a fence by: it carries its name. */
function nameOf(fence: DmaFence): WaitQueue {
  return member(member(fence, DmaFence.signaled), Completion.wait);
}

/** Makes a fence that is not signalled. Once, before another CPU knows it. @kernel dma_fence_init */
export function dmaFenceInit(cpu: Cpu, fence: DmaFence, name: LockClass): void {
  initCompletion(cpu, member(fence, DmaFence.signaled), name);
}

/** This CPU, an agent of the device, is going to signal it. @kernel dma_fence_begin_signalling */
export function dmaFenceBegin(cpu: Cpu, fence: DmaFence): void {
  noteBegun(cpu, nameOf(fence));
}

/** It is done: who waits goes on. By who has begun it. @kernel dma_fence_signal */
export function dmaFenceSignal(cpu: Cpu, fence: DmaFence): void {
  noteEnded(cpu, nameOf(fence));
  completeAll(cpu, member(fence, DmaFence.signaled));
}

/** Sleeps until it is signalled. Sleeps. @kernel dma_fence_wait */
export function dmaFenceWait(cpu: Cpu, fence: DmaFence): void {
  waitForCompletionOf(cpu, member(fence, DmaFence.signaled), WAIT_DMA_FENCE, nameOf(fence));
}
