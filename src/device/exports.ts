/**
 * Which symbols of the kernel modules may use, and which of them are for GPL modules only, at three times.
 *
 * Kernel     EXPORT_SYMBOL, EXPORT_SYMBOL_GPL
 *
 * The three columns: 4.18, before devm_memremap_pages and hmm_devmem_add were reclassified; 5.0, after it;
 * and 6.12. A dash is a name that was not exported then, or is not known to have been: a module that needs it
 * gets what it would get for any other unknown name.
 *
 * @module
 */

/** When: the release of the kernel whose exports there are. */
export const ERAS = ['4.18', '5.0', '6.12'] as const;
export type Era = (typeof ERAS)[number];

/** For whom a symbol is: everybody, or GPL modules only. */
export type ExportKind = 'plain' | 'gpl';

const TABLE = `
                                        4.18   5.0    6.12
  devm_memremap_pages                   plain  gpl    gpl
  devm_memunmap_pages                   -      -      gpl
  memremap_pages                        -      -      gpl
  memunmap_pages                        -      -      gpl
  get_dev_pagemap                       -      -      gpl
  __put_devmap_managed_page             gpl    gpl    -
  request_free_mem_region               -      -      gpl
  devm_request_free_mem_region          -      -      gpl
  region_intersects                     gpl    gpl    gpl

  hmm_devmem_add                        plain  gpl    -
  hmm_devmem_add_resource               plain  gpl    -
  hmm_mirror_register                   plain  plain  -
  hmm_mirror_unregister                 plain  plain  -
  hmm_vma_get_pfns                      plain  plain  -
  hmm_vma_range_done                    plain  plain  -
  hmm_vma_fault                         plain  plain  -
  hmm_range_fault                       -      -      plain

  migrate_vma                           plain  plain  -
  migrate_vma_setup                     -      -      plain
  migrate_vma_pages                     -      -      plain
  migrate_vma_finalize                  -      -      plain
  migrate_device_range                  -      -      plain
  migrate_device_pages                  -      -      plain
  migrate_device_finalize               -      -      plain
  make_device_exclusive_range           -      -      gpl

  mmu_notifier_register                 gpl    gpl    gpl
  mmu_notifier_unregister               gpl    gpl    gpl
  mmu_notifier_get_locked               -      -      gpl
  mmu_notifier_put                      -      -      gpl
  mmu_notifier_synchronize              -      -      gpl
  mmu_interval_notifier_insert          -      -      gpl
  mmu_interval_notifier_remove          -      -      gpl
  mmu_interval_read_begin               -      -      gpl
  mmput                                 gpl    gpl    gpl
  mmput_async                           -      -      gpl

  percpu_ref_init                       gpl    gpl    gpl
  percpu_ref_exit                       gpl    gpl    gpl
  percpu_ref_kill_and_confirm           gpl    gpl    gpl
  percpu_ref_resurrect                  -      -      gpl

  pci_p2pdma_add_resource               -      gpl    gpl
  pci_p2pdma_distance_many              -      -      gpl
  pci_alloc_p2pmem                      -      gpl    gpl
  pci_free_p2pmem                       -      gpl    gpl

  devm_add_action                       gpl    gpl    -
  __devm_add_action                     -      -      gpl
  devm_kmalloc                          gpl    gpl    gpl
  devm_kfree                            gpl    gpl    gpl
  __devm_request_region                 plain  plain  plain
  __request_region                      plain  plain  plain
  __release_region                      plain  plain  plain
  device_register                       gpl    gpl    gpl
  device_unregister                     gpl    gpl    gpl
  driver_register                       gpl    gpl    gpl
  driver_unregister                     gpl    gpl    gpl

  mutex_lock                            plain  plain  plain
  mutex_trylock                         plain  plain  plain
  mutex_unlock                          plain  plain  plain
  down_read                             plain  plain  plain
  down_write                            plain  plain  plain
  up_read                               plain  plain  plain
  up_write                              plain  plain  plain
  downgrade_write                       plain  plain  plain
  complete                              plain  plain  plain
  complete_all                          plain  plain  plain
  wait_for_completion                   plain  plain  plain
  kfree                                 plain  plain  plain
`;

/** One symbol: for whom it is in each era. */
export interface ExportedSymbol {
  readonly name: string;
  readonly kinds: readonly (ExportKind | undefined)[];
}

const symbols: ReadonlyMap<string, ExportedSymbol> = new Map(
  TABLE.trim()
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((columns) => columns.length > 1)
    .map(([name = '', ...kinds]) => [
      name,
      { name, kinds: kinds.map((kind) => (kind === '-' ? undefined : (kind as ExportKind))) },
    ]),
);

/** All symbols, with their kinds in the order of ERAS. */
export function exportedSymbols(): readonly ExportedSymbol[] {
  return [...symbols.values()];
}

/** For whom a symbol is in the era with that index; undefined if it is not exported then. */
export function exportKind(symbol: string, era: number): ExportKind | undefined {
  return symbols.get(symbol)?.kinds[era];
}
