// What a fork copies is the thread that forks. With GNU OpenMP that thread remembers its pool, whose other threads the
// child does not have, and the child's first parallel region waits for them for ever. So just before a fork the pool is
// given up: its threads end, and parent and child each start new ones when they next need them. The pools of other
// threads do not matter, for neither they nor their owners exist in the child. The handlers are those of C, because not
// every server forks through Python.
#include "fork.h"

#ifdef __linux__

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>

#include "torch_abi.h"

namespace kdnative {
namespace {

using PausePool = int (*)(int kind);
constexpr int kHard = 2;  // omp_pause_hard

void* library_of(void* function) {
  Dl_info info;
  return function != nullptr && dladdr(function, &info) != 0 ? info.dli_fbase : nullptr;
}

uint32_t torch_threads() {
  uint32_t threads = 0;
  torch_get_num_threads(&threads);
  return threads;
}

// The OpenMP runtime that torch uses. A process may hold several, each with pools of its own.
struct Runtime {
  bool mends_itself = false;  // LLVM's and Intel's have handlers of their own
  PausePool pause = nullptr;  // GNU's, from GCC 9 on
  void (*set_threads)(int) = nullptr;

  Runtime() {
    void* set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!is_torchs(reinterpret_cast<void (*)(int)>(set))) return;
    set_threads = reinterpret_cast<void (*)(int)>(set);
    const auto in_same = [set](const char* name) {
      void* function = dlsym(RTLD_DEFAULT, name);
      return library_of(function) == library_of(set) ? function : nullptr;
    };
    mends_itself = in_same("__kmpc_fork_call") != nullptr;
    pause = reinterpret_cast<PausePool>(in_same("omp_pause_resource_all"));
  }

  // Torch's answer follows the number that is set.
  static bool is_torchs(void (*set)(int)) {
    const uint32_t threads = torch_threads();
    if (set == nullptr || threads == 0) return false;
    set(static_cast<int>(threads) + 1);
    const bool follows = torch_threads() == threads + 1;
    set(static_cast<int>(threads));
    return follows;
  }
};

// Of the `stat` in a folder of /proc, what follows the name of the program: the state, then numbers. Empty where it
// can't be read.
std::string status_of(const std::string& folder) {
  char text[512];
  std::FILE* file = std::fopen((folder + "/stat").c_str(), "re");
  if (file == nullptr) return "";
  text[std::fread(text, 1, sizeof text - 1, file)] = 0;
  std::fclose(file);
  const char* name_ends = std::strrchr(text, ')');
  return name_ends != nullptr && name_ends[1] == ' ' ? name_ends + 2 : "";
}

bool forked_before_loading() {
  constexpr unsigned kForkedWithoutExec = 0x40;  // PF_FORKNOEXEC
  unsigned flags = 0;
  std::sscanf(status_of("/proc/self").c_str(), "%*c %*d %*d %*d %*d %*d %u", &flags);
  return (flags & kForkedWithoutExec) != 0;
}

// The threads of this process but the one that asks. Where that can't be read, there may be some.
struct OtherThreads {
  bool any = true, running = true;

  OtherThreads() {
    std::error_code failed;
    std::filesystem::directory_iterator folder("/proc/self/task", failed);
    int64_t threads = 0, sleeping = 0;
    for (; !failed && folder != std::filesystem::directory_iterator(); folder.increment(failed)) {
      ++threads;
      sleeping += status_of(folder->path()).substr(0, 1) == "S";
    }
    if (failed) return;
    any = threads != 1;
    running = threads - sleeping != 1;
  }
};

const Runtime runtime;
std::mutex forking;  // so that no thread forks while the pool of another is ending
std::atomic<bool> keep_pool{false}, said{false};

// A thread that ends may need locks, such as those of MKL's memory. Locks that another thread held at a fork stay shut
// in the child: there a pool that is given up might never end. So it is kept, unless no other thread ran at the fork.
bool threads_can_end = !forked_before_loading(), threads_can_end_in_child = false;

// Of each thread, and so of the one that a child begins with.
thread_local bool lost = false, lost_in_child = false;
thread_local bool had_threads = false;  // when it forked

bool give_up_pool() {
  if (keep_pool || lost) return false;
  if (runtime.mends_itself) return true;
  return threads_can_end && runtime.pause != nullptr && runtime.pause(kHard) == 0;  // not 0: within a parallel region
}

void before_fork() {
  forking.lock();
  const bool given_up = give_up_pool();
  const OtherThreads others;
  threads_can_end_in_child = threads_can_end && !others.running;
  lost_in_child = lost || (!given_up && others.any);
  if (lost_in_child) had_threads = had_threads || torch_threads() > 1;
}

void in_parent() { forking.unlock(); }

void in_child() {
  threads_can_end = threads_can_end_in_child;
  lost = lost_in_child;
  forking.unlock();
}

const int registered = pthread_atfork(before_fork, in_parent, in_child);

}  // namespace

bool pool_is_lost() { return lost; }

int64_t usable_threads(int64_t threads) {
  if (!lost) return threads;
  if ((threads > 1 || had_threads) && !said.exchange(true))
    std::fputs(
        "kdnative: this process was forked from one whose threads were running, and did not get them: it uses one "
        "thread. To use more, start it with the method 'spawn'; where one is enough, call torch.set_num_threads(1) "
        "before the model is loaded.\n",
        stderr);
  return 1;
}

int64_t set_threads_here(int64_t threads) {
  if (runtime.set_threads == nullptr || threads < 1) return 0;
  const int64_t before = torch_threads();
  runtime.set_threads(static_cast<int>(threads));
  return before;
}

void keep_pool_at_fork(bool keep) { keep_pool = keep; }

}  // namespace kdnative

#else

namespace kdnative {

bool pool_is_lost() { return false; }
int64_t usable_threads(int64_t threads) { return threads; }
int64_t set_threads_here(int64_t) { return 0; }
void keep_pool_at_fork(bool) {}

}  // namespace kdnative

#endif
