/*
 * The collision-retry protocol of interval notifiers as a model for Relacy (Debian: relacy-dev): what
 * `faultline explore lt-5` is compared with, in schedules per second and in schedules until a mistake is
 * found. One invalidation, one fault, one page; a spinlock and a condition stand for the subscriptions' lock
 * and wait queue, a mutex for the driver's lock. It is a model of the protocol; faultline runs the kernel
 * layers themselves.
 *
 * Build: g++ -O2 -std=gnu++11 -w interval_retry_relacy.cpp -o interval_retry [-DNO_WAIT=1]
 *        NO_WAIT: the fault does not wait for an invalidation that is under way (mutant M-4)
 * Run:   ./interval_retry SCHEDULES SCHEDULER        0 random, 1 bounded by context switches, 2 full search
 * Output: one JSON object: {"ok": true if no schedule failed, "schedules": how many were run}
 */
#include <relacy/relacy.hpp>

#include <cstdio>
#include <cstdlib>

#ifndef NO_WAIT
#define NO_WAIT 0
#endif

static const int OLD_FRAME = 100, NEW_FRAME = 200;

struct retry_test : rl::test_suite<retry_test, 2> {
  rl::mutex lock, driver; /* the subscriptions', the driver's */
  rl::condition_variable_any moved;
  rl::atomic<int> mm_seq, interval_seq, cpu_pte, device_pte;
  int active;

  void before() {
    active = 0;
    mm_seq($) = 2;
    interval_seq($) = 1;
    cpu_pte($) = OLD_FRAME;
    device_pte($) = 0;
  }

  void after() {
    int frame = device_pte($);
    RL_ASSERT(frame != OLD_FRAME);
  }

  void invalidate() {
    lock.lock($);
    active++;
    int seq = mm_seq($) | 1;
    mm_seq($) = seq;
    lock.unlock($);

    driver.lock($);
    interval_seq($) = seq;
    device_pte($) = 0;
    driver.unlock($);

    cpu_pte($) = NEW_FRAME;

    lock.lock($);
    if (--active == 0) mm_seq($) = mm_seq($) + 1;
    moved.notify_all($);
    lock.unlock($);
  }

  void fault() {
    for (;;) {
      lock.lock($);
      int seq = interval_seq($);
      while (!NO_WAIT && mm_seq($) == seq) moved.wait(lock, $);
      lock.unlock($);

      int frame = cpu_pte($);
      driver.lock($);
      if (interval_seq($) == seq) {
        device_pte($) = frame;
        driver.unlock($);
        return;
      }
      driver.unlock($);
    }
  }

  void thread(unsigned id) {
    if (id == 0) invalidate();
    else fault();
  }
};

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s SCHEDULES SCHEDULER\n", argv[0]);
    return 2;
  }
  rl::test_params params;
  params.iteration_count = atoi(argv[1]);
  params.search_type = (rl::scheduler_type_e)atoi(argv[2]);
  params.output_stream = &std::cerr;
  params.progress_stream = &std::cerr;
  bool ok = rl::simulate<retry_test>(params);
  printf("{\"ok\": %s, \"schedules\": %llu}\n", ok ? "true" : "false",
         (unsigned long long)params.stop_iteration);
  return 0;
}
