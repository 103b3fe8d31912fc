#include "memory.h"

#include <map>
#include <mutex>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace emulator {

static constexpr size_t PAGE = 4096;
static std::mutex mutex;
// To the process's very end.
static auto& allocations = *new std::map<uintptr_t, Allocation>;
static auto& totals = *new std::map<int, size_t>; // by owner

void* allocate(size_t bytes, size_t alignment, int owner) {
    size_t padded = (bytes + alignment - 1) / alignment * alignment;
    size_t inner = (padded + PAGE - 1) / PAGE * PAGE;
    if (inner < bytes) return nullptr;
    void* mapping = mmap(nullptr, inner + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    unsigned char* first = static_cast<unsigned char*>(mapping) + PAGE;
    if (mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, inner + 2 * PAGE);
        return nullptr;
    }
    memset(first, 0xff, inner);
    unsigned char* data = first + (inner - padded);
    std::lock_guard<std::mutex> lock(mutex);
    allocations[uintptr_t(data)] = {data, bytes, static_cast<unsigned char*>(mapping), inner + 2 * PAGE, owner};
    totals[owner] += bytes;
    return data;
}

bool release(void* data) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = allocations.find(uintptr_t(data));
    if (found == allocations.end()) return false;
    totals[found->second.owner] -= found->second.bytes;
    munmap(found->second.mapping, found->second.mapping_bytes);
    allocations.erase(found);
    return true;
}

bool find_allocation(const void* address, Allocation& found) {
    std::unique_lock<std::mutex> lock(mutex, std::try_to_lock); // a fault may come at any time
    if (allocations.empty()) return false;
    auto above = allocations.upper_bound(uintptr_t(address));
    if (above == allocations.begin()) {
        found = above->second;
        return true;
    }
    auto below = std::prev(above);
    found = below->second;
    uintptr_t end = uintptr_t(found.data) + found.bytes;
    if (above != allocations.end() && uintptr_t(address) >= end &&
        above->first - uintptr_t(address) < uintptr_t(address) - end) {
        found = above->second;
    }
    return true;
}

void check_allocation_ends(const char* kernel, int owner) {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto& [start, allocation] : allocations) {
        if (allocation.owner != owner) continue;
        const unsigned char* guard = allocation.mapping + allocation.mapping_bytes - PAGE;
        const unsigned char* before = allocation.mapping + PAGE;
        for (const unsigned char* byte = allocation.data + allocation.bytes; byte < guard; byte++) {
            if (*byte != 0xff) {
                fprintf(stderr, "voxtile emulator: kernel %s wrote %zu bytes beyond the end of an allocation of %zu bytes\n",
                        kernel, size_t(byte - allocation.data - allocation.bytes), allocation.bytes);
                abort();
            }
        }
        for (const unsigned char* byte = before; byte < allocation.data; byte++) {
            if (*byte != 0xff) {
                fprintf(stderr, "voxtile emulator: kernel %s wrote %zu bytes before the start of an allocation of %zu bytes\n",
                        kernel, size_t(allocation.data - byte), allocation.bytes);
                abort();
            }
        }
    }
}

size_t allocated_bytes(int owner) {
    std::lock_guard<std::mutex> lock(mutex);
    return totals[owner];
}

void release_all(int owner) {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto entry = allocations.begin(); entry != allocations.end();) {
        if (entry->second.owner == owner) {
            munmap(entry->second.mapping, entry->second.mapping_bytes);
            entry = allocations.erase(entry);
        } else {
            ++entry;
        }
    }
    totals[owner] = 0;
}

void set_accessible(int owner, bool accessible) {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto& [start, allocation] : allocations) {
        if (allocation.owner == owner) {
            mprotect(allocation.mapping + PAGE, allocation.mapping_bytes - 2 * PAGE,
                     accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
        }
    }
}

} // namespace emulator
