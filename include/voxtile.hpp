// voxtile.hpp - C++17 RAII over voxtile.h. Header only: it adds no symbols and no ABI.
//
//   voxtile::Model model("model.safetensors");
//   voxtile::Session session(model);
//   std::vector<int16_t> voxels = ...;               // [k][j][i]
//   auto volume = voxtile::dense(voxels, {512, 512, 300}, {0.8, 0.8, 1.5});
//   std::vector<uint8_t> labels = session.segment(volume);
//   for (const auto &[label, found] : voxtile::statistics(volume, labels, model))
//       ... label.name, found.milliliters
//
// Failures are thrown as voxtile::Error; with VOXTILE_EXPECTED defined, voxtile::attempt() gives them
// as values. An exception thrown by a function that follows a run cancels
// the run and is rethrown from it. Threads: as voxtile.h says of the handles inside.
#pragma once

#include "voxtile.h"

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace voxtile {

/// A failed call: its status, and the system's errno or the CUDA driver's error number, if any.
class Error : public std::runtime_error {
public:
    explicit Error(const voxtile_error &e)
        : std::runtime_error(e.message), status(e.status), native(e.native) {}
    const voxtile_status status;
    const int32_t native;
};

namespace detail {

template <auto Free> struct Deleter {
    template <class T> void operator()(T *pointer) const noexcept { Free(pointer); }
};

/// The type of a span's values: of anything that std::data() and std::size() take.
template <class Span>
using Value = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<Span &>()))>>;

template <class Call> void check(Call &&call) {
    voxtile_error error{};
    if (std::forward<Call>(call)(&error) != VOXTILE_OK) throw Error(error);
}

} // namespace detail

/// A versioned C struct, zeroed and sized: `auto o = voxtile::make<voxtile_run_options>();`
template <class T> T make() noexcept {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}

/// The element type that voxels of type T are.
template <class T> constexpr uint32_t element_type() noexcept {
    if constexpr (std::is_same_v<T, uint8_t>) return VOXTILE_U8;
    else if constexpr (std::is_same_v<T, int8_t>) return VOXTILE_I8;
    else if constexpr (std::is_same_v<T, uint16_t>) return VOXTILE_U16;
    else if constexpr (std::is_same_v<T, int16_t>) return VOXTILE_I16;
    else if constexpr (std::is_same_v<T, uint32_t>) return VOXTILE_U32;
    else if constexpr (std::is_same_v<T, int32_t>) return VOXTILE_I32;
    else if constexpr (std::is_same_v<T, float>) return VOXTILE_F32;
    else {
        static_assert(std::is_same_v<T, double>, "voxels are integers of 8 to 32 bits, float or double");
        return VOXTILE_F64;
    }
}

/// A volume of one channel whose voxels lie one after the other, i fastest: `dims` voxels along i,
/// j, k, `spacing` in mm. It looks at `voxels`, a vector, array, span or any other type that std::data()
/// and std::size() take, whose values must outlive it. Origin 0 and axes to the left,
/// to the back and to the head (LPS), unless its `origin` and `direction` are set. Throws
/// std::invalid_argument if there are not as many voxels as `dims` say.
template <class Voxels>
voxtile_volume dense(const Voxels &voxels, const std::array<int64_t, 3> &dims,
                     const std::array<double, 3> &spacing) {
    auto volume = make<voxtile_volume>();
    volume.dtype = element_type<detail::Value<const Voxels>>();
    volume.data = std::data(voxels);
    uint64_t left = std::size(voxels);
    std::string shape;
    for (int axis = 0; axis < 3; ++axis) {
        volume.dims[axis] = dims[axis];
        volume.spacing[axis] = spacing[axis];
        shape += (axis ? " x " : "") + std::to_string(dims[axis]);
        left = dims[axis] > 0 && left % uint64_t(dims[axis]) == 0 ? left / uint64_t(dims[axis]) : 0;
    }
    if (left != 1)
        throw std::invalid_argument("a volume of " + shape + " voxels, but there are " +
                                    std::to_string(std::size(voxels)));
    return volume;
}

/// What a label map's value means.
struct Label {
    uint32_t value;
    std::string name;
    std::string code; ///< "SCT:10200004", or empty
};

/// What some of a run's memory is for.
struct MemoryPart {
    std::string name;
    uint64_t bytes;
    bool on_device; ///< in the GPU's own memory
};

/// The processor and the GPUs; voxtile_session_options.device takes their `id`.
inline std::vector<voxtile_device> devices() {
    std::vector<voxtile_device> devices(voxtile_device_count());
    for (uint32_t index = 0; index < devices.size(); ++index) {
        devices[index] = make<voxtile_device>();
        detail::check([&](voxtile_error *e) {
            return voxtile_device_get(index, &devices[index], e);
        });
    }
    return devices;
}

/// Weights and labels. Copies share them.
class Model {
public:
    /// Maps the package at `path` (UTF-8).
    explicit Model(const std::string &path) {
        voxtile_model *raw = nullptr;
        detail::check([&](voxtile_error *e) { return voxtile_model_open(path.c_str(), &raw, e); });
        model_.reset(raw, voxtile_model_release);
    }

    /// Copies a package that lies in memory.
    Model(const void *data, size_t size) {
        voxtile_model *raw = nullptr;
        detail::check(
            [&](voxtile_error *e) { return voxtile_model_open_memory(data, size, &raw, e); });
        model_.reset(raw, voxtile_model_release);
    }

    /// The strings in it live as long as the model.
    voxtile_model_info info() const {
        auto info = make<voxtile_model_info>();
        detail::check([&](voxtile_error *e) { return voxtile_model_info_get(get(), &info, e); });
        return info;
    }

    std::vector<Label> labels() const {
        std::vector<Label> labels(info().labels);
        for (uint32_t index = 0; index < labels.size(); ++index) {
            auto label = make<voxtile_label>();
            detail::check([&](voxtile_error *e) {
                return voxtile_model_label_get(get(), index, &label, e);
            });
            labels[index] = {label.value, label.name, label.code ? label.code : ""};
        }
        return labels;
    }

    const voxtile_model *get() const noexcept { return model_.get(); }

private:
    std::shared_ptr<voxtile_model> model_;
};

/// Steps that tidy up labels, in their order. It must outlive the runs whose options it is set in.
///
///   voxtile::Cleanup cleanup;
///   cleanup.largest_component().minimum_size(100, {1, 2}).set_in(options);
class Cleanup {
public:
    Cleanup() = default;
    Cleanup(Cleanup &&) = default;
    Cleanup &operator=(Cleanup &&) = default;

    /// Of each label the largest component stays; of every label if none is named. `connectivity`
    /// is 26 or 6.
    Cleanup &largest_component(std::vector<uint32_t> labels = {}, uint32_t connectivity = 26) {
        return add(VOXTILE_CLEANUP_LARGEST_COMPONENT, std::move(labels), connectivity, 0);
    }

    /// Components of fewer mm^3 become background.
    Cleanup &minimum_size(double mm3, std::vector<uint32_t> labels = {},
                          uint32_t connectivity = 26) {
        return add(VOXTILE_CLEANUP_MINIMUM_SIZE, std::move(labels), connectivity, mm3);
    }

    /// Background that one label encloses becomes that label.
    Cleanup &fill_holes(std::vector<uint32_t> labels = {}) {
        return add(VOXTILE_CLEANUP_FILL_HOLES, std::move(labels), 0, 0);
    }

    /// Makes `options` those of a run with these steps, until a step is added.
    void set_in(voxtile_run_options &options) const noexcept {
        options.cleanup = steps_.data();
        options.cleanup_count = uint32_t(steps_.size());
    }

private:
    Cleanup &add(uint32_t kind, std::vector<uint32_t> labels, uint32_t connectivity, double mm3) {
        auto step = make<voxtile_cleanup>();
        step.step = kind;
        step.connectivity = connectivity;
        step.label_count = uint32_t(labels.size());
        step.labels = labels.empty() ? nullptr : labels.data();
        step.minimum_mm3 = mm3;
        labels_.push_back(std::move(labels)); // its values stay where they are
        steps_.push_back(step);
        return *this;
    }

    std::vector<voxtile_cleanup> steps_;
    std::vector<std::vector<uint32_t>> labels_;
};

/// A model made ready on one device. One run at a time.
class Session {
public:
    /// Returns true to go on, false to cancel.
    using Progress = std::function<bool(const voxtile_progress &)>;
    /// Returns true to go on, false to cancel.
    using Probabilities = std::function<bool(const voxtile_probability_box &)>;

    explicit Session(const Model &model,
                     const voxtile_session_options &options = make<voxtile_session_options>()) {
        voxtile_session *raw = nullptr;
        detail::check([&](voxtile_error *e) {
            return voxtile_session_create(model.get(), &options, &raw, e);
        });
        session_.reset(raw);
    }

    /// The device it runs on.
    voxtile_device device() const {
        auto device = make<voxtile_device>();
        detail::check([&](voxtile_error *e) {
            return voxtile_session_device_get(session_.get(), &device, e);
        });
        return device;
    }

    /// What a run for labels alone would need, at most.
    voxtile_estimate estimate(
        const voxtile_volume &volume,
        const voxtile_run_options &options = make<voxtile_run_options>()) const {
        return estimate(volume, make<voxtile_output>(), options);
    }

    /// What a run that fills `output` would need, at most; its buffers may be null. For a run
    /// whose `Probabilities` function alone takes them, set options.probability to any function.
    voxtile_estimate estimate(
        const voxtile_volume &volume, const voxtile_output &output,
        const voxtile_run_options &options = make<voxtile_run_options>()) const {
        auto estimate = make<voxtile_estimate>();
        detail::check([&](voxtile_error *e) {
            return voxtile_run_estimate_output(session_.get(), &volume, &options, &output,
                                               &estimate, e);
        });
        return estimate;
    }

    /// What the estimate's memory is for, the largest first.
    std::vector<MemoryPart> memory(
        const voxtile_volume &volume, const voxtile_output &output = make<voxtile_output>(),
        const voxtile_run_options &options = make<voxtile_run_options>()) const {
        std::vector<MemoryPart> parts(estimate(volume, output, options).memory_parts);
        for (uint32_t index = 0; index < parts.size(); ++index) {
            auto part = make<voxtile_memory_part>();
            detail::check([&](voxtile_error *e) {
                return voxtile_run_memory(session_.get(), &volume, &options, &output, index, &part,
                                          e);
            });
            parts[index] = {part.name, part.bytes, part.place == VOXTILE_PLACE_DEVICE};
        }
        return parts;
    }

    /// Seconds that a run's network passes would take; the first call measures.
    double seconds(const voxtile_volume &volume,
                   const voxtile_run_options &options = make<voxtile_run_options>()) const {
        double seconds = 0;
        detail::check([&](voxtile_error *e) {
            return voxtile_run_seconds(session_.get(), &volume, &options, &seconds, e);
        });
        return seconds;
    }

    /// Fills the caller's buffers. `probabilities` takes those that `output` names, as they become
    /// final; the output's own buffer for them may then be null.
    void run(const voxtile_volume &volume, const voxtile_output &output,
             voxtile_run_options options = make<voxtile_run_options>(),
             const Progress &progress = {}, const Probabilities &probabilities = {}) {
        Follower follower{&progress, &probabilities, nullptr};
        if (progress) {
            options.progress = follow<voxtile_progress, &Follower::progress>;
            options.progress_user = &follower;
        }
        if (probabilities) {
            options.probability = follow<voxtile_probability_box, &Follower::probabilities>;
            options.probability_user = &follower;
        }
        voxtile_error error{};
        const voxtile_status status =
            voxtile_run(session_.get(), &volume, &options, &output, &error);
        if (follower.thrown) std::rethrow_exception(follower.thrown);
        if (status != VOXTILE_OK) throw Error(error);
    }

    /// The label map, dense [k][j][i]; `Value` is uint8_t or uint16_t.
    template <class Value = uint8_t>
    std::vector<Value> segment(const voxtile_volume &volume,
                               const voxtile_run_options &options = make<voxtile_run_options>(),
                               const Progress &progress = {}) {
        static_assert(std::is_same_v<Value, uint8_t> || std::is_same_v<Value, uint16_t>,
                      "label maps are uint8_t or uint16_t");
        size_t voxels = 1;
        for (const int64_t extent : volume.dims) voxels *= extent > 0 ? size_t(extent) : 0;
        std::vector<Value> labels(voxels);
        auto output = make<voxtile_output>();
        output.labels_dtype = sizeof(Value) == 1 ? VOXTILE_U8 : VOXTILE_U16;
        output.labels = labels.data();
        output.labels_size = labels.size() * sizeof(Value);
        run(volume, output, options, progress);
        return labels;
    }

    /// Stops the run that is on, from any thread.
    void cancel() const noexcept { voxtile_session_cancel(session_.get()); }

private:
    struct Follower {
        const Progress *progress;
        const Probabilities *probabilities;
        std::exception_ptr thrown;
    };

    // No exception may cross the C library: it is kept, and the run cancelled.
    template <class Told, auto Function>
    static int32_t follow(void *user, const Told *told) noexcept {
        auto &follower = *static_cast<Follower *>(user);
        try {
            return (*(follower.*Function))(*told) ? 0 : 1;
        } catch (...) {
            follower.thrown = std::current_exception();
            return 1;
        }
    }

    std::unique_ptr<voxtile_session, detail::Deleter<voxtile_session_release>> session_;
};

/// What each of `values` covers in a label map on the grid of `volume`, dense [k][j][i]; `labels` is
/// anything that std::data() and std::size() take.
template <class Labels>
std::vector<voxtile_label_statistics> statistics(const voxtile_volume &volume, const Labels &labels,
                                                 const std::vector<uint32_t> &values) {
    using Value = detail::Value<const Labels>;
    static_assert(std::is_same_v<Value, uint8_t> || std::is_same_v<Value, uint16_t>,
                  "label maps are uint8_t or uint16_t");
    std::vector<voxtile_label_statistics> found(values.size(), make<voxtile_label_statistics>());
    detail::check([&](voxtile_error *e) {
        return voxtile_statistics(&volume, sizeof(Value) == 1 ? VOXTILE_U8 : VOXTILE_U16,
                                  std::data(labels), std::size(labels) * sizeof(Value), values.data(),
                                  uint32_t(values.size()), 0, found.data(), e);
    });
    return found;
}

/// The same of each label of a model but the background, with the label.
template <class Labels>
std::vector<std::pair<Label, voxtile_label_statistics>>
statistics(const voxtile_volume &volume, const Labels &labels, const Model &model) {
    std::vector<uint32_t> values;
    std::vector<std::pair<Label, voxtile_label_statistics>> named;
    for (Label label : model.labels()) {
        if (label.value == 0) continue;
        values.push_back(label.value);
        named.emplace_back(std::move(label), voxtile_label_statistics{});
    }
    const auto found = statistics(volume, labels, values);
    for (size_t index = 0; index < found.size(); ++index) named[index].second = found[index];
    return named;
}

#ifdef VOXTILE_EXPECTED

/// A value, or why there is none. Programs without exceptions use the functions of voxtile.h.
template <class T> class Expected {
public:
    Expected(T value) : value_(std::move(value)) {}
    Expected(Error error) : error_(std::move(error)) {}

    explicit operator bool() const noexcept { return value_.has_value(); }
    /// The value; there must be one.
    T &operator*() noexcept { return *value_; }
    const T &operator*() const noexcept { return *value_; }
    T *operator->() noexcept { return &*value_; }
    const T *operator->() const noexcept { return &*value_; }
    /// Why there is no value; there must be none.
    const Error &error() const noexcept { return *error_; }

private:
    std::optional<T> value_;
    std::optional<Error> error_;
};

/// Whether a call that returns nothing succeeded, or why not.
template <> class Expected<void> {
public:
    Expected() = default;
    Expected(Error error) : error_(std::move(error)) {}

    explicit operator bool() const noexcept { return !error_; }
    /// Why it failed; it must have.
    const Error &error() const noexcept { return *error_; }

private:
    std::optional<Error> error_;
};

/// What `call` returns, or the Error it throws; other exceptions go on.
///
///   auto model = voxtile::attempt([&] { return voxtile::Model(path); });
///   if (!model) ... model.error().what()
template <class Call> auto attempt(Call &&call) -> Expected<decltype(call())> {
    try {
        if constexpr (std::is_void_v<decltype(call())>) {
            call();
            return {};
        } else {
            return call();
        }
    } catch (const Error &error) {
        return error;
    }
}

#endif // VOXTILE_EXPECTED

} // namespace voxtile
