// The emulated driver, used as an application uses libcuda: streams, events, captures, limits, errors.
#include "../launch.h"

#include <array>
#include <thread>

using emulator::configuration;
using emulator::for_seeds;
using emulator::is_caught;

typedef int Result;
extern "C" {
Result cuInit(unsigned);
Result cuDeviceGetCount(int*);
Result cuDeviceGet(int*, int);
Result cuDeviceGetAttribute(int*, int, int);
Result cuDevicePrimaryCtxRetain(void**, int);
Result cuDevicePrimaryCtxRelease_v2(int);
Result cuCtxSetCurrent(void*);
Result cuCtxGetCurrent(void**);
Result cuCtxSynchronize();
Result cuMemAlloc_v2(u64*, size_t);
Result cuMemFree_v2(u64);
Result cuMemGetInfo_v2(size_t*, size_t*);
Result cuMemHostAlloc(void**, size_t, unsigned);
Result cuMemFreeHost(void*);
Result cuMemcpyHtoD_v2(u64, const void*, size_t);
Result cuMemcpyHtoDAsync_v2(u64, const void*, size_t, void*);
Result cuMemcpyDtoH_v2(void*, u64, size_t);
Result cuMemcpyDtoHAsync_v2(void*, u64, size_t, void*);
Result cuMemcpyDtoDAsync_v2(u64, u64, size_t, void*);
Result cuMemsetD8Async(u64, unsigned char, size_t, void*);
Result cuMemsetD32Async(u64, unsigned, size_t, void*);
Result cuStreamCreate(void**, unsigned);
Result cuStreamDestroy_v2(void*);
Result cuStreamSynchronize(void*);
Result cuStreamQuery(void*);
Result cuStreamWaitEvent(void*, void*, unsigned);
Result cuStreamBeginCapture_v2(void*, int);
Result cuStreamEndCapture(void*, void**);
Result cuEventCreate(void**, unsigned);
Result cuEventDestroy_v2(void*);
Result cuEventRecord(void*, void*);
Result cuEventQuery(void*);
Result cuEventSynchronize(void*);
Result cuEventElapsedTime(float*, void*, void*);
Result cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
Result cuGraphLaunch(void*, void*);
Result cuGraphDestroy(void*);
Result cuGraphExecDestroy(void*);
Result cuModuleLoadData(void**, const void*);
Result cuModuleUnload(void*);
Result cuModuleGetFunction(void**, void*, const char*);
Result cuFuncSetAttribute(void*, int, int);
Result cuFuncGetAttribute(int*, int, void*);
Result cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
Result cuGetErrorName(Result, const char**);
}

#define OK(call) CHECK((call) == 0)

struct Add {
    u32* values;
    u32 count;
    u32 what;
};
KERNEL(add, 64, 1, Add) {
    SHARED(shared);
    if (thread_index() == 0) *(u32*)shared = p.what;
    block_barrier();
    for (u32 i = thread_index() + 64 * block_index_x(); i < p.count; i += 64 * grid_size_x()) p.values[i] += *(u32*)shared;
}

static const char PTX[] = ".version 8.0\n.target sm_80\n";

// A context with a module and a stream, as an application begins.
struct Application {
    void *context, *module, *function, *stream;
    explicit Application(int device = 0, unsigned stream_flags = 1) : device_(device) {
        OK(cuInit(0));
        OK(cuDevicePrimaryCtxRetain(&context, device));
        OK(cuCtxSetCurrent(context));
        OK(cuModuleLoadData(&module, PTX));
        OK(cuModuleGetFunction(&function, module, "add"));
        OK(cuStreamCreate(&stream, stream_flags));
    }
    ~Application() {
        OK(cuStreamDestroy_v2(stream));
        OK(cuModuleUnload(module));
        OK(cuCtxSetCurrent(nullptr));
        OK(cuDevicePrimaryCtxRelease_v2(device_));
    }
    Result launch(u64 values, u32 count, u32 what, u32 shared_bytes = 4, u32 threads = 64, u32 blocks = 3) {
        Add parameters{reinterpret_cast<u32*>(values), count, what};
        void* list[] = {&parameters};
        return cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, list, nullptr);
    }

  private:
    int device_;
};

TEST(a_device_computes) {
    for_seeds(6, [] {
        Application application;
        std::vector<u32> values(1000);
        for (u32 i = 0; i < 1000; i++) values[i] = i;
        u64 memory;
        OK(cuMemAlloc_v2(&memory, 4000));
        OK(cuMemcpyHtoDAsync_v2(memory, values.data(), 4000, application.stream));
        values.assign(1000, 0); // pageable memory has been read
        for (u32 i = 0; i < 5; i++) OK(application.launch(memory, 1000, 100));
        OK(cuMemcpyDtoHAsync_v2(values.data(), memory, 4000, application.stream));
        for (u32 i = 0; i < 1000; i++) CHECK(values[i] == 500 + i);
        OK(cuMemFree_v2(memory));
    });
}

TEST(fresh_memory_is_poison_and_limited) {
    u64 before = configuration().memory;
    configuration().memory = 10000;
    Application application;
    u64 first, second;
    size_t free, total;
    OK(cuMemAlloc_v2(&first, 6000));
    OK(cuMemGetInfo_v2(&free, &total));
    CHECK(free == 4000 && total == 10000);
    CHECK(cuMemAlloc_v2(&second, 4001) == 2);
    OK(cuMemAlloc_v2(&second, 4000));
    u32 value = 0;
    OK(cuMemcpyDtoH_v2(&value, second + 100, 4));
    CHECK(value == ~0u);
    CHECK(cuMemcpyDtoH_v2(&value, second + 3997, 4) == 1);
    CHECK(cuMemcpyHtoD_v2(first - 1, &value, 1) == 1);
    OK(cuMemFree_v2(first));
    CHECK(cuMemFree_v2(first) == 1);
    OK(cuMemFree_v2(second));
    configuration().memory = before;
}

TEST(launches_beyond_limits_are_refused) {
    u32 before = configuration().capability;
    for (auto [capability, most] : {std::pair<u32, u32>{80, 163 << 10}, {86, 99 << 10}, {90, 227 << 10}, {120, 99 << 10}}) {
        configuration().capability = capability;
        Application application;
        u64 memory;
        OK(cuMemAlloc_v2(&memory, 4000));
        OK(application.launch(memory, 1000, 1, 48 << 10));
        CHECK(application.launch(memory, 1000, 1, (48 << 10) + 1) == 1);
        OK(cuFuncSetAttribute(application.function, 8, int(most)));
        CHECK(cuFuncSetAttribute(application.function, 8, int(most + 1)) == 1);
        OK(application.launch(memory, 1000, 1, most));
        CHECK(application.launch(memory, 1000, 1, most + 1) == 1);
        CHECK(application.launch(memory, 1000, 1, 4, 32) == 1);
        CHECK(application.launch(memory, 1000, 1, 4, 64, 0) == 1);
        int major = 0, shared = 0, threads = 0;
        OK(cuDeviceGetAttribute(&major, 75, 0));
        OK(cuDeviceGetAttribute(&shared, 97, 0));
        OK(cuFuncGetAttribute(&threads, 0, application.function));
        CHECK(u32(major) == capability / 10 && u32(shared) == most && threads == 64);
        OK(cuMemFree_v2(memory));
    }
    configuration().capability = before;
}

TEST(only_images_for_the_device_load) {
    Application application;
    void* module;
    auto cubin = [](u8 abi, u32 flags) {
        std::array<u8, 64> image{};
        memcpy(image.data(), "\x7f" "ELF", 4);
        image[8] = abi;
        image[18] = 190;
        memcpy(image.data() + 48, &flags, 4);
        return image;
    };
    auto load = [&](const void* image) {
        Result result = cuModuleLoadData(&module, image);
        if (result == 0) OK(cuModuleUnload(module));
        return result;
    };
    CHECK(load("hello") == 200);
    // e_flags of sm_80, sm_86, sm_90a, sm_100 and sm_120 cubins of NVRTC 12.9.
    struct Image {
        u8 abi;
        u32 flags, runs_on[3];
    };
    u32 before = configuration().capability;
    for (Image image : {Image{7, 0x500550, {80, 86, 89}}, Image{7, 0x560556, {86, 89, 0}}, Image{7, 0x5a0d5a, {90, 0, 0}},
                        Image{8, 0x6006402, {100, 103, 0}}, Image{8, 0x6007802, {120, 121, 0}}}) {
        for (u32 capability : {80, 86, 89, 90, 100, 103, 120, 121}) {
            configuration().capability = capability;
            bool runs = capability == image.runs_on[0] || capability == image.runs_on[1] || capability == image.runs_on[2];
            CHECK(load(cubin(image.abi, image.flags).data()) == (runs ? 0 : 209));
        }
    }
    configuration().capability = before;
    void* function;
    CHECK(cuModuleGetFunction(&function, application.module, "subtract") == 500);
}

// What is asked of a stream happens in order, and late: forgetting to wait shows in some schedule.
TEST(work_is_done_late) {
    bool noticed = false;
    for_seeds(6, [&] {
        Application application;
        void* pinned;
        u64 memory;
        OK(cuMemHostAlloc(&pinned, 400, 0));
        OK(cuMemAlloc_v2(&memory, 400));
        u32* values = static_cast<u32*>(pinned);
        for (u32 i = 0; i < 100; i++) values[i] = i;
        OK(cuMemcpyHtoDAsync_v2(memory, pinned, 400, application.stream));
        OK(application.launch(memory, 100, 1000));
        OK(cuMemcpyDtoHAsync_v2(pinned, memory, 400, application.stream));
        noticed |= values[7] != 1007;
        OK(cuStreamSynchronize(application.stream));
        for (u32 i = 0; i < 100; i++) CHECK(values[i] == 1000 + i);
        // Reusing memory that is still to be read.
        OK(cuMemcpyHtoDAsync_v2(memory, pinned, 400, application.stream));
        values[3] = 5;
        u32 value;
        OK(cuMemcpyDtoHAsync_v2(&value, memory + 12, 4, application.stream));
        noticed |= value == 5;
        OK(cuMemFree_v2(memory));
        OK(cuMemFreeHost(pinned));
    });
    CHECK(noticed);
}

TEST(streams_wait_for_events_only) {
    int unordered = 0;
    for_seeds(20, [&] {
        Application application;
        void *other, *event, *later;
        u64 memory;
        OK(cuStreamCreate(&other, 1));
        OK(cuEventCreate(&event, 0));
        OK(cuEventCreate(&later, 0));
        OK(cuMemAlloc_v2(&memory, 400));
        u32 value = 0;
        for (bool waits : {true, false}) {
            OK(cuMemsetD32Async(memory, 1, 100, application.stream));
            OK(cuEventRecord(event, application.stream));
            if (waits) OK(cuStreamWaitEvent(other, event, 0));
            OK(cuMemcpyDtoDAsync_v2(memory + 4, memory, 4, other));
            OK(cuMemsetD32Async(memory + 4, 7, 1, waits ? other : application.stream));
            OK(cuEventRecord(later, other));
            if (!waits) OK(cuCtxSynchronize());
            while (Result result = cuEventQuery(later)) CHECK(result == 600);
            OK(cuCtxSynchronize());
            float milliseconds = -1;
            OK(cuEventElapsedTime(&milliseconds, event, later));
            OK(cuMemcpyDtoH_v2(&value, memory + 4, 4));
            if (waits) CHECK(value == 7 && milliseconds >= 0);
            else unordered += value != 7;
        }
        OK(cuMemFree_v2(memory));
        OK(cuEventDestroy_v2(event));
        OK(cuEventDestroy_v2(later));
        OK(cuStreamDestroy_v2(other));
        CHECK(cuStreamDestroy_v2(other) == 400);
        CHECK(cuEventRecord(event, application.stream) == 400);
    });
    CHECK(unordered > 0);
}

TEST(graphs_repeat_what_was_captured) {
    for_seeds(6, [] {
        Application application;
        u64 memory;
        void *graph, *executable;
        OK(cuMemAlloc_v2(&memory, 400));
        OK(cuMemsetD8Async(memory, 0, 400, application.stream));
        OK(cuStreamBeginCapture_v2(application.stream, 1));
        OK(application.launch(memory, 100, 3));
        OK(application.launch(memory, 50, 4));
        OK(cuStreamEndCapture(application.stream, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        OK(cuGraphDestroy(graph));
        u32 values[100];
        OK(cuMemcpyDtoHAsync_v2(values, memory, 400, application.stream));
        for (u32 value : values) CHECK(value == 0);
        for (u32 i = 0; i < 3; i++) OK(cuGraphLaunch(executable, application.stream));
        OK(cuMemcpyDtoHAsync_v2(values, memory, 400, application.stream));
        for (u32 i = 0; i < 100; i++) CHECK(values[i] == (i < 50 ? 21u : 9u));
        OK(cuGraphExecDestroy(executable));
        CHECK(cuGraphLaunch(executable, application.stream) == 400);
        OK(cuMemFree_v2(memory));
    });
}

TEST(captures_forbid_what_waits) {
    Application application;
    u64 memory, other;
    void* graph;
    OK(cuMemAlloc_v2(&memory, 400));
    OK(cuStreamBeginCapture_v2(application.stream, 1));
    CHECK(cuMemAlloc_v2(&other, 400) == 900);
    CHECK(application.launch(memory, 100, 3) == 901);
    CHECK(cuStreamEndCapture(application.stream, &graph) == 901 && graph == nullptr);
    OK(cuStreamBeginCapture_v2(application.stream, 1));
    CHECK(cuStreamSynchronize(application.stream) == 900);
    CHECK(cuStreamEndCapture(application.stream, &graph) == 901);
    CHECK(cuStreamEndCapture(application.stream, &graph) == 401);
    OK(cuStreamBeginCapture_v2(application.stream, 1));
    std::thread([&] { // another thread goes on
        OK(cuCtxSetCurrent(application.context));
        OK(cuMemAlloc_v2(&other, 400));
        OK(cuMemFree_v2(other));
        CHECK(cuStreamEndCapture(application.stream, &graph) == 908);
    }).join();
    CHECK(cuStreamEndCapture(application.stream, &graph) == 901);
    OK(application.launch(memory, 100, 3));
    OK(cuMemFree_v2(memory));
}

TEST(errors_of_kernels_stay) {
    for_seeds(4, [] {
        std::string said;
        int status = emulator::run_apart(
            [] {
                configuration().fault = 2;
                Application application;
                u64 memory;
                OK(cuMemAlloc_v2(&memory, 400));
                for (int i = 0; i < 3; i++) {
                    Result launched = application.launch(memory, 100, 3);
                    CHECK(launched == 0 || (i == 2 && launched == 700));
                }
                CHECK(cuStreamSynchronize(application.stream) == 700);
                u64 more;
                CHECK(cuMemAlloc_v2(&more, 400) == 700);
                CHECK(cuCtxSynchronize() == 700);
                const char* name = nullptr;
                OK(cuGetErrorName(700, &name));
                CHECK(std::string(name) == "CUDA_ERROR_ILLEGAL_ADDRESS");
            },
            said);
        if (!CHECK(status == 0)) fprintf(stderr, "%s", said.c_str());
    });
}

TEST(contexts_are_needed_and_separate) {
    configuration().devices = 2;
    OK(cuInit(0));
    int count = 0, device;
    OK(cuDeviceGetCount(&count));
    CHECK(count == 2 && cuDeviceGet(&device, 2) == 101);
    u64 memory;
    CHECK(cuMemAlloc_v2(&memory, 4) == 201);
    Application first(0);
    OK(cuMemAlloc_v2(&memory, 400));
    {
        Application second(1);
        CHECK(cuMemsetD8Async(memory, 0, 400, second.stream) == 1); // the other device's memory
        CHECK(cuStreamSynchronize(first.stream) == 400);
        void* current;
        OK(cuCtxGetCurrent(&current));
        CHECK(current == second.context);
    }
    OK(cuCtxSetCurrent(first.context));
    OK(cuMemsetD8Async(memory, 0, 400, first.stream));
    OK(cuMemFree_v2(memory));
    configuration().devices = 1;
}

TEST(the_host_may_not_touch_device_memory) {
    u64 before = configuration().seed;
    configuration().seed = 3;
    CHECK(is_caught("the host wrote address", [] {
        Application application;
        u64 memory;
        OK(cuMemAlloc_v2(&memory, 400));
        *reinterpret_cast<volatile u32*>(memory + 8) = 1;
    }));
    CHECK(is_caught("byte 8 of an allocation of 400 bytes, which only kernels may touch", [] {
        Application application;
        u64 memory;
        OK(cuMemAlloc_v2(&memory, 400));
        (void)*reinterpret_cast<volatile u32*>(memory + 8);
    }));
    configuration().seed = before;
}

TEST(kernels_out_of_bounds_are_caught_here_too) {
    for_seeds(3, [] {
        CHECK(is_caught("kernel add, block", [] {
            Application application;
            u64 memory;
            OK(cuMemAlloc_v2(&memory, 400));
            OK(application.launch(memory, 5000, 3));
            OK(cuStreamSynchronize(application.stream));
        }));
    });
}

TESTS_MAIN
