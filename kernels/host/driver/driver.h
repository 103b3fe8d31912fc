// The CUDA driver's objects, as far as an application that launches kernels needs them. Names and
// numbers are those of the driver API (NVIDIA's "CUDA Driver API" reference).
//
// Where the API leaves open when work is done, an adversarial run (VOXTILE_EMULATOR_SEED) does it as
// late as allowed: streams keep their work until somebody waits for it, so that a missing wait, or
// memory that is reused too soon, gives wrong results here too. Otherwise work is done at once.
#pragma once
#include "../grid.h"
#include "../memory.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) CUresult

enum CUresult : int {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_FILE_NOT_FOUND = 301,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_STATE = 401,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
};
typedef int CUdevice;
typedef u64 CUdeviceptr;

namespace emulator {

struct CUctx;
struct Stream;

// A point in a stream's work.
struct EventState {
    // How often it was recorded, and which of those records has been reached.
    u64 recorded = 0;
    u64 reached = 0;
    double seconds = 0;
    // The stream of the newest record.
    std::weak_ptr<Stream> stream;
    bool timed = true;
};
struct Event {
    std::shared_ptr<EventState> state;
};

using Work = std::function<void()>;

struct Graph {
    std::vector<Work> work;
};
struct GraphExec {
    std::shared_ptr<const std::vector<Work>> work;
};

enum class CaptureMode { Global = 0, ThreadLocal = 1, Relaxed = 2 };
struct Capture {
    CaptureMode mode;
    const void* thread;
    bool invalidated;
    std::vector<Work> work;
};

struct Stream : std::enable_shared_from_this<Stream> {
    CUctx* context;
    // Whether it and the default stream wait for each other.
    bool blocking = true;
    std::deque<Work> pending;
    std::unique_ptr<Capture> capture;
};

struct Module;
struct Function {
    const Kernel* kernel;
    u32 shared_limit;
};
struct Module {
    std::vector<std::unique_ptr<Function>> functions;
};

struct CUctx {
    CUdevice device;
    bool primary;
    u32 retained = 0;
    // What a kernel did wrong: every later call fails with it.
    CUresult failed = CUDA_SUCCESS;
    std::unordered_set<std::shared_ptr<Stream>> streams;
};

// The handles that applications have, to tell those that are no longer.
template <class T> std::unordered_set<T*>& live() {
    static auto& all = *new std::unordered_set<T*>; // to the process's very end
    return all;
}
template <class T> T* created(T* object) {
    live<T>().insert(object);
    return object;
}
template <class T> bool is_live(T* object) { return live<T>().count(object) != 0; }

extern std::mutex driver_mutex;
extern bool initialised;
// The contexts of this thread, the current one last.
std::vector<CUctx*>& context_stack();
// Of the calling thread; null if there is none.
CUctx* current_context();
const void* this_thread();

// Runs the body of a call that needs no context.
template <class Body> CUresult call(Body body) {
    std::lock_guard<std::mutex> lock(driver_mutex);
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    return body();
}
// Runs the body of a call that needs the current context.
template <class Body> CUresult call_in_context(Body body) {
    return call([&]() -> CUresult {
        CUctx* context = current_context();
        if (!context) return CUDA_ERROR_INVALID_CONTEXT;
        if (context->failed) return context->failed;
        return body(*context);
    });
}

// ---- streams.cpp

// The stream that a handle means; null if it is not one. The default stream has no object: it is
// an empty pointer.
bool find_stream(CUctx& context, void* handle, std::shared_ptr<Stream>& stream);
// Does the work in the order of the stream: now, or as late as allowed; or records it.
CUresult enqueue(CUctx& context, const std::shared_ptr<Stream>& stream, Work work);
// Finishes all work of a stream, or of a context's streams.
void drain(Stream& stream);
void drain(CUctx& context);
// What may be under way goes on for a while.
void let_work_go_on(CUctx& context);
// An error if a capture forbids a call that might wait or allocate, which ends that capture.
CUresult check_captures();
// The default stream waits for all streams that are not its own.
void drain_blocking(CUctx& context);

// ---- memory_calls.cpp

// Lets the emulator touch a device's memory while it lives.
class Access {
  public:
    explicit Access(CUdevice device);
    ~Access();

  private:
    CUdevice device_;
    bool guarded_;
};
void free_memory_of(CUdevice device);

// ---- modules.cpp

void run_kernel(CUctx& context, const Launch& launch);

} // namespace emulator
