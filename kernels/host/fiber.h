// Fibers: stacks, and switching between them.
#pragma once
#include <stddef.h>
#include <vector>

namespace emulator {

// Stacks of one host thread's fibers, each above a guard page.
class Stacks {
  public:
    static constexpr size_t BYTES = 256 << 10;
    ~Stacks();
    // Makes stacks 0 .. count available.
    void reserve(size_t count);
    // The stack's end; each begins at another cache set, or a warp's stacks would evict each other.
    char* top(size_t index) const { return base(index) + BYTES - 64 * (index * 5 % 64); }
    char* base(size_t index) const { return stacks_[index]; }
    size_t count() const { return stacks_.size(); }

  private:
    std::vector<char*> stacks_;
};

// The state of a fiber that does not run.
using FiberContext = void*;

// A fiber that will call `entry` on the stack that ends at `top`; `entry` must not return.
FiberContext make_fiber(char* base, char* top, void (*entry)());
// Saves the running fiber in `save` and continues `to`.
extern "C" void voxtile_emulator_switch(FiberContext* save, FiberContext to);

} // namespace emulator
