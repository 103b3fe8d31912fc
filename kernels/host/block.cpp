#include "block.h"
#include "failure.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace emulator {

__thread ThreadFace* current;

static constexpr size_t PAGE = 4096;

static size_t shared_capacity() { return (256 << 10) + PAGE; }

Block::Block() {
    void* mapping = mmap(nullptr, shared_capacity() + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED || mprotect(static_cast<u8*>(mapping) + PAGE, shared_capacity(), PROT_READ | PROT_WRITE) != 0) {
        perror("voxtile emulator: shared memory");
        abort();
    }
    shared_mapping_ = static_cast<u8*>(mapping);
}

Block::~Block() {
    for (Warp* warp : warps) delete warp;
    munmap(shared_mapping_, shared_capacity() + 2 * PAGE);
}

void Block::switch_to(Thread* next, FiberContext& from) {
    current = next;
    switch_fiber(from, next->context);
}

// A fiber's first function.
static void begin_thread() {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.begins();
    block.launch.kernel->run(block.launch.parameters);
    block.leave(self);
    abort(); // nobody continues a thread that has ended
}

void Block::leave(Thread& self) {
    Warp& warp = *self.warp;
    self.operation = "its end";
    warp.alive &= ~(1u << self.lane);
    warp.ready &= ~(1u << self.lane);
    threads_alive--;
    if (warp.arrived != 0) {
        if (warp.barrier.id == Warp::NO_BARRIER) diverged(self, "its end", warp.site);
        if (warp.arrived == warp.alive) arrive(warp); // the others waited only for this one
    }
    if (barriers[0].arrived != 0 && barriers[0].arrived == threads_alive) release(barriers[0]);
    suspend(self);
}

void Block::release(Barrier& barrier) {
    barrier.arrived = 0;
    for (size_t w = 0; w < warps.size(); w++) {
        warps[w]->ready |= barrier.waiting[w];
        barrier.waiting[w] = 0;
    }
}

// One of the lanes, beginning at a random one.
static u32 some_lane(u32 lanes, u32 random) {
    u32 from = random & 31;
    u32 turned = lanes >> from | lanes << ((32 - from) & 31);
    return (u32(__builtin_ctz(turned)) + from) & 31;
}

// The thread that runs next, or null if all wait.
Thread* Block::choose(Warp* preferred) {
    u32 count = launch.kernel->threads / 32;
    if (!adversarial) {
        for (u32 i = 0; i <= count; i++) {
            Warp& warp = i == 0 ? *preferred : *warps[(preferred->index + i) % count];
            if (warp.ready) return &warp.threads[__builtin_ctz(warp.ready)];
        }
        return nullptr;
    }
    clock_++;
    if (clock_ >= next_change_) {
        order_ = Order(random.below(4));
        next_change_ = clock_ + random.below(4000);
        if (!bulk.empty() && asynchrony[int(AsyncWork::BulkCopy)] != Asynchrony::Late) run_bulk(random.below(u32(bulk.size())));
    }
    Warp* chosen = nullptr;
    if (order_ != Order::Random && preferred->ready && preferred->sleeps_until <= clock_) {
        chosen = preferred;
    } else {
        // The first that is awake from a random one on, or else the one that wakes first.
        u32 w = order_ == Order::InOrder ? 0 : random.below(count);
        for (u32 i = 0; i < count; i++) {
            Warp* warp = warps[w];
            if (warp->ready) {
                if (!chosen || (chosen->sleeps_until > clock_ && warp->sleeps_until < chosen->sleeps_until)) chosen = warp;
                if (chosen->sleeps_until <= clock_) break;
            }
            w = order_ == Order::Reversed ? (w == 0 ? count : w) - 1 : w + 1 == count ? 0 : w + 1;
        }
        if (!chosen) return nullptr;
    }
    switch (order_) {
    case Order::InOrder: return &chosen->threads[__builtin_ctz(chosen->ready)];
    case Order::Reversed: return &chosen->threads[31 - __builtin_clz(chosen->ready)];
    default: return &chosen->threads[some_lane(chosen->ready, random.next())];
    }
}

void Block::suspend(Thread& self) {
    // The common case, with few instructions: the next lane of the same warp.
    u32 ready = self.warp->ready;
    if (ready && (!adversarial || order_ == Order::InOrder) && self.warp->sleeps_until <= clock_) {
        u32 after = ready & (~0u << self.lane);
        switch_to(&self.warp->threads[__builtin_ctz(after ? after : ready)], self.context);
        return;
    }
    Thread* next = choose(self.warp);
    if (next == &self) return;
    if (next) {
        switch_to(next, self.context);
    } else {
        switch_fiber(self.context, scheduler_);
    }
}

void Block::preempt(Thread& self) {
    u32 dice = random.next();
    if (dice % 32 == 0) self.warp->sleeps_until = clock_ + random.below(dice & 96 ? 100 : 2000);
    if (self.warp->sleeps_until <= clock_ && (dice & 384)) return;
    Thread* next = choose(order_ == Order::RunAhead || (dice & 512) ? self.warp : warps[random.below(launch.kernel->threads / 32)]);
    if (next && next != &self) switch_to(next, self.context);
}

void Block::prepare(u64 index, u64 seed) {
    const Kernel& kernel = *launch.kernel;
    u32 count = kernel.threads / 32;
    adversarial = seed != 0;
    random = Random(seed + index * 0xd1342543de82ef95u);
    random.next();
    for (Asynchrony& when : asynchrony) {
        u32 dice = random.below(8);
        when = index % 2 ? Asynchrony::Early : Asynchrony::Late;
        if (adversarial) when = dice < 2 ? Asynchrony::Late : dice < 3 ? Asynchrony::Early : Asynchrony::Random;
    }
    order_ = Order(random.below(4));
    clock_ = 0;
    next_change_ = random.below(4000);
    place = {{u32(index % launch.grid[0]), u32(index / launch.grid[0] % launch.grid[1]), u32(index / launch.grid[0] / launch.grid[1])},
             {launch.grid[0], launch.grid[1], launch.grid[2]}};

    shared_padded = (launch.shared_bytes + 127) / 128 * 128;
    shared = shared_mapping_ + PAGE + shared_capacity() - shared_padded;
    memset(shared, 0xff, shared_padded);

    stacks_.reserve(kernel.threads);
    while (warps.size() < count) warps.push_back(new Warp());
    for (u32 w = 0; w < count; w++) {
        Warp& warp = *warps[w];
        warp.block = this;
        warp.index = w;
        warp.ready = warp.alive = ~0u;
        warp.arrived = 0;
        warp.sleeps_until = adversarial && random.one_in(4) ? random.below(3000) : 0;
        for (u32 lane = 0; lane < 32; lane++) {
            Thread& thread = warp.threads[lane];
            u32 i = w * 32 + lane;
            thread.index = i;
            thread.place = &place;
            thread.shared = shared;
            thread.warp = &warp;
            thread.lane = lane;
            thread.operation = "its start";
            thread.site = {"", 0};
            thread.copies.clear();
            thread.groups.clear();
            thread.copies_done = thread.groups_done = 0;
            thread.context = make_fiber(stacks_.base(i), stacks_.top(i), begin_thread, adversarial);
        }
    }
    scheduler_ = FiberContext{};
    threads_alive = kernel.threads;
    for (Barrier& barrier : barriers) {
        barrier.arrived = barrier.expected = 0;
        barrier.waiting.assign(warps.size(), 0);
    }
    warpgroups.assign((count + 3) / 4, Warpgroup{});
    bulk.clear();
    mbarrier_waits.clear();
}

void Block::run(const Launch& what, u64 index, u64 seed) {
    launch = what;
    prepare(index, seed);
    Warp* preferred = warps[0];
    while (threads_alive > 0) {
        Thread* next = choose(preferred);
        if (next) {
            switch_to(next, scheduler_);
        } else if (!bulk.empty()) {
            run_bulk(adversarial ? random.below(u32(bulk.size())) : 0);
        } else {
            report_waiting("deadlock");
        }
    }
    finish();
    current = nullptr;
}

void Block::finish() {
    for (size_t i = launch.shared_bytes; i < shared_padded; i++) {
        if (shared[i] != 0xff) {
            misuse({"", 0}, "shared memory was written %zu bytes beyond the end of its %u bytes", i - launch.shared_bytes,
                   launch.shared_bytes);
        }
    }
    if (!bulk.empty()) misuse(bulk[0].site, "the block ended before a bulk copy");
}

// ---- barriers

// A warp arrives as a whole: its lanes meet first.
static void arrive(u32 id, u32 threads, bool waits, const char* operation, Site site) {
    Thread& self = running();
    Warp& warp = *self.warp;
    Block& block = *warp.block;
    block.may_preempt(self);
    self.operation = operation;
    self.site = site;
    self.detail = id;
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.site = site;
        warp.barrier = {id, threads, waits};
    }
    if (warp.operation != operation || warp.site.line != site.line || warp.barrier.id != id || warp.barrier.threads != threads) {
        diverged(self, operation, site);
    }
    u32 bit = 1u << self.lane;
    warp.arrived |= bit;
    warp.ready &= ~bit;
    if (warp.arrived == warp.alive) block.arrive(warp);
    if (warp.ready & bit) {
        block.may_preempt(self);
    } else {
        block.suspend(self);
    }
}

void Block::arrive(Warp& warp) {
    auto [id, threads, waits] = warp.barrier;
    Barrier& barrier = barriers[id];
    u32 lanes = warp.arrived;
    warp.arrived = 0;
    if (barrier.arrived == 0) barrier.expected = threads;
    if (barrier.expected != threads) {
        misuse(warp.site, "barrier %u is for %u threads, but others of this round said %u", id, threads, barrier.expected);
    }
    if (waits) {
        barrier.waiting[warp.index] = lanes;
    } else {
        warp.ready |= lanes;
    }
    // The block's own barrier does not wait for threads that have ended; others count whole warps.
    barrier.arrived += id == 0 ? u32(__builtin_popcount(lanes)) : 32;
    if (barrier.arrived == (id == 0 ? threads_alive : threads)) release(barrier);
}

void block_barrier(Site site) { arrive(0, 0, true, "block_barrier", site); }

void named_barrier(u32 id, u32 threads, bool waits, Site site) {
    const Kernel& kernel = *running().warp->block->launch.kernel;
    if (id == 0 || id > 15) misuse(site, "a named barrier's id is 1 to 15, not %u", id);
    if (threads == 0 || threads % 32 || threads > kernel.threads) {
        misuse(site, "barrier %u is for %u threads of a block of %u", id, threads, kernel.threads);
    }
    arrive(id, threads, waits, waits ? "named_barrier_wait" : "named_barrier_arrive", site);
}

// ---- reports

void diverged(Thread& self, const char* operation, Site site) {
    self.operation = operation;
    self.site = site;
    self.warp->block->report_waiting("lanes of one warp are at different operations");
}

void Block::report_waiting(const char* headline) {
    fprintf(stderr, "voxtile emulator: kernel %s, block %u %u %u: %s\n", launch.kernel->name, place.block[0], place.block[1],
            place.block[2], headline);
    for (u32 w = 0; w < launch.kernel->threads / 32; w++) {
        for (u32 lane = 0; lane < 32;) {
            const Thread& first = warps[w]->threads[lane];
            u32 end = lane + 1;
            auto same = [&](const Thread& other) {
                return other.operation == first.operation && other.site.line == first.site.line && other.detail == first.detail;
            };
            while (end < 32 && same(warps[w]->threads[end])) end++;
            fprintf(stderr, "  warp %u lanes %u-%u: %s", w, lane, end - 1, first.operation);
            if (strncmp(first.operation, "named", 5) == 0) fprintf(stderr, " %u", first.detail);
            fprintf(stderr, " at %s:%d\n", first.site.file, first.site.line);
            lane = end;
        }
    }
    abort();
}

} // namespace emulator
