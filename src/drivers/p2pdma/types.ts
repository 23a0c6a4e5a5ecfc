/**
 * Layouts of the memory of PCI functions that is for other devices.
 *
 * @module
 */
import { DrainedRef } from '../../deferred/types.js';
import { pointer, type Ptr, struct, word } from '../../memory/layout.js';
import { ListHead } from '../../memory/list.js';
import { DevPagemap } from '../../memremap/types.js';

/** What a function has of such memory. @kernel struct pci_p2pdma */
export const P2pdma = struct('pci_p2pdma', {
  form: word, // PGMAP_*: how its page maps go; written once
  mended: word, // without the mistakes that 6.12 still has; written once
  pool: pointer<'gen_pool'>(), // written once
  shared: DrainedRef, // the count of all its page maps, in the oldest forms
});
export type P2pdma = Ptr<'pci_p2pdma'>;

/** The memory behind one base address register. @kernel struct pci_p2pdma_pagemap */
export const P2pdmaPagemap = struct('pci_p2pdma_pagemap', {
  pgmap: DevPagemap, // data: the function
  own: DrainedRef, // its own count, from 5.3 to 5.18
});
export type P2pdmaPagemap = Ptr<'pci_p2pdma_pagemap'>;

/** Such memory in an address space. @kernel struct vm_area_struct of a p2pmem/allocate file */
export const P2pmemMapping = struct('p2pmem_mapping', {
  link: ListHead, // in PciDev.mappings; under PciDev.mapLock, as is the next
  mapped: word, // pages that are mapped; 0 once the memory is being taken away
  first: word, // unit: frames
});
export type P2pmemMapping = Ptr<'p2pmem_mapping'>;
