// Writes docs/fidelity.md afresh: runs all recorded cases, and reads what the source says of itself. A test compares.
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { loadCorpus, runCorpus } from 'faultline';

import { fidelityText } from '../dist/test/support/fidelity.js';

const STALL_MS = 20_000;

const root = fileURLToPath(new URL('../', import.meta.url));
const corpora = ['corpus-6.12.json', 'corpus-random-6.12.json'].map((name) =>
  loadCorpus(`${root}test/data/linux/${name}`),
);
const cases = corpora.flatMap((corpus) => corpus.cases);
const results = await runCorpus(cases, {
  parallel: 2,
  tlb: false,
  atomics: 'wasm',
  build: 'parallel',
  stallMs: STALL_MS,
});
writeFileSync(`${root}docs/fidelity.md`, await fidelityText(results, root, corpora[0]));
