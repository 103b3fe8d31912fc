// Memory of the emulated device: every allocation is a mapping of its own between guard pages,
// filled with 0xff: NaN as float and half, -1 as integers.
#pragma once
#include <stddef.h>

namespace emulator {

struct Allocation {
    unsigned char* data;
    size_t bytes;
    unsigned char* mapping;
    size_t mapping_bytes;
};

// The allocation ends at a guard page, or up to `alignment` - 1 bytes before it. Null if the host has
// no memory.
void* allocate(size_t bytes, size_t alignment);
// False if nothing was allocated there.
bool release(void* data);
// The allocation that contains the address, or else the nearest one. False if there is none.
bool find_allocation(const void* address, Allocation& found);
// Ends the process if anything was written between an allocation's end and its guard page.
void check_allocation_ends(const char* kernel);
// Allocated in all, without guard pages.
size_t allocated_bytes();
// Whether anybody may read and write allocations.
void set_accessible(bool accessible);

} // namespace emulator
