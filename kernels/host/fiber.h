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

// A fiber that does not run.
struct FiberContext {
    void* state;
    // Its stack; only AddressSanitizer wants to know.
    const void* stack;
    size_t stack_bytes;
};

// A fiber that will call `entry` on the stack from `base` to `top`; `entry` must not return. With
// `poison` what it will not initialise is NaN, as far as it lies in the stack's first pages.
FiberContext make_fiber(char* base, char* top, void (*entry)(), bool poison);
// What `entry` calls first; `before` is the fiber that ran until then.
void fiber_begins(FiberContext& before);

extern "C" void voxtile_emulator_switch(void** save, void* to);
#ifdef __SANITIZE_ADDRESS__
void switch_fiber(FiberContext& from, const FiberContext& to);
#else
// Saves the running fiber in `from` and continues `to`.
inline void switch_fiber(FiberContext& from, const FiberContext& to) { voxtile_emulator_switch(&from.state, to.state); }
#endif

} // namespace emulator
