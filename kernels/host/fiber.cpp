#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef __x86_64__
#include <ucontext.h>
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

#ifdef __x86_64__

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

FiberContext make_fiber(char*, char* top, void (*entry)()) {
    void** stack = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63));
    *--stack = nullptr; // where a return address would be: a called function's stack is 8 off 16
    *--stack = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--stack = nullptr;
    return stack;
}

#else

// The context lies at the lower end of the fiber's own stack, or, for what is not one of our
// fibers, in memory of its host thread.
FiberContext make_fiber(char* base, char* top, void (*entry)()) {
    ucontext_t* context = reinterpret_cast<ucontext_t*>(base);
    getcontext(context);
    context->uc_stack.ss_sp = base + sizeof(ucontext_t);
    context->uc_stack.ss_size = size_t(top - base) - sizeof(ucontext_t);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}

extern "C" void voxtile_emulator_switch(FiberContext* save, FiberContext to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}

#endif

} // namespace emulator
