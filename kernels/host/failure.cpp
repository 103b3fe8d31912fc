#include "failure.h"
#include "block.h"
#include "memory.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

namespace emulator {

// "kernel conv3, block 0 1 0, thread 37 (warp 1 lane 5), in or after shuffle_xor at conv.cuh:12: "
static void print_place(Site site) {
    fprintf(stderr, "voxtile emulator: ");
    if (!current) return;
    Thread& self = running();
    const Block& block = *self.warp->block;
    fprintf(stderr, "kernel %s, block %u %u %u, thread %u (warp %u lane %u)", block.launch.kernel->name, block.place.block[0],
            block.place.block[1], block.place.block[2], self.index, self.warp->index, self.lane);
    if (site.line) {
        fprintf(stderr, ", %s:%d", site.file, site.line);
    } else if (self.site.line) {
        fprintf(stderr, ", in or after %s at %s:%d", self.operation, self.site.file, self.site.line);
    }
    fprintf(stderr, ": ");
}

void misuse(Site site, const char* format, ...) {
    print_place(site);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

static struct sigaction previous[2];

static void describe(const u8* address) {
    if (current) {
        Thread& self = running();
        const Block& block = *self.warp->block;
        ptrdiff_t shared = address - block.shared;
        if (shared >= -(256 << 10) && shared < (512 << 10)) {
            fprintf(stderr, "byte %td of shared memory of %u bytes\n", shared, block.launch.shared_bytes);
            return;
        }
        ptrdiff_t stack = address - reinterpret_cast<const u8*>(block.stack_base(self.index));
        if (stack < 0 && stack >= -4096) {
            fprintf(stderr, "its stack overflowed\n");
            return;
        }
    }
    Allocation nearest;
    if (find_allocation(address, nearest)) {
        ptrdiff_t offset = address - nearest.data;
        if (offset < 0) {
            fprintf(stderr, "%td bytes before an allocation of %zu bytes\n", -offset, nearest.bytes);
        } else if (size_t(offset) >= nearest.bytes) {
            fprintf(stderr, "%td bytes after the end of an allocation of %zu bytes\n", offset - ptrdiff_t(nearest.bytes), nearest.bytes);
        } else {
            fprintf(stderr, "byte %td of an allocation of %zu bytes, which only kernels may touch\n", offset, nearest.bytes);
        }
    } else {
        fprintf(stderr, "no memory of the device\n");
    }
}

static void on_fault(int signal, siginfo_t* information, void* context) {
    const u8* address = static_cast<const u8*>(information->si_addr);
    Allocation nearest;
    bool ours = current || (find_allocation(address, nearest) && address >= nearest.mapping &&
                            address < nearest.mapping + nearest.mapping_bytes);
    if (!ours) {
        // The process's own affair.
        sigaction(signal, &previous[signal == SIGBUS], nullptr);
        return;
    }
    if (current) {
        print_place({"", 0});
    } else {
        fprintf(stderr, "voxtile emulator: the host ");
    }
    const char* what = "touched";
#if defined(__x86_64__) && defined(REG_ERR)
    what = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "wrote" : "read";
#else
    (void)context;
#endif
    fprintf(stderr, "%s address %p: ", what, static_cast<const void*>(address));
    describe(address);
    ::signal(SIGABRT, SIG_DFL);
    abort();
}

void install_fault_handler() {
    static bool installed = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous[0]);
        sigaction(SIGBUS, &action, &previous[1]);
        return true;
    }();
    (void)installed;
}

void install_alternate_stack() {
    static thread_local bool installed = [] {
        stack_t old;
        if (sigaltstack(nullptr, &old) == 0 && !(old.ss_flags & SS_DISABLE)) return true;
        stack_t stack = {};
        stack.ss_size = 64 << 10;
        stack.ss_sp = malloc(stack.ss_size); // for as long as the thread lives
        sigaltstack(&stack, nullptr);
        return true;
    }();
    (void)installed;
}

} // namespace emulator
