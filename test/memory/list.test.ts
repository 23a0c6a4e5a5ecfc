import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import {
  initListHead,
  listAdd,
  listAddTail,
  listDelInit,
  listEmpty,
  ListHead,
  listIsSingular,
  listNext,
} from '../../src/memory/list.js';
import { createMemory, MemoryPort } from '../../src/memory/port.js';

const HEAD = 64 as ListHead;
const NODES = 8;
const nodeAt = (index: number): ListHead => (HEAD + ListHead.words * (1 + index)) as ListHead;

function contents(port: MemoryPort): ListHead[] {
  const nodes: ListHead[] = [];
  for (let node = listNext(port, HEAD); node !== HEAD; node = listNext(port, node)) {
    nodes.push(node);
    assert.ok(nodes.length <= NODES, 'the list comes back to its head');
  }
  return nodes;
}

function freshList(): MemoryPort {
  const port = new MemoryPort(createMemory(4096));
  initListHead(port, HEAD);
  for (let i = 0; i < NODES; i++) initListHead(port, nodeAt(i));
  return port;
}

test('a list does what an array does', () => {
  const step = fc.record({
    what: fc.constantFrom('first', 'last', 'out'),
    index: fc.nat(NODES - 1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const port = freshList();
      let model: ListHead[] = [];
      for (const { what, index } of steps) {
        const node = nodeAt(index);
        if (what === 'out') {
          listDelInit(port, node);
          model = model.filter((other) => other !== node);
        } else if (model.includes(node)) {
          continue;
        } else if (what === 'first') {
          listAdd(port, node, HEAD);
          model.unshift(node);
        } else {
          listAddTail(port, node, HEAD);
          model.push(node);
        }
        assert.deepEqual(contents(port), model);
        assert.equal(listEmpty(port, HEAD), model.length === 0);
        assert.equal(listIsSingular(port, HEAD), model.length === 1);
        assert.equal(listEmpty(port, node), !model.includes(node));
      }
    }),
  );
});

test('taking a node out twice does no harm', () => {
  const port = freshList();
  listAdd(port, nodeAt(0), HEAD);
  listAdd(port, nodeAt(1), HEAD);
  listDelInit(port, nodeAt(0));
  listDelInit(port, nodeAt(0));
  assert.deepEqual(contents(port), [nodeAt(1)]);
});
