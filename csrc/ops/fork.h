// Torch's threads when the process forks.
#pragma once

#include <cstdint>

namespace kdnative {

// Whether the calling thread's pool stayed behind in the process that this one was forked from: a parallel region would
// wait for it for ever.
bool pool_is_lost();

// Of torch's number of threads, how many the calling thread can use: one where its pool is lost, and then a line on
// stderr says so, once.
int64_t usable_threads(int64_t threads);

// Sets torch's number of threads for the calling thread alone, and returns what it was; 0 where that can't be done.
int64_t set_threads_here(int64_t threads);

// For tests: forks leave the pool as it is, as with an OpenMP runtime that can't give it up.
void keep_pool_at_fork(bool keep);

}  // namespace kdnative
