// Lint rules. What is banned below the drivers keeps kernel code plain: no hidden allocation, no second
// door to shared memory, no exception handling (a KernelBug stops the machine).
import sort from 'eslint-plugin-simple-import-sort';
import tseslint from 'typescript-eslint';

const KERNEL_LAYERS = [
  'memory',
  'machine',
  'debug',
  'sync',
  'deferred',
  'device',
  'notifier',
  'mm',
  'hmm',
  'memremap',
  'process',
  'protocols',
];

const kernelRules = [
  { selector: 'TryStatement', message: 'kernel code does not catch' },
  { selector: 'AwaitExpression', message: 'kernel code blocks; it does not await' },
  {
    selector: 'ClassDeclaration',
    message: 'kernel state lives in shared memory: struct() and functions',
  },
];
const oneDoor = [
  {
    selector:
      "MemberExpression[object.name='cpu'][property.name=/^(words|addresses|bytes|load|store|countInside|storeRelaxed|add|or|and|swap|compareSwap|followLinks|copyCells|takeCells|clearRun|fill|copy)$/]",
    message: 'shared memory is reached through #memory',
  },
];

export default tseslint.config(
  { ignores: ['dist', 'node_modules', 'bench/build', 'examples'] },
  {
    files: ['**/*.ts', '**/*.cts'],
    extends: [...tseslint.configs.strictTypeChecked, ...tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    plugins: { sort },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/consistent-type-imports': [
        'error',
        { prefer: 'type-imports', fixStyle: 'inline-type-imports' },
      ],
      // an import of types alone must not load the module
      '@typescript-eslint/no-import-type-side-effects': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      // names of structs are values and types at once
      '@typescript-eslint/no-redeclare': 'off',
      // `for (;;)` with a `break` inside reads better than a flag
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: true },
      ],
      // struct offsets are numbers with a brand, added and compared on purpose
      '@typescript-eslint/no-unsafe-enum-comparison': 'off',
      'max-lines': ['error', { max: 600, skipComments: true, skipBlankLines: true }],
      'max-lines-per-function': ['error', { max: 70, skipComments: true, skipBlankLines: true }],
      'sort/imports': ['error', { groups: [['^node:'], ['^#', '^@?\\w'], ['^\\.']] }],
      'no-restricted-globals': ['error', 'Atomics', 'SharedArrayBuffer'],
      'no-restricted-syntax': ['error', ...oneDoor],
    },
  },
  {
    files: KERNEL_LAYERS.map((layer) => `src/${layer}/**/*.ts`),
    rules: { 'no-restricted-syntax': ['error', ...oneDoor, ...kernelRules] },
  },
  {
    files: ['src/memory/**/*.ts'],
    rules: {
      'no-restricted-globals': 'off',
      'no-restricted-syntax': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off', // an index into the machine's memory is there
    },
  },
  {
    files: ['src/explore/**/*.ts', 'src/torture/selftest/cases.ts'],
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'off', // an index into the control block is there
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off', // a CPU arrives as its port
    },
  },
  {
    files: ['src/machine/cpu.ts', 'src/machine/sched.ts'],
    rules: { 'no-restricted-syntax': ['error', ...oneDoor] }, // Cpu and MachineHalted are classes
  },
  {
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: {
      'max-lines-per-function': 'off',
      'no-restricted-globals': 'off',
      'no-restricted-syntax': 'off',
      '@typescript-eslint/no-floating-promises': 'off', // node:test's describe and test
      '@typescript-eslint/no-non-null-assertion': 'off',
    },
  },
);
