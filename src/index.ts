/**
 * The public API of faultline.
 *
 * The locks can be used from plain worker threads, without crews, devices or address spaces: boot a
 * machine, make locks in its memory, send its handle to the workers, attach a CPU in each.
 *
 *   // main thread                                            // worker i
 *   const machine = bootMachine({ cpus: 4, ramBytes: 2**20 });  const cpu = attachCpu(handle, i);
 *   const sem = kzalloc(machine.cpu, Rwsem);                  downRead(cpu, sem);
 *   initRwsem(machine.cpu, sem, lockClass('my lock'));        upRead(cpu, sem);
 *
 * @module
 */
export {
  EXIT_GOOD,
  EXIT_INTERNAL,
  EXIT_INTERRUPTED,
  EXIT_USAGE,
  EXIT_VIOLATION,
  FaultlineError,
  KernelBug,
} from './base/bug.js';
export * as errno from './base/errno.js';
export { PAGE_SIZE, PAGE_WORDS } from './base/units.js';
export { type Difference } from './conform/compare.js';
export { type Corpus, loadCorpus, parseCorpus, type RecordedCase } from './conform/corpus.js';
export { type CaseResult, type ConformOptions, runCorpus } from './conform/run.js';
export * as debug from '#debug';
export * as lockHow from './debug/lock-how.js';
export { bootDeferred } from './deferred/boot.js';
export * from './deferred/kref.js';
export * from './deferred/kthread.js';
export { runKworker, runPendingWork, stopKworkers } from './deferred/kworker.js';
export * from './deferred/percpu-refcount.js';
export {
  callRcu,
  rcuBarrier,
  type RcuOps,
  rcuReadLock,
  rcuReadUnlock,
  synchronizeRcu,
} from './deferred/rcu.js';
export * from './deferred/srcu.js';
export {
  Kthread,
  PercpuRef,
  RcuHead,
  SrcuStruct,
  WorkqueueStruct,
  WorkStruct,
} from './deferred/types.js';
export {
  allocWorkqueue,
  cancelWorkSync,
  destroyWorkqueue,
  drainWorkqueue,
  flushWork,
  flushWorkqueue,
  initWork,
  queueSystemWork,
  queueWork,
  systemWq,
  type WorkOps,
  workPending,
} from './deferred/workqueue.js';
export {
  deviceDriverAttach,
  deviceDriverDetach,
  driverRegister,
  driverUnregister,
} from './device/bind.js';
export { bootDevices } from './device/boot.js';
export { type BusOps, type DriverOps, initBus } from './device/bus.js';
export { deviceAdd, deviceDel, deviceInitialize, deviceUnregister } from './device/device.js';
export * from './device/device-ref.js';
export * from './device/devm-region.js';
export {
  devmAddAction,
  devmAddActionOrReset,
  type DevmActionOps,
  devmKfree,
  devmKzalloc,
  devmReleaseAction,
  devmRemoveAction,
  devresReleaseAll,
} from './device/devres.js';
export { type Era, ERAS, type ExportedSymbol, exportedSymbols } from './device/exports.js';
export {
  defineModule,
  findModule,
  findModuleGet,
  getTaint,
  isModule,
  loadModule,
  moduleData,
  type ModuleDefinition,
  type ModuleOps,
  modulePut,
  moduleRefcount,
  setModuleData,
  TAINT_PROPRIETARY_MODULE,
  tryModuleGet,
  unknownSymbolMessage,
  unknownSymbols,
  unloadModule,
} from './device/module.js';
export * as pci from './device/pci.js';
export { releaseMemRegion, requestFreeMemRegion, requestMemRegion } from './device/region.js';
export * as resource from './device/resource.js';
export { Bus, Device, DeviceDriver, KernelModule, PciDev, Resource } from './device/types.js';
export * as dax from './drivers/dax/dax.js';
export * as nfitTest from './drivers/nfit-test/nfit-test.js';
export { p2pmemMunmap } from './drivers/p2pdma/mappings.js';
export { p2pmemMmap } from './drivers/p2pdma/mmap.js';
export { pciAllocP2pmem, pciFreeP2pmem, pciP2pdmaAddResource } from './drivers/p2pdma/p2pdma.js';
export { P2pmemMapping } from './drivers/p2pdma/types.js';
export * as pmem from './drivers/pmem/pmem.js';
export {
  closeContext,
  createSvmDevice,
  destroySvmDevice,
  findContext,
  getContext,
  openContext,
  putContext,
} from './drivers/svm/device.js';
export {
  defineSvmDriver,
  svmCountInvalidation,
  svmDriver,
  type SvmDriver,
  svmFault,
  svmInvalidate,
} from './drivers/svm/driver.js';
export { PROTOCOLS, type ProtocolEntry } from './protocols/registry.js';
export * as svmEngine from './drivers/svm/engine.js';
export { deviceClearRange, deviceFence, deviceMapRange } from './drivers/svm/page-table.js';
export { bootSvmStats, type SvmTotals, svmTotals } from './drivers/svm/stats.js';
export { SvmContext, SvmDevice, SvmEngine, SvmRequest } from './drivers/svm/types.js';
export { TASKS_MAX } from './explore/control.js';
export { type ExploreOptions, exploreProgram } from './explore/explore-program.js';
export {
  defineProgram,
  type ExploreProgram,
  type Grade,
  GRADES,
  type Operation,
  type Outcome,
  type ProgramTask,
  task,
} from './explore/program.js';
export {
  CONTROLLER_AGAIN,
  CONTROLLER_END,
  CONTROLLER_TASK,
  controlFromOutside,
} from './explore/outside-controller.js';
export { findProgram, type ProgramRef } from './explore/program-ref.js';
export { PROGRAMS } from './explore/programs/registry.js';
export { perfettoTrace } from './explore/explain/perfetto.js';
export { renderExplanation } from './explore/explain/render.js';
export { type Mutant, MUTANTS_TABLE } from './explore/mutants.js';
export {
  replaySchedule,
  type ReplayScheduleOptions,
  type ReplayScheduleReport,
} from './explore/replay.js';
export {
  type EngineName,
  ENGINES,
  type ExploreReport,
  type FailureReport,
  type OutcomeCount,
  STRATEGIES,
  type StrategyName,
  type StrategyReport,
} from './explore/report.js';
export { hmmRangeFault } from './hmm/range-fault.js';
export * as hmm from './hmm/types.js';
export { Crew, type CrewMember, type CrewOptions, type MemberResult } from './host/crew.js';
export { tuneEngine } from './host/engine.js';
export { type FailureKind, lockReports, MachineFailure } from './host/failure.js';
export { type Build } from './host/pool.js';
export { type LitmusTest, type LitmusVariant, type Safety } from './litmus/litmus.js';
export { type LitmusReport, type LitmusResult } from './litmus/result.js';
export { type LitmusChoice, type LitmusOptions, runLitmus } from './litmus/run.js';
export { LITMUS_TESTS } from './litmus/tests/registry.js';
export { attachCpu, type BootedMachine, bootMachine, type MachineConfig } from './machine/boot.js';
export { type Cpu } from './machine/cpu.js';
export * as gfp from './machine/gfp.js';
export { failEnd, failNth, type FailSite, failSite, failSiteName } from './machine/fail.js';
export { CPUS_MAX } from './machine/limits.js';
export { type LockClass, lockClass } from './machine/lock-class.js';
export { defineOps, opsAt, opsIndex, type OpsTable, registerOps } from './machine/ops-table.js';
export { allocPercpu, perCpuPtr, thisCpuPtr } from './machine/percpu.js';
export {
  checkHalted,
  cpuRelax,
  HALT_STOP,
  haltMachine,
  MachineHalted,
  mightSleep,
  nonBlockEnd,
  nonBlockStart,
  noteProgress,
  sendSigkill,
} from './machine/sched.js';
export { kernelLog, printk } from './machine/printk.js';
export { allocWords, freeWords, kfree, kzalloc } from './machine/slab.js';
export { warningCount, warningTexts } from './machine/warn.js';
export * as memory from '#memory';
export * as layout from './memory/layout.js';
export { type AtomicsForm } from './memory/native.js';
export { type MemoryHandle } from './memory/port.js';
export { bootMemremap } from './memremap/core.js';
export * from './memremap/devm-memremap.js';
export { HmmDevmem, hmmDevmemAdd, hmmDevmemPfn } from './memremap/hmm-devmem.js';
export { pageToPfn, pfnToPage } from './memremap/hotplug.js';
export { memremapPages, memunmapPages } from './memremap/memremap.js';
export * as pagemap from './memremap/pagemap.js';
export { DevicePage, DevPagemap } from './memremap/types.js';
export * from './memremap/zone-device.js';
export { loadWord, storeWord } from './mm/access.js';
export { bootMm } from './mm/boot.js';
export { clearReferenced, clearSoftDirty } from './mm/clear-refs.js';
export { mmput, mmputAsync } from './mm/exit.js';
export { type ExitChainOps, exitChainRegister, exitChainUnregister } from './mm/exit-chain.js';
export { type FileOperations, fput, getFile, openDeviceFile } from './mm/file.js';
export { dupMm } from './mm/fork.js';
export { accessRemotePage, FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from './mm/gup.js';
export { madvise } from './mm/madvise.js';
export { mlock, mlockall, msync, munlock, munlockall } from './mm/mlock.js';
export { mmAlloc, mmget, mmgetNotZero, useMm } from './mm/mm-struct.js';
export { brk, mmap } from './mm/mmap.js';
export * as mmapLock from './mm/mmap-lock.js';
export { mprotect } from './mm/mprotect.js';
export { mremap } from './mm/mremap.js';
export { munmap } from './mm/munmap.js';
export { fallocate, ftruncate } from './mm/truncate.js';
export { File, MmStruct, VmAreaStruct } from './mm/types.js';
export * as uapi from './mm/uapi.js';
export {
  mmuIntervalCheckRetry,
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from './notifier/mmu-interval-notifier.js';
export {
  LIST_END_ALL,
  LIST_END_BOTH,
  LIST_REFUSE_SHARED,
  LIST_UNPAIRED,
  type ListForm,
  setListForm,
} from './notifier/boot.js';
export * from './notifier/mmu-notifier.js';
export {
  mmuNotifierArchInvalidateSecondaryTlbs,
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  type MmuNotifierOps,
  mmuNotifierTestYoung,
} from './notifier/mmu-notifier-list.js';
export * from './notifier/mmu-notifier-range.js';
export * from './notifier/mmu-notifier-register.js';
export { MmuIntervalNotifier, MmuNotifier, MmuNotifierRange } from './notifier/types.js';
export * from './process/files.js';
export {
  bootOomReaper,
  gaveUpCount,
  oomKill,
  oomReapTaskMm,
  processMrelease,
  reapedCount,
  setOomDelays,
  startOomReaper,
  stopOomReaper,
  waitForReaped,
} from './process/oom-reaper.js';
export * from './process/task.js';
export { FilesStruct, ScmQueue, Task } from './process/types.js';
export * from './sync/completion.js';
export * from './sync/mutex.js';
export * from './sync/refcount.js';
export * from './sync/rwsem.js';
export * from './sync/seqcount.js';
export * from './sync/seqlock.js';
export * from './sync/spinlock.js';
export * from './sync/wait-queue.js';
export {
  type Catch,
  type GalleryEntry,
  type GalleryOptions,
  type GalleryReport,
  showGallery,
} from './torture/gallery.js';
export {
  defineTortureLock,
  LOCK_WORDS_MAX,
  type LoadedLock,
  type TortureLock,
} from './torture/lock.js';
export {
  type CpuPlace,
  type Detector,
  type MemberResult as TortureMemberResult,
  type RoleResult as TortureRoleResult,
  type TargetResult,
  type TortureReport,
  type Violation,
} from './torture/result.js';
export {
  rolesOf,
  tortureBusted,
  type TortureOptions,
  tortureTarget,
  tortureTargets,
} from './torture/run.js';
export { runSelftest } from './torture/selftest/run.js';
export { type SelftestTable } from './torture/selftest/table.js';
export {
  PHASE_LIVENESS,
  PHASE_SAFETY,
  type TortureConfig,
  type TortureMember,
  type TortureTarget,
} from './torture/target.js';
export { findTarget, TORTURE_TARGETS } from './torture/targets/registry.js';
export {
  BindArena,
  bindFailures,
  type BindFailures,
  bootBindFailures,
} from './workloads/bind-failures.js';
export {
  type FallibleOperation,
  type InjectedFailure,
  walkFailures,
} from './workloads/failure-walk.js';
export { type Latencies } from './workloads/histogram.js';
export {
  type LoadedDriver,
  measurePoint,
  type MeasureOptions,
  type PointResult,
  type RoleResult,
} from './workloads/measure.js';
export { findWorkload, WORKLOADS } from './workloads/registry.js';
export { type StracePlan } from './workloads/strace/plan.js';
export {
  type OutcomeDifference,
  planReplay,
  type ReplayOptions,
  type ReplayReport,
  replayStrace,
} from './workloads/strace/replay.js';
export { type Pattern, PATTERNS } from './workloads/strace/replay-device.js';
export { type PointConfig, type Workload } from './workloads/workload.js';
