// Threads of a block as fibers of one thread of the operating system: stacks, and the change from one to another.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__x86_64__) && !defined(GPU_EMULATOR_UCONTEXT)
#define GPU_EMULATOR_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace gpu::emulator {

constexpr size_t kStack = 256 << 10;  // reserved; pages that nobody touches cost nothing
constexpr size_t kGuard = 4096;

#if defined(GPU_EMULATOR_OWN_SWITCH)
// Saves what the System V ABI says that a callee keeps, changes stacks, restores the same. ucontext does it too, ten
// times slower, because it asks the kernel for the signal mask.
extern "C" void gpu_emulator_switch(void** save, void* to);
asm(R"(
.text
.weak gpu_emulator_switch
.type gpu_emulator_switch, @function
gpu_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gpu_emulator_switch, .-gpu_emulator_switch
)");

struct Context {
  void* sp = nullptr;
};
inline void switch_context(Context& from, Context& to) { gpu_emulator_switch(&from.sp, to.sp); }
inline void make_context(Context& context, char* stack, void (*entry)()) {
  uint64_t* top = reinterpret_cast<uint64_t*>(stack + kStack);
  *--top = 0;  // the stack is aligned at entry as after a call
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  context.sp = top;
}
#else
struct Context {
  ucontext_t u;
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
inline void make_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context.u);
  context.u.uc_stack.ss_sp = stack;
  context.u.uc_stack.ss_size = kStack;
  context.u.uc_link = nullptr;
  makecontext(&context.u, entry, 0);
}
#endif

// Stack number i, kept for later launches. Below it lies a page that ends the program when a stack overflows.
inline char* fiber_stack(size_t i) {
  thread_local std::vector<char*> stacks;
  while (stacks.size() <= i) {
    void* s = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) throw std::bad_alloc();
    mprotect(s, kGuard, PROT_NONE);
    stacks.push_back(static_cast<char*>(s) + kGuard);
  }
  return stacks[i];
}

// A fiber and the thread that runs it; AddressSanitizer is told of every change of stacks.
struct Fiber {
  Context context;
  char* stack = nullptr;
  void* fake_stack = nullptr;
};
struct Runner {
  Context context;
  const void* stack = nullptr;
  size_t stack_size = 0;
  void* fake_stack = nullptr;
};

inline void enter(Runner& runner, Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&runner.fake_stack, fiber.stack, kStack);
#endif
  switch_context(runner.context, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(runner.fake_stack, nullptr, nullptr);
#endif
}
inline void leave(Runner& runner, Fiber& fiber, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, runner.stack, runner.stack_size);
#endif
  switch_context(fiber.context, runner.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &runner.stack, &runner.stack_size);
#endif
}
// The first thing a fiber does.
inline void begin([[maybe_unused]] Runner& runner) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &runner.stack, &runner.stack_size);
#endif
}

}  // namespace gpu::emulator
