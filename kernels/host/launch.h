// For tests of kernels (tests/*.cpp): guarded device memory, launches by name, schedules by seed.
//
//   #include "../launch.h"
//   #include "../../join.cuh"             // the kernels under test
//
//   TEST(join_adds) {
//       emulator::for_seeds(8, [] {
//           emulator::Buffer<half> x(values), y(values.size());
//           emulator::launch("join_f16", {blocks}, shared_bytes, Join{x.data(), y.data(), ...});
//           CHECK(y.read()[0].bits == 0);
//       });
//   }
//   TESTS_MAIN
//
// A test program runs all of its tests, or those whose names are arguments. Environment:
// VOXTILE_EMULATOR_SEED runs for_seeds with that seed alone; the others are in grid.h.
#pragma once
#include "grid.h"
#include "memory.h"

#include <fcntl.h>
#include <functional>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>
#include <vector>

namespace emulator {

// Device memory that ends at a guard page (to 16 bytes) and begins as 0xff: NaN, or -1.
template <class T> class Buffer {
    static_assert(std::is_trivially_copyable<T>::value, "bytes are copied");

  public:
    explicit Buffer(size_t count) : count_(count), data_(static_cast<T*>(allocate(count * sizeof(T), 16, 0))) {
        if (!data_) {
            fprintf(stderr, "no memory for a buffer of %zu bytes\n", count * sizeof(T));
            abort();
        }
    }
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { write(values); }
    ~Buffer() { release(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    T* data() const { return data_; }
    size_t size() const { return count_; }
    std::vector<T> read() const { return std::vector<T>(data_, data_ + count_); }
    void write(const std::vector<T>& values) {
        if (values.size() != count_) {
            fprintf(stderr, "%zu values for a buffer of %zu\n", values.size(), count_);
            abort();
        }
        if (count_) memcpy(static_cast<void*>(data_), values.data(), count_ * sizeof(T));
    }
    // As it was at first.
    void poison() { memset(static_cast<void*>(data_), 0xff, count_ * sizeof(T)); }

  private:
    size_t count_;
    T* data_;
};

struct Grid {
    u32 x = 1, y = 1, z = 1;
};

// Runs a kernel to its end. Ends the process where a GPU would refuse the launch.
template <class Parameters> void launch(const char* name, Grid grid, u32 shared_bytes, const Parameters& parameters) {
    const Kernel* kernel = find_kernel(name);
    if (!kernel) {
        fprintf(stderr, "there is no kernel %s; is its file included?\n", name);
        abort();
    }
    u32 most = largest_shared_memory(configuration().capability);
    if (kernel->parameter_bytes != sizeof(Parameters) || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff ||
        grid.y > 65535 || grid.z > 65535 || shared_bytes > most) {
        fprintf(stderr, "kernel %s cannot be launched: %zu bytes of parameters (it has %zu), grid %u %u %u, %u bytes of shared memory of at most %u\n",
                name, sizeof(Parameters), kernel->parameter_bytes, grid.x, grid.y, grid.z, shared_bytes, most);
        abort();
    }
    run_grid({kernel, {grid.x, grid.y, grid.z}, shared_bytes, &parameters});
    check_allocation_ends(name, 0);
}

// Runs the body with threads in order, and then in count - 1 adversarial schedules.
template <class Body> void for_seeds(u64 count, Body body) {
    if (getenv("VOXTILE_EMULATOR_SEED")) return body();
    u64 before = configuration().seed;
    for (u64 seed = 0; seed < count; seed++) {
        configuration().seed = seed;
        body();
    }
    configuration().seed = before;
}

// ---- a small test framework

struct Test {
    const char* name;
    void (*run)();
};
inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}
struct TestRegistration {
    TestRegistration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
inline int& failed_checks() {
    static int count = 0;
    return count;
}
inline bool check(bool holds, const char* text, const char* file, int line) {
    if (!holds && failed_checks()++ < 20) {
        fprintf(stderr, "%s:%d: with seed %llu: %s does not hold\n", file, line, configuration().seed, text);
    }
    return holds;
}

// Runs the body in a process of its own; gives its status as waitpid does, and what it printed as an error.
template <class Body> int run_apart(Body body, std::string& said) {
    fflush(stdout);
    fflush(stderr);
    int ends[2];
    if (pipe(ends) != 0) abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        configuration().threads = 1; // the other threads were not forked
        forget_threads();
        int before = failed_checks();
        body();
        _exit(failed_checks() != before);
    }
    close(ends[1]);
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;) said.append(buffer, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

// Whether the emulator ends the body with this in its message.
template <class Body> bool is_caught(const char* message, Body body) {
    std::string said;
    int status = run_apart(body, said);
    bool caught = WIFSIGNALED(status) && said.find(message) != std::string::npos;
    if (!caught) fprintf(stderr, "expected a message with \"%s\"; status %d, and it said:\n%s", message, status, said.c_str());
    return caught;
}

// Whether something goes wrong in the body: a check fails, or the emulator ends it.
template <class Body> bool is_noticed(Body body) {
    std::string said;
    return run_apart(body, said) != 0;
}

inline int run_tests(int count, char** names) {
    int run = 0;
    for (const Test& test : tests()) {
        bool wanted = count < 2;
        for (int i = 1; i < count; i++) wanted |= strcmp(names[i], test.name) == 0;
        if (!wanted) continue;
        run++;
        int before = failed_checks();
        test.run();
        printf("%s %s\n", failed_checks() == before ? "ok    " : "FAILED", test.name);
        fflush(stdout);
    }
    if (run == 0) fprintf(stderr, "no test was run\n");
    return run == 0 || failed_checks() != 0;
}

} // namespace emulator

#define TEST(name)                                                                                 \
    static void test_##name();                                                                     \
    static const emulator::TestRegistration test_##name##_registration(#name, test_##name);        \
    static void test_##name()
#define CHECK(condition) emulator::check(condition, #condition, __FILE__, __LINE__)
#define TESTS_MAIN                                                                                 \
    int main(int count, char** names) { return emulator::run_tests(count, names); }
