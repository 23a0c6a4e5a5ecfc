/**
 * What the flags of a VMA mean for its entries.
 *
 * @module
 */
import { PTE_PRESENT, PTE_PROTNONE, PTE_WRITE } from './pte.js';
import { VM_ACCESS_FLAGS, VM_SHARED, VM_SOFTDIRTY, VM_WRITE } from './types.js';

/** The flags of an entry that lets the hardware do what the VMA allows, save writing. */
export function vmaPteFlags(vmFlags: number): number {
  return (vmFlags & VM_ACCESS_FLAGS) === 0 ? PTE_PROTNONE : PTE_PRESENT;
}

/** As above; shared memory may be written too, unless somebody looks for who writes. @kernel vma->vm_page_prot */
export function vmPageProt(vmFlags: number): number {
  const wanted = VM_SHARED | VM_WRITE | VM_SOFTDIRTY;
  return vmaPteFlags(vmFlags) | ((vmFlags & wanted) === wanted ? PTE_WRITE : 0);
}
