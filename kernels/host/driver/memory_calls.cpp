// Memory: allocations, copies and fills.
#include "driver.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>

namespace emulator {

// Memory of the host that copies reach by themselves: address -> bytes.
static std::map<uintptr_t, size_t>& pinned() {
    static auto& all = *new std::map<uintptr_t, size_t>;
    return all;
}

static bool is_pinned(const void* pointer, size_t bytes) {
    auto above = pinned().upper_bound(uintptr_t(pointer));
    if (above == pinned().begin()) return false;
    auto below = std::prev(above);
    return uintptr_t(pointer) + bytes <= below->first + below->second;
}

// Whether the bytes lie in one allocation of the context's device.
static bool on_device(CUctx& context, CUdeviceptr address, size_t bytes) {
    Allocation found;
    if (!find_allocation(reinterpret_cast<void*>(address), found)) return false;
    return found.owner == context.device && address >= uintptr_t(found.data) && bytes <= found.bytes &&
           address - uintptr_t(found.data) <= found.bytes - bytes;
}

static u8* pointer(CUdeviceptr address) { return reinterpret_cast<u8*>(address); }

// Outside of kernels and copies nobody may touch a device's memory. It costs some time, so only
// adversarial runs check it.
Access::Access(CUdevice device) : device_(device), guarded_(configuration().seed != 0) {
    if (guarded_) set_accessible(device_, true);
}
Access::~Access() {
    if (guarded_) set_accessible(device_, false);
}

void free_memory_of(CUdevice device) {
    size_t bytes = allocated_bytes(device);
    if (bytes) {
        fprintf(stderr, "voxtile emulator: a context ends while %zu bytes of device memory are allocated\n", bytes);
        release_all(device);
    }
}

static CUresult allocate_on(CUctx& context, CUdeviceptr* address, size_t bytes) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    size_t used = allocated_bytes(context.device);
    if (bytes > configuration().memory || used > configuration().memory - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    void* data = allocate(bytes, 256, context.device);
    if (!data) return CUDA_ERROR_OUT_OF_MEMORY;
    if (configuration().seed != 0) set_accessible(context.device, false);
    *address = CUdeviceptr(uintptr_t(data));
    return CUDA_SUCCESS;
}

static bool is_allocation(CUctx& context, CUdeviceptr address) {
    Allocation found;
    return find_allocation(pointer(address), found) && uintptr_t(found.data) == address && found.owner == context.device;
}

} // namespace emulator

using namespace emulator;

API cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    return call_in_context([&](CUctx& context) {
        if (CUresult forbidden = check_captures()) return forbidden;
        return allocate_on(context, address, bytes);
    });
}

API cuMemFree_v2(CUdeviceptr address) {
    return call_in_context([&](CUctx& context) {
        if (address == 0) return CUDA_SUCCESS;
        if (!is_allocation(context, address)) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult forbidden = check_captures()) return forbidden;
        drain(context); // memory is freed after the work that may use it
        release(pointer(address));
        return context.failed;
    });
}

API cuMemAllocAsync(CUdeviceptr* address, size_t bytes, void* handle) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (stream && stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
        return allocate_on(context, address, bytes);
    });
}

API cuMemFreeAsync(CUdeviceptr address, void* handle) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (address == 0) return CUDA_SUCCESS;
        if (!is_allocation(context, address)) return CUDA_ERROR_INVALID_VALUE;
        if (stream && stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
        return enqueue(context, stream, [address] { release(pointer(address)); });
    });
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    return call_in_context([&](CUctx& context) {
        *total = configuration().memory;
        *free = *total - allocated_bytes(context.device);
        return CUDA_SUCCESS;
    });
}

// ---- memory of the host

API cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    return call_in_context([&](CUctx&) {
        if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult forbidden = check_captures()) return forbidden;
        *memory = allocate(bytes, 64, HOST_MEMORY);
        if (!*memory) return CUDA_ERROR_OUT_OF_MEMORY;
        pinned()[uintptr_t(*memory)] = bytes;
        return CUDA_SUCCESS;
    });
}

API cuMemAllocHost_v2(void** memory, size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }

API cuMemFreeHost(void* memory) {
    return call_in_context([&](CUctx& context) {
        auto found = pinned().find(uintptr_t(memory));
        if (found == pinned().end()) return CUDA_ERROR_INVALID_VALUE;
        drain(context);
        pinned().erase(found);
        release(memory);
        return context.failed;
    });
}

// ---- copies

static CUresult to_device(CUdeviceptr to, const void* from, size_t bytes, void* handle, bool waits) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (bytes == 0) return CUDA_SUCCESS;
        if (!on_device(context, to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        CUdevice device = context.device;
        if (is_pinned(from, bytes) || waits || (stream && stream->capture)) {
            return enqueue(context, stream, [=] {
                Access access(device);
                memcpy(pointer(to), from, bytes);
            });
        }
        // Pageable memory has been read when the call returns.
        auto staged = std::make_shared<std::vector<u8>>(static_cast<const u8*>(from), static_cast<const u8*>(from) + bytes);
        return enqueue(context, stream, [=] {
            Access access(device);
            memcpy(pointer(to), staged->data(), bytes);
        });
    });
}

static CUresult to_host(void* to, CUdeviceptr from, size_t bytes, void* handle) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (bytes == 0) return CUDA_SUCCESS;
        if (!on_device(context, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        CUdevice device = context.device;
        CUresult result = enqueue(context, stream, [=] {
            Access access(device);
            memcpy(to, pointer(from), bytes);
        });
        // Pageable memory has been written when the call returns.
        if (stream && !stream->capture && !is_pinned(to, bytes)) {
            drain(*stream);
            if (!result) result = context.failed;
        }
        return result;
    });
}

static CUresult on_one_device(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (bytes == 0) return CUDA_SUCCESS;
        if (!on_device(context, to, bytes) || !on_device(context, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        CUdevice device = context.device;
        return enqueue(context, stream, [=] {
            Access access(device);
            memmove(pointer(to), pointer(from), bytes);
        });
    });
}

template <class Value> static CUresult fill(CUdeviceptr to, Value value, size_t count, void* handle) {
    return call_in_context([&](CUctx& context) {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        if (count == 0) return CUDA_SUCCESS;
        if (count > SIZE_MAX / sizeof(Value) || to % sizeof(Value) || !on_device(context, to, count * sizeof(Value))) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        CUdevice device = context.device;
        return enqueue(context, stream, [=] {
            Access access(device);
            Value* values = reinterpret_cast<Value*>(to);
            for (size_t i = 0; i < count; i++) values[i] = value;
        });
    });
}

API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return to_device(to, from, bytes, nullptr, true); }
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) { return to_device(to, from, bytes, stream, false); }
API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return to_host(to, from, bytes, nullptr); }
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) { return to_host(to, from, bytes, stream); }
API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return on_one_device(to, from, bytes, nullptr); }
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) { return on_one_device(to, from, bytes, stream); }
API cuMemsetD8_v2(CUdeviceptr to, u8 value, size_t count) { return fill<u8>(to, value, count, nullptr); }
API cuMemsetD8Async(CUdeviceptr to, u8 value, size_t count, void* stream) { return fill<u8>(to, value, count, stream); }
API cuMemsetD16_v2(CUdeviceptr to, u16 value, size_t count) { return fill<u16>(to, value, count, nullptr); }
API cuMemsetD16Async(CUdeviceptr to, u16 value, size_t count, void* stream) { return fill<u16>(to, value, count, stream); }
API cuMemsetD32_v2(CUdeviceptr to, u32 value, size_t count) { return fill<u32>(to, value, count, nullptr); }
API cuMemsetD32Async(CUdeviceptr to, u32 value, size_t count, void* stream) { return fill<u32>(to, value, count, stream); }
