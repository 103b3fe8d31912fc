// One running block: its threads, what they wait for, and who runs next.
#pragma once
#include "fiber.h"
#include "grid.h"

#include <deque>
#include <vector>

namespace emulator {

class Block;

// An asynchronous copy of one thread.
struct PendingCopy {
    u8* to;
    const u8* from;
    bool done;
};

struct Warp;
struct Thread : ThreadFace {
    FiberContext context;
    Warp* warp;
    u32 lane;
    // Where it is, or was last; for reports.
    const char* operation;
    Site site;
    u32 detail;
    // Copies and, for each committed group, where it ends in them.
    std::vector<PendingCopy> copies;
    std::vector<size_t> groups;
    size_t copies_done;
    size_t groups_done;
};

constexpr u32 MOST_ROW_TILES = 8;
constexpr u32 MOST_COLUMN_TILES = 32;

struct Warp {
    Block* block;
    u32 index;
    // Lanes that can run, that have not ended, and that arrived at the operation of the warp.
    u32 ready;
    u32 alive;
    u32 arrived;
    // The operation of the warp that lanes arrive at, and which barrier if it is one.
    const char* operation;
    Site site;
    static constexpr u32 NO_BARRIER = ~0u;
    struct {
        u32 id, threads;
        bool waits;
    } barrier;
    // The scheduler's clock before which an adversarial schedule does not run the warp.
    u64 sleeps_until;
    // What lanes bring to an operation.
    u64 values[32];
    void* pointers[32];
    // Operands of a product, halves: [m][16 rows][16 of k], and [16 of k][columns].
    u32 columns;
    alignas(64) u32 a[MOST_ROW_TILES][16][8];
    alignas(64) u16 b[16 * MOST_COLUMN_TILES * 8];
    Thread threads[32];
};

struct Barrier {
    u32 arrived;
    u32 expected;
    std::vector<u32> waiting;
};

struct BulkCopy {
    u8* to;
    const u8* from;
    u32 bytes;
    u64* barrier;
    Site site;
};

struct WarpgroupProduct {
    float* d[128];
    u32 n;
    u64 a, b;
};
// Four warps that wgmma works for.
struct Warpgroup {
    u32 arrived;
    u32 waiting[4];
    const char* operation;
    Site site;
    WarpgroupProduct next;
    std::vector<WarpgroupProduct> open;
    std::deque<std::vector<WarpgroupProduct>> committed;
};

struct MbarrierWait {
    Thread* thread;
    u64* barrier;
    u32 parity;
};

// When asynchronous work is done; each kind has its own way.
enum class Asynchrony { Late, Early, Random };
enum class AsyncWork { Copy, BulkCopy, Product };
// How an adversarial schedule chooses.
enum class Order { InOrder, Reversed, RunAhead, Random };

class Block {
  public:
    Block();
    ~Block();
    // Runs block `index` of the grid to its end.
    void run(const Launch& launch, u64 index, u64 seed);

    Launch launch;
    Place place;
    std::vector<Warp*> warps;
    Barrier barriers[16];
    std::vector<Warpgroup> warpgroups;
    std::vector<BulkCopy> bulk;
    std::vector<MbarrierWait> mbarrier_waits;
    Random random;
    bool adversarial;
    Asynchrony asynchrony[3];
    u8* shared;
    // From `shared` to the guard page.
    size_t shared_padded;

    // Whether an asynchronous operation that begins now is done at once.
    bool at_once(AsyncWork kind) {
        Asynchrony when = asynchrony[int(kind)];
        return when == Asynchrony::Early || (when == Asynchrony::Random && random.one_in(2));
    }
    // The running thread, which is not ready, stops until it is.
    void suspend(Thread& self);
    // An adversarial schedule may let others run.
    void may_preempt(Thread& self) {
        if (adversarial) preempt(self);
    }
    // After others can run again: an adversarial schedule often lets them, and for long.
    void may_yield(Thread& self) {
        if (adversarial && random.one_in(2)) self.warp->sleeps_until = clock_ + random.below(300);
        may_preempt(self);
    }
    // A thread begins and ends.
    void begins() {
        FiberContext before{};
        fiber_begins(before);
        // The first thread of all comes from the scheduler.
        if (!scheduler_.stack) scheduler_.stack = before.stack, scheduler_.stack_bytes = before.stack_bytes;
    }
    void leave(Thread& self);
    // All lanes of a warp are at a barrier.
    void arrive(Warp& warp);
    void release(Barrier& barrier);
    u32 threads_alive;
    const char* stack_base(u32 thread) const { return stacks_.base(thread); }
    void run_bulk(size_t index);
    [[noreturn]] void report_waiting(const char* headline);

  private:
    void preempt(Thread& self);
    Thread* choose(Warp* preferred);
    void prepare(u64 index, u64 seed);
    void finish();
    void switch_to(Thread* next, FiberContext& from);

    Stacks stacks_;
    FiberContext scheduler_;
    Order order_;
    u64 clock_;
    // When the order changes.
    u64 next_change_;
    u32 next_warp_;
    u8* shared_mapping_;
};

inline Thread& running() { return *static_cast<Thread*>(current); }

[[noreturn]] void diverged(Thread& self, const char* operation, Site site);

// All lanes of the warp meet; the last one computes. Operands must be in the warp before.
template <class Compute> inline void meet(Thread& self, const char* operation, Site site, Compute compute) {
    Warp& warp = *self.warp;
    self.operation = operation;
    self.site = site;
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.site = site;
        warp.barrier.id = Warp::NO_BARRIER;
    }
    if (warp.operation != operation || warp.site.line != site.line || warp.alive != ~0u) {
        diverged(self, operation, site);
    }
    warp.arrived |= 1u << self.lane;
    if (warp.arrived == ~0u) {
        warp.arrived = 0;
        compute(warp);
        warp.ready = ~0u;
    } else {
        warp.ready &= ~(1u << self.lane);
        warp.block->suspend(self);
    }
}

} // namespace emulator
