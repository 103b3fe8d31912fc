// Devices and contexts.
#include "driver.h"

#include <map>
#include <stdio.h>

namespace emulator {

std::mutex driver_mutex;
bool initialised = false;

std::vector<CUctx*>& context_stack() {
    static thread_local std::vector<CUctx*> stack;
    return stack;
}

CUctx* current_context() {
    auto& stack = context_stack();
    return stack.empty() || !is_live(stack.back()) ? nullptr : stack.back();
}

const void* this_thread() {
    static thread_local char here;
    return &here;
}

static bool exists(CUdevice device) { return device >= 0 && u32(device) < configuration().devices; }

static CUctx& primary_context(CUdevice device) {
    static auto& all = *new std::map<CUdevice, CUctx>;
    return all[device];
}

static void destroy(CUctx& context) {
    drain(context);
    for (const auto& stream : context.streams) live<Stream>().erase(stream.get());
    context.streams.clear();
    free_memory_of(context.device);
    context.failed = CUDA_SUCCESS;
    live<CUctx>().erase(&context);
}

// Multiprocessors of the largest cards of each kind that are sold.
static int multiprocessors(u32 capability) {
    switch (capability) {
    case 80: return 108;
    case 86: return 84;
    case 89: return 128;
    case 90: return 132;
    case 120: return 170;
    default: return 148;
    }
}

static bool attribute(int which, int* value) {
    u32 capability = configuration().capability;
    switch (which) {
    case 1: *value = 1024; return true;                                       // MAX_THREADS_PER_BLOCK
    case 2: case 3: *value = 1024; return true;                               // MAX_BLOCK_DIM_X, _Y
    case 4: *value = 64; return true;                                         // MAX_BLOCK_DIM_Z
    case 5: *value = 0x7fffffff; return true;                                 // MAX_GRID_DIM_X
    case 6: case 7: *value = 65535; return true;                              // MAX_GRID_DIM_Y, _Z
    case 8: *value = SHARED_MEMORY_WITHOUT_ASKING; return true;               // MAX_SHARED_MEMORY_PER_BLOCK
    case 9: *value = 65536; return true;                                      // TOTAL_CONSTANT_MEMORY
    case 10: *value = 32; return true;                                        // WARP_SIZE
    case 12: case 82: *value = 65536; return true;                            // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
    case 13: *value = 1980000; return true;                                   // CLOCK_RATE, kHz
    case 16: *value = multiprocessors(capability); return true;               // MULTIPROCESSOR_COUNT
    case 17: case 18: case 20: case 32: case 83: *value = 0; return true;     // KERNEL_EXEC_TIMEOUT, INTEGRATED, COMPUTE_MODE, ECC, MANAGED_MEMORY
    case 19: case 31: case 41: *value = 1; return true;                       // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING
    case 33: case 34: case 50: *value = 0; return true;                       // PCI_BUS_ID, PCI_DEVICE_ID, PCI_DOMAIN_ID
    case 36: *value = 2619000; return true;                                   // MEMORY_CLOCK_RATE, kHz
    case 37: *value = 5120; return true;                                      // GLOBAL_MEMORY_BUS_WIDTH
    case 38: *value = 50 << 20; return true;                                  // L2_CACHE_SIZE
    case 39: *value = capability == 80 || capability / 10 == 9 || capability == 100 ? 2048 : 1536; return true; // MAX_THREADS_PER_MULTIPROCESSOR
    case 40: *value = 2; return true;                                         // ASYNC_ENGINE_COUNT
    case 75: *value = int(capability / 10); return true;                      // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = int(capability % 10); return true;                      // COMPUTE_CAPABILITY_MINOR
    case 78: *value = 1; return true;                                         // STREAM_PRIORITIES_SUPPORTED
    case 81: *value = int(largest_shared_memory(capability)) + 1024; return true; // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 95: *value = 0; return true;                                         // COOPERATIVE_LAUNCH
    case 97: *value = int(largest_shared_memory(capability)); return true;    // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 106: *value = 24; return true;                                       // MAX_BLOCKS_PER_MULTIPROCESSOR
    case 111: *value = 1024; return true;                                     // RESERVED_SHARED_MEMORY_PER_BLOCK
    case 115: *value = 1; return true;                                        // MEMORY_POOLS_SUPPORTED
    default: return false;
    }
}

} // namespace emulator

using namespace emulator;

API cuInit(unsigned flags) {
    std::lock_guard<std::mutex> lock(driver_mutex);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (configuration().devices == 0) return CUDA_ERROR_NO_DEVICE;
    initialised = true;
    return CUDA_SUCCESS;
}

API cuDriverGetVersion(int* version) {
    *version = 12090;
    return CUDA_SUCCESS;
}

API cuDeviceGetCount(int* count) {
    return call([&] {
        *count = int(configuration().devices);
        return CUDA_SUCCESS;
    });
}

API cuDeviceGet(CUdevice* device, int ordinal) {
    return call([&] {
        if (!exists(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
        *device = ordinal;
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetName(char* name, int length, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        if (length <= 0) return CUDA_ERROR_INVALID_VALUE;
        u32 capability = configuration().capability;
        snprintf(name, size_t(length), "emulated GPU of compute capability %u.%u", capability / 10, capability % 10);
        return CUDA_SUCCESS;
    });
}

static CUresult uuid(void* bytes, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        memcpy(bytes, "voxtile emulator", 16);
        static_cast<u8*>(bytes)[15] = u8(device);
        return CUDA_SUCCESS;
    });
}
API cuDeviceGetUuid(void* bytes, CUdevice device) { return uuid(bytes, device); }
API cuDeviceGetUuid_v2(void* bytes, CUdevice device) { return uuid(bytes, device); }

API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        *bytes = configuration().memory;
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetAttribute(int* value, int which, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        if (attribute(which, value)) return CUDA_SUCCESS;
        // What nobody asked for yet is better noticed than guessed.
        fprintf(stderr, "voxtile emulator: device attribute %d is not emulated\n", which);
        return CUDA_ERROR_INVALID_VALUE;
    });
}

// ---- contexts

API cuDevicePrimaryCtxRetain(CUctx** context, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        if (u32(device) < configuration().busy) return CUDA_ERROR_DEVICE_UNAVAILABLE;
        CUctx& primary = primary_context(device);
        if (primary.retained++ == 0) {
            primary.device = device;
            primary.primary = true;
            created(&primary);
        }
        *context = &primary;
        return CUDA_SUCCESS;
    });
}

API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        CUctx& primary = primary_context(device);
        if (primary.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
        if (--primary.retained == 0) destroy(primary);
        return CUDA_SUCCESS;
    });
}

API cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        *flags = 0;
        *active = primary_context(device).retained > 0;
        return CUDA_SUCCESS;
    });
}

API cuCtxCreate_v2(CUctx** context, unsigned, CUdevice device) {
    return call([&] {
        if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
        *context = created(new CUctx{device, false, 1, CUDA_SUCCESS, {}});
        context_stack().push_back(*context);
        return CUDA_SUCCESS;
    });
}

API cuCtxDestroy_v2(CUctx* context) {
    return call([&] {
        if (!is_live(context) || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
        destroy(*context);
        auto& stack = context_stack();
        if (!stack.empty() && stack.back() == context) stack.pop_back();
        delete context;
        return CUDA_SUCCESS;
    });
}

API cuCtxGetCurrent(CUctx** context) {
    return call([&] {
        *context = current_context();
        return CUDA_SUCCESS;
    });
}

API cuCtxSetCurrent(CUctx* context) {
    return call([&] {
        if (context && !is_live(context)) return CUDA_ERROR_INVALID_CONTEXT;
        auto& stack = context_stack();
        if (!stack.empty()) stack.pop_back();
        if (context) stack.push_back(context);
        return CUDA_SUCCESS;
    });
}

API cuCtxPushCurrent_v2(CUctx* context) {
    return call([&] {
        if (!is_live(context)) return CUDA_ERROR_INVALID_CONTEXT;
        context_stack().push_back(context);
        return CUDA_SUCCESS;
    });
}

API cuCtxPopCurrent_v2(CUctx** context) {
    return call([&] {
        auto& stack = context_stack();
        if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
        if (context) *context = stack.back();
        stack.pop_back();
        return CUDA_SUCCESS;
    });
}

API cuCtxGetDevice(CUdevice* device) {
    return call_in_context([&](CUctx& context) {
        *device = context.device;
        return CUDA_SUCCESS;
    });
}

API cuCtxSynchronize() {
    return call_in_context([&](CUctx& context) {
        if (CUresult forbidden = check_captures()) return forbidden;
        drain(context);
        return context.failed;
    });
}

API cuCtxSetFlags(unsigned) {
    return call_in_context([&](CUctx&) { return CUDA_SUCCESS; });
}

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call_in_context([&](CUctx&) {
        if (least) *least = 0;
        if (greatest) *greatest = -5;
        return CUDA_SUCCESS;
    });
}
