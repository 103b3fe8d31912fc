#include "grid.h"
#include "block.h"
#include "failure.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <thread>

namespace emulator {

static std::map<std::string, Kernel>& kernels() {
    static auto& all = *new std::map<std::string, Kernel>;
    return all;
}

Registration::Registration(const Kernel& kernel) {
    if (kernel.threads == 0 || kernel.threads % 32 || kernel.threads > 1024) {
        fprintf(stderr, "voxtile emulator: kernel %s has %u threads; a multiple of 32 up to 1024 is possible\n", kernel.name, kernel.threads);
        abort();
    }
    if (!kernels().emplace(kernel.name, kernel).second) {
        fprintf(stderr, "voxtile emulator: two kernels are called %s\n", kernel.name);
        abort();
    }
}

const Kernel* find_kernel(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

static u64 number(const char* variable, u64 otherwise) {
    const char* text = getenv(variable);
    if (!text || !*text) return otherwise;
    char* end;
    u64 value = strtoull(text, &end, 10);
    if (*end) {
        fprintf(stderr, "voxtile emulator: %s is \"%s\"; a whole number was expected\n", variable, text);
        abort();
    }
    return value;
}

static u32 capability_from_environment() {
    const char* text = getenv("VOXTILE_EMULATOR_CAPABILITY");
    if (!text || !*text) return 90;
    unsigned major, minor;
    char rest;
    if (sscanf(text, "%u.%u%c", &major, &minor, &rest) != 2 || major < 8 || minor > 9) {
        fprintf(stderr, "voxtile emulator: VOXTILE_EMULATOR_CAPABILITY is \"%s\"; 8.0 or higher was expected\n", text);
        abort();
    }
    return major * 10 + minor;
}

Configuration& configuration() {
    static Configuration read = {
        number("VOXTILE_EMULATOR_SEED", 0),
        u32(std::clamp<u64>(number("VOXTILE_EMULATOR_THREADS", std::min(std::thread::hardware_concurrency(), 16u)), 1, 256)),
        number("VOXTILE_EMULATOR_MEMORY", u64(4) << 30),
        capability_from_environment(),
        u32(number("VOXTILE_EMULATOR_DEVICES", 1)),
        number("VOXTILE_EMULATOR_FAULT", 0),
        u32(number("VOXTILE_EMULATOR_BUSY", 0)),
    };
    return read;
}

// CUDA C++ Programming Guide, table of technical specifications per compute capability.
u32 largest_shared_memory(u32 capability) {
    switch (capability) {
    case 86:
    case 89:
    case 120:
    case 121: return 99 << 10;
    case 80:
    case 87: return 163 << 10;
    default: return 227 << 10;
    }
}

// Host threads that wait for grids; the thread that launches takes part.
class Pool {
  public:
    explicit Pool(u32 helpers) {
        for (u32 i = 0; i < helpers; i++) threads_.emplace_back([this] { help(); });
    }
    u32 helpers() const { return u32(threads_.size()); }
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ending_ = true;
        }
        changed_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }
    void run(const Launch& launch, u64 seed) {
        blocks_ = u64(launch.grid[0]) * launch.grid[1] * launch.grid[2];
        launch_ = &launch;
        seed_ = seed;
        next_ = 0;
        bool together = blocks_ > 1 && !threads_.empty();
        if (together) {
            std::lock_guard<std::mutex> lock(mutex_);
            busy_ = u32(threads_.size());
            round_++;
        }
        if (together) changed_.notify_all();
        work(own_);
        if (together) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return busy_ == 0; });
        }
    }

  private:
    void work(Block& block) {
        install_alternate_stack();
        for (;;) {
            u64 i = next_.fetch_add(1);
            if (i >= blocks_) return;
            // An adversarial grid begins somewhere and goes in either direction.
            u64 offset = seed_ >> 8;
            u64 index = seed_ == 0 ? i : seed_ & 128 ? (offset + i) % blocks_ : blocks_ - 1 - (offset + i) % blocks_;
            block.run(*launch_, index, seed_);
        }
    }
    void help() {
        Block block;
        u64 seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                changed_.wait(lock, [&] { return ending_ || round_ != seen; });
                if (ending_) return;
                seen = round_;
            }
            work(block);
            bool last;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                last = --busy_ == 0;
            }
            if (last) changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool ending_ = false;
    u64 round_ = 0;
    u32 busy_ = 0;
    const Launch* launch_ = nullptr;
    u64 blocks_ = 0;
    u64 seed_ = 0;
    std::atomic<u64> next_{0};
    Block own_;
    std::vector<std::thread> threads_; // last: they use what is above
};

static Pool* pool = nullptr; // never destroyed: a process may end while its threads wait

void forget_threads() { pool = nullptr; }

void run_grid(const Launch& launch) {
    static std::mutex one_at_a_time;
    static u64 launches = 0;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    install_fault_handler();
    u32 helpers = configuration().threads - 1;
    if (!pool || pool->helpers() != helpers) {
        delete pool;
        pool = new Pool(helpers);
    }
    u64 seed = configuration().seed;
    if (seed != 0) { // another schedule for each launch, the same in each run of the process
        seed = Random(seed + (++launches << 32)).state;
    }
    pool->run(launch, seed);
}

} // namespace emulator
