// Streams, events, captures and graphs.
#include "driver.h"

#include <chrono>

namespace emulator {

static Random chance(1);

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool find_stream(CUctx& context, void* handle, std::shared_ptr<Stream>& stream) {
    if (uintptr_t(handle) <= 2) return true; // null, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
    Stream* found = static_cast<Stream*>(handle);
    if (!is_live(found) || found->context != &context) return false;
    stream = found->shared_from_this();
    return true;
}

static void run_first(Stream& stream) {
    Work work = std::move(stream.pending.front());
    stream.pending.pop_front();
    if (!stream.context->failed) work();
}

void drain(Stream& stream) {
    while (!stream.pending.empty()) run_first(stream);
}

// Streams in an order that differs from call to call.
static std::vector<std::shared_ptr<Stream>> shuffled(CUctx& context) {
    std::vector<std::shared_ptr<Stream>> streams(context.streams.begin(), context.streams.end());
    for (size_t i = streams.size(); i > 1; i--) std::swap(streams[i - 1], streams[chance.below(u32(i))]);
    return streams;
}

void drain(CUctx& context) {
    for (auto& stream : shuffled(context)) drain(*stream);
}

void drain_blocking(CUctx& context) {
    for (auto& stream : shuffled(context)) {
        if (stream->blocking) drain(*stream);
    }
}

void let_work_go_on(CUctx& context) {
    if (configuration().seed == 0) return;
    for (auto& stream : shuffled(context)) {
        while (!stream->pending.empty() && chance.one_in(8)) run_first(*stream);
    }
}

CUresult enqueue(CUctx& context, const std::shared_ptr<Stream>& stream, Work work) {
    if (!stream) {
        // The default stream, which does not work ahead here: it comes after all blocking streams.
        for (auto& other : context.streams) {
            if (other->blocking && other->capture) {
                other->capture->invalidated = true;
                return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
            }
        }
        drain_blocking(context);
        work();
        return context.failed;
    }
    if (stream->capture) {
        if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream->capture->work.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    stream->pending.push_back(std::move(work));
    if (configuration().seed == 0) {
        drain(*stream);
    } else {
        let_work_go_on(context);
    }
    // What a kernel does wrong is reported by a later call.
    return CUDA_SUCCESS;
}

CUresult check_captures() {
    for (Stream* stream : live<Stream>()) {
        Capture* capture = stream->capture.get();
        if (!capture || capture->mode == CaptureMode::Relaxed) continue;
        if (capture->mode == CaptureMode::ThreadLocal && capture->thread != this_thread()) continue;
        capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

// Work goes on until a record of an event is reached.
static void reach(EventState& event, u64 record) {
    while (event.reached < record) {
        auto stream = event.stream.lock();
        if (!stream || stream->pending.empty()) return;
        run_first(*stream);
    }
}

} // namespace emulator

using namespace emulator;

static CUresult create_stream(Stream** handle, unsigned flags) {
    return call_in_context([&](CUctx& context) {
        if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
        auto stream = std::make_shared<Stream>();
        stream->context = &context;
        stream->blocking = flags == 0;
        context.streams.insert(stream);
        *handle = created(stream.get());
        return CUDA_SUCCESS;
    });
}
API cuStreamCreate(Stream** stream, unsigned flags) { return create_stream(stream, flags); }
API cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) { return create_stream(stream, flags); }

// Runs the body with the stream of a handle.
template <class Body> static CUresult call_with_stream(void* handle, Body body) {
    return call_in_context([&](CUctx& context) -> CUresult {
        std::shared_ptr<Stream> stream;
        if (!find_stream(context, handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
        return body(context, stream);
    });
}

API cuStreamDestroy_v2(void* handle) {
    return call([&]() -> CUresult { // also after a failure
        Stream* found = static_cast<Stream*>(handle);
        if (!is_live(found)) return CUDA_ERROR_INVALID_HANDLE;
        auto stream = found->shared_from_this();
        drain(*stream);
        live<Stream>().erase(found);
        stream->context->streams.erase(stream);
        return CUDA_SUCCESS;
    });
}

API cuStreamSynchronize(void* handle) {
    return call_with_stream(handle, [](CUctx& context, std::shared_ptr<Stream>& stream) {
        if (CUresult forbidden = check_captures()) return forbidden;
        if (stream && stream->capture) {
            stream->capture->invalidated = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        let_work_go_on(context);
        if (stream) {
            drain(*stream);
        } else {
            drain_blocking(context);
        }
        return context.failed;
    });
}

API cuStreamQuery(void* handle) {
    return call_with_stream(handle, [](CUctx& context, std::shared_ptr<Stream>& stream) {
        if (stream && stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        let_work_go_on(context);
        if (stream && !stream->pending.empty()) {
            run_first(*stream); // so that whoever asks again and again comes to an end
            if (!stream->pending.empty()) return CUDA_ERROR_NOT_READY;
        }
        return context.failed;
    });
}

API cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    return call_with_stream(handle, [&](CUctx& context, std::shared_ptr<Stream>& stream) {
        return enqueue(context, stream, [=] { function(data); });
    });
}

// ---- events

API cuEventCreate(Event** event, unsigned flags) {
    return call_in_context([&](CUctx&) {
        *event = created(new Event{std::make_shared<EventState>()});
        (*event)->state->timed = !(flags & 2); // CU_EVENT_DISABLE_TIMING
        return CUDA_SUCCESS;
    });
}

API cuEventDestroy_v2(Event* event) {
    return call([&] {
        if (!is_live(event)) return CUDA_ERROR_INVALID_HANDLE;
        live<Event>().erase(event);
        delete event;
        return CUDA_SUCCESS;
    });
}

API cuEventRecord(Event* event, void* handle) {
    return call_with_stream(handle, [&](CUctx& context, std::shared_ptr<Stream>& stream) -> CUresult {
        if (!is_live(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto state = event->state;
        if (stream && stream->capture) return enqueue(context, stream, [] {});
        u64 record = ++state->recorded;
        state->stream = stream;
        return enqueue(context, stream, [state, record] {
            state->reached = record;
            state->seconds = now();
        });
    });
}

API cuEventSynchronize(Event* event) {
    return call_in_context([&](CUctx& context) {
        if (!is_live(event)) return CUDA_ERROR_INVALID_HANDLE;
        if (CUresult forbidden = check_captures()) return forbidden;
        let_work_go_on(context);
        reach(*event->state, event->state->recorded);
        return context.failed;
    });
}

API cuEventQuery(Event* event) {
    return call_in_context([&](CUctx& context) {
        if (!is_live(event)) return CUDA_ERROR_INVALID_HANDLE;
        let_work_go_on(context);
        EventState& state = *event->state;
        auto stream = state.stream.lock();
        if (state.reached < state.recorded && stream && !stream->pending.empty()) run_first(*stream);
        if (context.failed) return context.failed;
        return state.reached < state.recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
    });
}

static CUresult elapsed(float* milliseconds, Event* from, Event* to) {
    return call_in_context([&](CUctx&) {
        if (!is_live(from) || !is_live(to)) return CUDA_ERROR_INVALID_HANDLE;
        const EventState &a = *from->state, &b = *to->state;
        if (!a.recorded || !b.recorded || !a.timed || !b.timed) return CUDA_ERROR_INVALID_HANDLE;
        if (a.reached < a.recorded || b.reached < b.recorded) return CUDA_ERROR_NOT_READY;
        *milliseconds = float((b.seconds - a.seconds) * 1e3);
        return CUDA_SUCCESS;
    });
}
API cuEventElapsedTime(float* milliseconds, Event* from, Event* to) { return elapsed(milliseconds, from, to); }
API cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) { return elapsed(milliseconds, from, to); }

API cuStreamWaitEvent(void* handle, Event* event, unsigned) {
    return call_with_stream(handle, [&](CUctx& context, std::shared_ptr<Stream>& stream) -> CUresult {
        if (!is_live(event)) return CUDA_ERROR_INVALID_HANDLE;
        auto state = event->state;
        u64 record = state->recorded;
        // A capture may only wait for what is in it; a branch that joins from another stream is not emulated.
        if (stream && stream->capture) {
            if (state->stream.lock() != stream) return CUDA_ERROR_NOT_SUPPORTED;
            return CUDA_SUCCESS;
        }
        return enqueue(context, stream, [state, record] { reach(*state, record); });
    });
}

// ---- captures

API cuStreamBeginCapture_v2(void* handle, int mode) {
    return call_with_stream(handle, [&](CUctx&, std::shared_ptr<Stream>& stream) {
        if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
        if (mode < 0 || mode > 2) return CUDA_ERROR_INVALID_VALUE;
        stream->capture.reset(new Capture{CaptureMode(mode), this_thread(), false, {}});
        return CUDA_SUCCESS;
    });
}

API cuStreamEndCapture(void* handle, Graph** graph) {
    return call_with_stream(handle, [&](CUctx&, std::shared_ptr<Stream>& stream) {
        *graph = nullptr;
        if (!stream || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
        if (stream->capture->mode != CaptureMode::Relaxed && stream->capture->thread != this_thread()) {
            stream->capture->invalidated = true;
            return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        }
        auto capture = std::move(stream->capture);
        if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        *graph = created(new Graph{std::move(capture->work)});
        return CUDA_SUCCESS;
    });
}

API cuStreamIsCapturing(void* handle, int* status) {
    return call_with_stream(handle, [&](CUctx&, std::shared_ptr<Stream>& stream) {
        *status = !stream || !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
        return CUDA_SUCCESS;
    });
}

// ---- graphs

static CUresult instantiate(GraphExec** executable, Graph* graph) {
    return call_in_context([&](CUctx&) {
        if (!is_live(graph)) return CUDA_ERROR_INVALID_HANDLE;
        *executable = created(new GraphExec{std::make_shared<const std::vector<Work>>(graph->work)});
        return CUDA_SUCCESS;
    });
}
API cuGraphInstantiateWithFlags(GraphExec** executable, Graph* graph, unsigned long long) { return instantiate(executable, graph); }
API cuGraphInstantiate_v2(GraphExec** executable, Graph* graph, void**, char*, size_t) { return instantiate(executable, graph); }

API cuGraphDestroy(Graph* graph) {
    return call([&] {
        if (!is_live(graph)) return CUDA_ERROR_INVALID_HANDLE;
        live<Graph>().erase(graph);
        delete graph;
        return CUDA_SUCCESS;
    });
}

API cuGraphExecDestroy(GraphExec* executable) {
    return call([&] {
        if (!is_live(executable)) return CUDA_ERROR_INVALID_HANDLE;
        live<GraphExec>().erase(executable);
        delete executable;
        return CUDA_SUCCESS;
    });
}

API cuGraphUpload(GraphExec* executable, void* handle) {
    return call_with_stream(handle, [&](CUctx&, std::shared_ptr<Stream>&) {
        return is_live(executable) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

API cuGraphLaunch(GraphExec* executable, void* handle) {
    return call_with_stream(handle, [&](CUctx& context, std::shared_ptr<Stream>& stream) {
        if (!is_live(executable)) return CUDA_ERROR_INVALID_HANDLE;
        auto work = executable->work;
        return enqueue(context, stream, [&context, work] {
            for (const Work& part : *work) {
                if (!context.failed) part();
            }
        });
    });
}
