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
    // The device's number, or HOST_MEMORY.
    int owner;
};
constexpr int HOST_MEMORY = -1;

// The allocation ends at a guard page, or up to `alignment` - 1 bytes before it. Null if the host has
// no memory.
void* allocate(size_t bytes, size_t alignment, int owner);
// False if nothing was allocated there.
bool release(void* data);
// The allocation that contains the address, or else the nearest one. False if there is none.
bool find_allocation(const void* address, Allocation& found);
// Ends the process if anything was written between an allocation's end and its guard page.
void check_allocation_ends(const char* kernel, int owner);
// What an owner has, without guard pages.
size_t allocated_bytes(int owner);
void release_all(int owner);
// Whether anybody may read and write an owner's memory.
void set_accessible(int owner, bool accessible);

} // namespace emulator
