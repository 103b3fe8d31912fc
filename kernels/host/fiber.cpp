#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

static constexpr size_t PAGE = 4096;

void Stacks::reserve(size_t count) {
    while (stacks_.size() < count) {
        void* mapping = mmap(nullptr, BYTES + PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (mapping == MAP_FAILED || mprotect(mapping, PAGE, PROT_NONE) != 0) {
            perror("voxtile emulator: stacks");
            abort();
        }
        stacks_.push_back(static_cast<char*>(mapping) + PAGE);
    }
}

Stacks::~Stacks() {
    for (char* stack : stacks_) munmap(stack - PAGE, BYTES + PAGE);
}

#ifdef __SANITIZE_ADDRESS__

// AddressSanitizer keeps books on which stack is in use.
void switch_fiber(FiberContext& from, const FiberContext& to) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.stack, to.stack_bytes);
    voxtile_emulator_switch(&from.state, to.state);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

void fiber_begins(FiberContext& before) { __sanitizer_finish_switch_fiber(nullptr, &before.stack, &before.stack_bytes); }

// What was on the stack has ended without returning.
static void forget_frames(char* base, char* top) { __asan_unpoison_memory_region(base, size_t(top - base)); }

#else

void fiber_begins(FiberContext&) {}
static void forget_frames(char*, char*) {}

#endif

static void clean_stack(char* base, char* top, bool poison) {
    forget_frames(base, top);
    if (poison) memset(top - 8192, 0xff, 8192);
}

#if defined(__x86_64__) && !defined(VOXTILE_EMULATOR_UCONTEXT)

// Lanes of a warp mostly wait at the same place, so returning is what the processor predicts well.
asm(R"(
.text
.p2align 4
.globl voxtile_emulator_switch
.hidden voxtile_emulator_switch
.type voxtile_emulator_switch, @function
voxtile_emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size voxtile_emulator_switch, . - voxtile_emulator_switch
)");

FiberContext make_fiber(char* base, char* top, void (*entry)(), bool poison) {
    clean_stack(base, top, poison);
    void** stack = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63));
    *--stack = nullptr; // where a return address would be: a called function's stack is 8 off 16
    *--stack = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--stack = nullptr;
    return {stack, base, size_t(top - base)};
}

#else

// The context lies at the lower end of the fiber's own stack, or, for what is not one of our
// fibers, in memory of its host thread.
FiberContext make_fiber(char* base, char* top, void (*entry)(), bool poison) {
    clean_stack(base, top, poison);
    ucontext_t* context = reinterpret_cast<ucontext_t*>(base);
    getcontext(context);
    context->uc_stack.ss_sp = base + sizeof(ucontext_t);
    context->uc_stack.ss_size = size_t(top - base) - sizeof(ucontext_t);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return {context, base, size_t(top - base)};
}

extern "C" void voxtile_emulator_switch(void** save, void* to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}

#endif

} // namespace emulator
