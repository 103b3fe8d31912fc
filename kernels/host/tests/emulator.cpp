// The emulator itself: that primitives do what PTX says, and that misuse is noticed.
#include "../launch.h"

struct Exchange {
    const u32* in;
    u32* out;
};

KERNEL(reverse_block, 256, 1, Exchange) {
    SHARED(shared);
    u32* values = (u32*)shared;
    u32 t = thread_index(), base = block_index_x() * 256;
    values[t] = p.in[base + t];
    block_barrier();
    p.out[base + t] = values[255 - t];
}

TEST(block_barrier) {
    std::vector<u32> in(256 * 7);
    for (size_t i = 0; i < in.size(); i++) in[i] = u32(i * 7);
    emulator::for_seeds(20, [&] {
        emulator::Buffer<u32> from(in), to(in.size());
        emulator::launch("reverse_block", {7}, 1024, Exchange{from.data(), to.data()});
        auto out = to.read();
        for (u32 i = 0; i < in.size(); i++) CHECK(out[i] == in[i / 256 * 256 + 255 - i % 256]);
    });
}

TESTS_MAIN
