// Modules, functions and launches.
#include "driver.h"

#include <algorithm>
#include <stdio.h>

namespace emulator {

void run_kernel(CUctx& context, const Launch& launch) {
    if (configuration().fault && --configuration().fault == 0) {
        context.failed = CUDA_ERROR_ILLEGAL_ADDRESS;
        return;
    }
    Access access(context.device);
    run_grid(launch);
    check_allocation_ends(launch.kernel->name, context.device);
}

// Whether a device runs an image: PTX, or a cubin of its own major number and no higher minor one.
// e_flags of a cubin hold its architecture in byte 0 up to ABI version 7 and in byte 1 from 8 on
// (seen in images of CUDA 12.9), and bit 11 or 3 for code that runs on no other.
static CUresult check_image(const u8* image) {
    if (memcmp(image, "\x7f"
                      "ELF",
               4) != 0) {
        const char* text = reinterpret_cast<const char*>(image);
        return strstr(text, ".version") && strstr(text, ".target") ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
    }
    u16 machine;
    u32 flags;
    memcpy(&machine, image + 18, 2);
    memcpy(&flags, image + 48, 4);
    if (machine != 190) return CUDA_ERROR_INVALID_IMAGE; // EM_CUDA
    bool newer = image[8] >= 8;
    u32 architecture = newer ? flags >> 8 & 0xff : flags & 0xff;
    bool only_there = newer ? flags & 8 : flags & 0x800;
    u32 capability = configuration().capability;
    bool runs = only_there ? architecture == capability
                           : architecture / 10 == capability / 10 && architecture % 10 <= capability % 10;
    return runs ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

static std::vector<u8> parameters_of(const Kernel& kernel, void** parameters, void** extra, CUresult& result) {
    result = CUDA_SUCCESS;
    std::vector<u8> copy(kernel.parameter_bytes);
    if (parameters) {
        memcpy(copy.data(), parameters[0], copy.size());
        return copy;
    }
    // CU_LAUNCH_PARAM_BUFFER_POINTER and CU_LAUNCH_PARAM_BUFFER_SIZE
    const void* buffer = nullptr;
    size_t bytes = 0;
    for (; extra && extra[0]; extra += 2) {
        if (uintptr_t(extra[0]) == 1) buffer = extra[1];
        if (uintptr_t(extra[0]) == 2) bytes = *static_cast<size_t*>(extra[1]);
    }
    if (!buffer || bytes != copy.size()) {
        fprintf(stderr, "voxtile emulator: kernel %s has %zu bytes of parameters, not %zu\n", kernel.name, copy.size(), bytes);
        result = CUDA_ERROR_INVALID_VALUE;
        return copy;
    }
    memcpy(copy.data(), buffer, bytes);
    return copy;
}

static CUresult refuse(const Kernel& kernel, const char* why, u64 found, u64 expected) {
    fprintf(stderr, "voxtile emulator: kernel %s is not launched: %s %llu, expected %llu\n", kernel.name, why, found, expected);
    return CUDA_ERROR_INVALID_VALUE;
}

static CUresult launch(Function* function, const u32 (&grid)[3], const u32 (&block)[3], u32 shared_bytes, void* handle,
                       void** parameters, void** extra) {
    return call_in_context([&](CUctx& context) {
        if (!is_live(function)) return CUDA_ERROR_INVALID_HANDLE;
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        const Kernel& kernel = *function->kernel;
        if (block[0] != kernel.threads) return refuse(kernel, "threads of a block", block[0], kernel.threads);
        if (block[1] != 1 || block[2] != 1) return refuse(kernel, "threads along y times z", u64(block[1]) * block[2], 1);
        if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return refuse(kernel, "blocks", 0, 1);
        if (grid[0] > 0x7fffffff) return refuse(kernel, "blocks along x", grid[0], 0x7fffffff);
        if (grid[1] > 65535 || grid[2] > 65535) return refuse(kernel, "blocks along y or z", std::max(grid[1], grid[2]), 65535);
        if (shared_bytes > function->shared_limit) return refuse(kernel, "bytes of shared memory", shared_bytes, function->shared_limit);
        CUresult result;
        auto copy = std::make_shared<std::vector<u8>>(parameters_of(kernel, parameters, extra, result));
        if (result) return result;
        Launch what{&kernel, {grid[0], grid[1], grid[2]}, shared_bytes, copy->data()};
        return enqueue(context, stream, [&context, what, copy] { run_kernel(context, what); });
    });
}

} // namespace emulator

using namespace emulator;

API cuModuleLoadData(Module** module, const void* image) {
    return call_in_context([&](CUctx&) {
        if (!image) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult forbidden = check_captures()) return forbidden;
        if (CUresult wrong = check_image(static_cast<const u8*>(image))) return wrong;
        *module = created(new Module());
        return CUDA_SUCCESS;
    });
}
API cuModuleLoadDataEx(Module** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }

API cuModuleUnload(Module* module) {
    return call([&] {
        if (!is_live(module)) return CUDA_ERROR_INVALID_HANDLE;
        for (CUctx* context : live<CUctx>()) drain(*context);
        for (auto& function : module->functions) live<Function>().erase(function.get());
        live<Module>().erase(module);
        delete module;
        return CUDA_SUCCESS;
    });
}

API cuModuleGetFunction(Function** function, Module* module, const char* name) {
    return call_in_context([&](CUctx&) {
        if (!is_live(module)) return CUDA_ERROR_INVALID_HANDLE;
        const Kernel* kernel = find_kernel(name);
        if (!kernel) return CUDA_ERROR_NOT_FOUND;
        for (auto& known : module->functions) {
            if (known->kernel == kernel) {
                *function = known.get();
                return CUDA_SUCCESS;
            }
        }
        module->functions.emplace_back(new Function{kernel, SHARED_MEMORY_WITHOUT_ASKING});
        *function = created(module->functions.back().get());
        return CUDA_SUCCESS;
    });
}

// Kernels have no global variables.
API cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, Module* module, const char*) {
    return call_in_context([&](CUctx&) { return is_live(module) ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_HANDLE; });
}

API cuFuncGetAttribute(int* value, int attribute, Function* function) {
    return call_in_context([&](CUctx&) {
        if (!is_live(function)) return CUDA_ERROR_INVALID_HANDLE;
        const Kernel& kernel = *function->kernel;
        switch (attribute) {
        case 0: *value = int(kernel.threads); break; // MAX_THREADS_PER_BLOCK
        case 1: case 2: case 3: *value = 0; break;   // SHARED_SIZE_BYTES, CONST_SIZE_BYTES, LOCAL_SIZE_BYTES
        case 4: *value = int(std::min(255u, 65536 / (kernel.threads * kernel.minimum_blocks))); break; // NUM_REGS, at most
        case 5: case 6: *value = int(configuration().capability); break;                               // PTX_VERSION, BINARY_VERSION
        case 8: *value = int(function->shared_limit); break; // MAX_DYNAMIC_SHARED_SIZE_BYTES
        default: return CUDA_ERROR_INVALID_VALUE;
        }
        return CUDA_SUCCESS;
    });
}

API cuFuncSetAttribute(Function* function, int attribute, int value) {
    return call_in_context([&](CUctx&) {
        if (!is_live(function)) return CUDA_ERROR_INVALID_HANDLE;
        switch (attribute) {
        case 8: // MAX_DYNAMIC_SHARED_SIZE_BYTES
            if (value < 0 || u32(value) > largest_shared_memory(configuration().capability)) return CUDA_ERROR_INVALID_VALUE;
            function->shared_limit = u32(value);
            return CUDA_SUCCESS;
        case 9: return CUDA_SUCCESS; // PREFERRED_SHARED_MEMORY_CARVEOUT
        default: return CUDA_ERROR_INVALID_VALUE;
        }
    });
}

API cuFuncSetCacheConfig(Function* function, int) {
    return call_in_context([&](CUctx&) { return is_live(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

API cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                   unsigned threads_z, unsigned shared_bytes, void* stream, void** parameters, void** extra) {
    return launch(function, {x, y, z}, {threads_x, threads_y, threads_z}, shared_bytes, stream, parameters, extra);
}

// CUlaunchConfig
struct LaunchConfiguration {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared_bytes;
    void* stream;
    void* attributes;
    unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfiguration* configuration, Function* function, void** parameters, void** extra) {
    // Clusters and programmatic dependent launches are not emulated.
    if (configuration->attribute_count) return CUDA_ERROR_NOT_SUPPORTED;
    return launch(function, configuration->grid, configuration->block, configuration->shared_bytes, configuration->stream,
                  parameters, extra);
}

// As far as threads and shared memory limit it; how many registers a GPU's code needs is not known here.
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int threads, size_t shared_bytes) {
    return call_in_context([&](CUctx&) {
        if (!is_live(function)) return CUDA_ERROR_INVALID_HANDLE;
        if (threads <= 0 || u32(threads) > function->kernel->threads) return CUDA_ERROR_INVALID_VALUE;
        size_t shared = largest_shared_memory(configuration().capability) + 1024;
        *blocks = int(std::min<size_t>({size_t(2048 / threads), shared / (shared_bytes + 1024), 24}));
        return CUDA_SUCCESS;
    });
}
