// Messages about misuse, and what happens when a kernel touches memory that is not its own.
#pragma once
#include <stddef.h>

namespace emulator {

// Reports faults of kernels until the process ends; call it before any kernel runs.
void install_fault_handler();
// Gives the calling host thread a stack on which a fiber's stack overflow can be reported.
void install_alternate_stack();

} // namespace emulator
