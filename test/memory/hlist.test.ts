/**
 * Lists that are walked without a lock: what they hold, and what a walker on a node that goes sees.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import type { HlistHead } from '../../src/memory/hlist.js';
import {
  hlistAddHeadRcu,
  hlistDelInitRcu,
  hlistEmpty,
  hlistFirst,
  hlistIsSingular,
  hlistNext,
  HlistNode,
  hlistUnhashed,
} from '../../src/memory/hlist.js';
import { createMemory, MemoryPort } from '../../src/memory/port.js';

const HEAD = 64 as HlistHead;
const NODES = 6;
const nodeAt = (index: number): HlistNode => (HEAD + 16 + HlistNode.words * index) as HlistNode;

function contents(port: MemoryPort, from = hlistFirst(port, HEAD)): HlistNode[] {
  const nodes: HlistNode[] = [];
  for (let node = from; node !== 0; node = hlistNext(port, node)) {
    nodes.push(node);
    assert.ok(nodes.length <= NODES, 'the list ends');
  }
  return nodes;
}

test('a list does what an array does', () => {
  const step = fc.record({ out: fc.boolean(), index: fc.nat(NODES - 1) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const port = new MemoryPort(createMemory(4096));
      let model: HlistNode[] = [];
      for (const { out, index } of steps) {
        const node = nodeAt(index);
        const isIn = model.includes(node);
        assert.equal(hlistUnhashed(port, node), !isIn);
        if (out) assert.equal(hlistDelInitRcu(port, node), isIn);
        else if (!isIn) hlistAddHeadRcu(port, node, HEAD);
        const others = model.filter((one) => one !== node);
        if (out) model = others;
        else if (!isIn) model = [node, ...model];
        assert.deepEqual(contents(port), model);
        assert.equal(hlistEmpty(port, HEAD), model.length === 0);
        assert.equal(hlistIsSingular(port, HEAD), model.length === 1);
      }
    }),
  );
});

test('who stands on a node that is taken off goes on from there', () => {
  const port = new MemoryPort(createMemory(4096));
  const [last, middle, first] = [nodeAt(0), nodeAt(1), nodeAt(2)];
  for (const node of [last, middle, first]) hlistAddHeadRcu(port, node, HEAD);
  hlistDelInitRcu(port, middle);
  assert.deepEqual(contents(port, middle), [middle, last]);
  assert.deepEqual(contents(port), [first, last]);
  hlistDelInitRcu(port, last);
  assert.deepEqual(contents(port, middle), [middle, last], 'both wait for the walker to leave');
  assert.deepEqual(contents(port), [first]);
});
