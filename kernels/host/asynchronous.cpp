// Work that goes on while threads run: cp.async, mbarriers, bulk copies and wgmma.
#include "block.h"

namespace emulator {

// ---- cp.async

static u8* check_shared(Block& block, const void* pointer, size_t bytes, Site site) {
    size_t offset = size_t(static_cast<const u8*>(pointer) - block.shared);
    if (offset > block.launch.shared_bytes || offset + bytes > block.launch.shared_bytes) {
        misuse(site, "%zu bytes at byte %td of %u bytes of shared memory", bytes, ptrdiff_t(offset), block.launch.shared_bytes);
    }
    return block.shared + offset;
}

static void complete(PendingCopy& copy) {
    if (copy.done) return;
    memcpy(copy.to, copy.from, 16);
    copy.done = true;
}

void copy_async_16(void* to, const void* from, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    self.operation = "copy_async_16";
    self.site = site;
    check_alignment(to, 16, site);
    check_alignment(from, 16, site);
    PendingCopy copy{check_shared(block, to, 16, site), static_cast<const u8*>(from), false};
    if (block.at_once(AsyncWork::Copy)) complete(copy);
    if (!copy.done) self.copies.push_back(copy);
}

void copy_async_commit(Site site) {
    Thread& self = running();
    self.operation = "copy_async_commit";
    self.site = site;
    self.groups.push_back(self.copies.size());
    self.warp->block->may_preempt(self);
}

void copy_async_wait(u32 groups, Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    self.operation = "copy_async_wait";
    self.site = site;
    while (self.groups.size() - self.groups_done > groups) {
        size_t end = self.groups[self.groups_done++];
        while (self.copies_done < end) complete(self.copies[self.copies_done++]);
    }
    if (self.groups_done == self.groups.size() && self.copies_done == self.copies.size()) {
        self.groups.clear();
        self.copies.clear();
        self.groups_done = self.copies_done = 0;
    }
}

void before_atomic(const void* pointer, Site site) {
    Thread& self = running();
    self.operation = "an atomic";
    self.site = site;
    check_alignment(pointer, 4, site);
    self.warp->block->may_preempt(self);
}

// ---- mbarriers

// The 64 bits of an mbarrier; what hardware keeps there is not documented.
struct Mbarrier {
    u64 pending : 12, arrivals : 12, phase : 1;
    i64 bytes : 24;
    u64 mark : 15;
};
static_assert(sizeof(Mbarrier) == 8);
static constexpr u64 MARK = 0x5a3c;

static Mbarrier& mbarrier_at(u64* pointer, Site site) {
    Thread& self = running();
    check_alignment(pointer, 8, site);
    check_shared(*self.warp->block, pointer, 8, site);
    Mbarrier& barrier = *reinterpret_cast<Mbarrier*>(pointer);
    if (barrier.mark != MARK) misuse(site, "an mbarrier that was not initialised, or was overwritten");
    return barrier;
}

// Ends the phase if everything has arrived.
static void end_phase(Block& block, Mbarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    barrier.phase = barrier.phase ^ 1;
    barrier.pending = barrier.arrivals;
    auto& waits = block.mbarrier_waits;
    for (size_t i = 0; i < waits.size();) {
        if (reinterpret_cast<Mbarrier*>(waits[i].barrier) == &barrier && waits[i].parity != barrier.phase) {
            waits[i].thread->warp->ready |= 1u << waits[i].thread->lane;
            waits[i] = waits.back();
            waits.pop_back();
        } else {
            i++;
        }
    }
}

void mbarrier_initialise(u64* pointer, u32 arrivals, Site site) {
    Thread& self = running();
    self.operation = "mbarrier_initialise";
    self.site = site;
    check_alignment(pointer, 8, site);
    check_shared(*self.warp->block, pointer, 8, site);
    if (arrivals == 0 || arrivals > 4095) misuse(site, "an mbarrier of %u arrivals", arrivals);
    Mbarrier barrier{arrivals, arrivals, 0, 0, MARK};
    memcpy(pointer, &barrier, 8);
}

void mbarrier_arrive(u64* pointer, u32 expected_bytes, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    self.operation = "mbarrier_arrive";
    self.site = site;
    Mbarrier& barrier = mbarrier_at(pointer, site);
    if (barrier.pending == 0) misuse(site, "more arrivals than the mbarrier's %u", unsigned(barrier.arrivals));
    barrier.bytes = barrier.bytes + expected_bytes;
    barrier.pending = barrier.pending - 1;
    end_phase(block, barrier);
    block.may_yield(self);
}

void mbarrier_wait(u64* pointer, u32 parity, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    self.operation = "mbarrier_wait";
    self.site = site;
    // The barrier's phase is the one that goes on; the other parity has ended.
    while (mbarrier_at(pointer, site).phase == (parity & 1)) {
        block.mbarrier_waits.push_back({&self, pointer, parity & 1});
        self.warp->ready &= ~(1u << self.lane);
        block.suspend(self);
        self.operation = "mbarrier_wait";
    }
}

void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    self.operation = "copy_bulk";
    self.site = site;
    check_alignment(to, 16, site);
    check_alignment(from, 16, site);
    if (bytes % 16) misuse(site, "a bulk copy of %u bytes, not a multiple of 16", bytes);
    mbarrier_at(barrier, site);
    block.bulk.push_back({check_shared(block, to, bytes, site), static_cast<const u8*>(from), bytes, barrier, site});
    if (block.at_once(AsyncWork::BulkCopy)) block.run_bulk(block.bulk.size() - 1);
}

void Block::run_bulk(size_t index) {
    BulkCopy copy = bulk[index];
    bulk.erase(bulk.begin() + ptrdiff_t(index));
    memcpy(copy.to, copy.from, copy.bytes);
    Mbarrier& barrier = *reinterpret_cast<Mbarrier*>(copy.barrier);
    if (barrier.mark != MARK) misuse(copy.site, "the mbarrier of a bulk copy was overwritten");
    barrier.bytes = barrier.bytes - copy.bytes;
    end_phase(*this, barrier);
}

// ---- wgmma

// As on devices, the driver keeps the first bytes of shared memory.
static constexpr u32 FIRST_SHARED_ADDRESS = 1024;

u32 shared_address(const void* pointer) {
    ptrdiff_t offset = static_cast<const u8*>(pointer) - current->shared;
    u32 bytes = running().warp->block->launch.shared_bytes;
    if (offset < 0 || offset > ptrdiff_t(bytes)) misuse({"", 0}, "byte %td of %u bytes of shared memory", offset, bytes);
    return FIRST_SHARED_ADDRESS + u32(offset);
}

// All 128 threads of a warpgroup meet; the last one computes.
template <class Compute> static void meet_warpgroup(Thread& self, const char* operation, Site site, Compute compute) {
    Block& block = *self.warp->block;
    Warpgroup& group = block.warpgroups[self.index / 128];
    if (configuration().capability / 10 != 9) misuse(site, "%s on a device without wgmma", operation);
    self.operation = operation;
    self.site = site;
    if (block.launch.kernel->threads < (self.index / 128 + 1) * 128) misuse(site, "the last warps are no warpgroup");
    if (self.warp->arrived) diverged(self, operation, site);
    if (group.arrived == 0) {
        group.operation = operation;
        group.site = site;
    }
    if (group.operation != operation || group.site.line != site.line) {
        misuse(site, "%s, but other threads of the warpgroup are in %s at line %d", operation, group.operation, group.site.line);
    }
    self.warp->ready &= ~(1u << self.lane);
    group.waiting[self.warp->index % 4] |= 1u << self.lane;
    if (++group.arrived == 128) {
        group.arrived = 0;
        compute(group);
        for (u32 w = 0; w < 4; w++) {
            block.warps[self.index / 128 * 4 + w]->ready |= group.waiting[w];
            group.waiting[w] = 0;
        }
        block.may_preempt(self);
    } else {
        block.suspend(self);
    }
}

// Element (row, k) of a K-major operand without swizzle, as the descriptor says.
static float element(Block& block, u64 descriptor, u32 row, u32 k, Site site) {
    u32 start = u32(descriptor & 0x3fff) << 4, leading = u32(descriptor >> 16 & 0x3fff) << 4,
        stride = u32(descriptor >> 32 & 0x3fff) << 4;
    u32 at = start + row / 8 * stride + row % 8 * 16 + k / 8 * leading + k % 8 * 2;
    u16 bits;
    memcpy(&bits, check_shared(block, block.shared + (at - ptrdiff_t(FIRST_SHARED_ADDRESS)), 2, site), 2);
    return half_value(bits);
}

static void compute(Block& block, const WarpgroupProduct& product, Site site) {
    float b[16][256];
    for (u32 n = 0; n < product.n; n++) {
        for (u32 k = 0; k < 16; k++) b[k][n] = element(block, product.b, n, k, site);
    }
    for (u32 row = 0; row < 64; row++) {
        float sums[256] = {};
        for (u32 k = 0; k < 16; k++) {
            float a = element(block, product.a, row, k, site);
            for (u32 n = 0; n < product.n; n++) sums[n] += a * b[k][n];
        }
        for (u32 n = 0; n < product.n; n++) {
            u32 thread = row / 16 * 32 + row % 8 * 4 + n % 8 / 2;
            product.d[thread][n / 8 * 4 + row % 16 / 8 * 2 + n % 2] += sums[n];
        }
    }
}

void warpgroup_fence(Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    meet_warpgroup(self, "warpgroup_fence", site, [](Warpgroup&) {});
}

void warpgroup_multiply_accumulate(float* d, u32 n, u64 a, u64 b, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    Warpgroup& group = block.warpgroups[self.index / 128];
    if (group.arrived == 0) {
        group.next.n = n;
        group.next.a = a;
        group.next.b = b;
    } else if (group.next.a != a || group.next.b != b) {
        misuse(site, "threads of the warpgroup have different matrix descriptors");
    }
    group.next.d[self.index % 128] = d;
    meet_warpgroup(self, "warpgroup_multiply_accumulate", site, [&block, site](Warpgroup& all) {
        bool idle = all.open.empty() && all.committed.empty(); // products of one group stay in order
        if (idle && block.at_once(AsyncWork::Product)) {
            compute(block, all.next, site);
        } else {
            all.open.push_back(all.next);
        }
    });
}

void warpgroup_commit(Site site) {
    Thread& self = running();
    self.warp->block->may_preempt(self);
    meet_warpgroup(self, "warpgroup_commit", site, [](Warpgroup& group) {
        group.committed.push_back(std::move(group.open));
        group.open.clear();
    });
}

void warpgroup_wait(u32 groups, Site site) {
    Thread& self = running();
    Block& block = *self.warp->block;
    block.may_preempt(self);
    meet_warpgroup(self, "warpgroup_wait", site, [&block, groups, site](Warpgroup& group) {
        while (group.committed.size() > groups) {
            for (const WarpgroupProduct& product : group.committed.front()) compute(block, product, site);
            group.committed.pop_front();
        }
    });
}

} // namespace emulator
