// Uses what voxtile.hpp adds to the examples. argv: MODEL.safetensors of 4 labels.
#define VOXTILE_EXPECTED
#include "voxtile.hpp"

#include <cstdio>

namespace {

/// A span as applications have their own.
template <class T> struct View {
    const T *first;
    size_t count;
    const T *data() const { return first; }
    size_t size() const { return count; }
};

int failures = 0;

void check(bool condition, int line) {
    if (condition) return;
    std::printf("line %d\n", line);
    ++failures;
}
#define CHECK(condition) check((condition), __LINE__)

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 2) return 2;
    constexpr int64_t side = 10;
    std::vector<int16_t> image(side * side * side);
    for (size_t voxel = 0; voxel < image.size(); ++voxel)
        image[voxel] = int16_t(voxel * 7919 % 2000 - 900);
    auto volume = voxtile::make<voxtile_volume>();
    volume.dtype = VOXTILE_I16;
    volume.data = image.data();
    for (int axis = 0; axis < 3; ++axis) {
        volume.dims[axis] = side;
        volume.spacing[axis] = 1.5;
    }
    voxtile::Session session{voxtile::Model(argv[1])};
    const auto devices = voxtile::devices();
    CHECK(devices.size() == voxtile_device_count() && devices[0].kind == VOXTILE_CPU);
    bool listed = false;
    for (const auto &device : devices) listed = listed || device.id == session.device().id;
    CHECK(listed);
    const auto whole = session.segment(volume);

    // statistics
    const auto found = voxtile::statistics(volume, whole, {3, 1, 2});
    size_t background = 0;
    for (const uint8_t label : whole) background += label == 0;
    CHECK(found.size() == 3 && found[0].value == 3);
    CHECK(found[0].voxels + found[1].voxels + found[2].voxels + background == whole.size());

    // spans
    const auto dense = voxtile::dense(View<int16_t>{image.data(), image.size()}, {side, side, side}, {1.5, 1.5, 1.5});
    CHECK(session.segment(dense) == whole);
    const View<uint8_t> labels{whole.data(), whole.size()};
    CHECK(voxtile::statistics(dense, labels, {3})[0].voxels == found[0].voxels);
    const std::array<float, 8> few{};
    CHECK(voxtile::dense(few, {2, 2, 2}, {1, 1, 1}).dtype == VOXTILE_F32);

    // failures as values
    const auto none = voxtile::attempt([] { return voxtile::Model("none.safetensors"); });
    CHECK(!none && none.error().status == VOXTILE_E_IO && none.error().what()[0] != 0);
    auto again = voxtile::attempt([&] { return session.segment(volume); });
    CHECK(again && *again == whole && again->size() == whole.size());
    auto nowhere = voxtile::make<voxtile_output>();
    CHECK(!voxtile::attempt([&] { session.run(voxtile::make<voxtile_volume>(), nowhere); }));
    nowhere.labels_dtype = VOXTILE_U8;
    nowhere.labels = again->data();
    nowhere.labels_size = again->size();
    CHECK(bool(voxtile::attempt([&] { session.run(volume, nowhere); })));

    // a box
    auto options = voxtile::make<voxtile_run_options>();
    for (int axis = 0; axis < 3; ++axis) {
        options.region_start[axis] = 3;
        options.region_size[axis] = 4;
    }
    const auto part = session.segment(volume, options);
    for (int64_t voxel = 0; voxel < int64_t(part.size()); ++voxel) {
        bool inside = true;
        for (const int64_t at : {voxel % side, voxel / side % side, voxel / side / side})
            inside = inside && at >= 3 && at < 7;
        CHECK(part[size_t(voxel)] == (inside ? whole[size_t(voxel)] : 0));
    }

    // steps: those of the C structs, and none of them changed by moving
    voxtile::Cleanup moved;
    moved.minimum_size(30, {1, 2}).minimum_size(9, {3}, 6).largest_component({2}).fill_holes();
    voxtile::Cleanup cleanup = std::move(moved);
    options = voxtile::make<voxtile_run_options>();
    cleanup.set_in(options);
    CHECK(options.cleanup_count == 4);
    const auto cleaned = session.segment(volume, options);
    const uint32_t first[2] = {1, 2}, second = 3, third = 2;
    voxtile_cleanup steps[4];
    for (auto &step : steps) step = voxtile::make<voxtile_cleanup>();
    steps[0].step = steps[1].step = VOXTILE_CLEANUP_MINIMUM_SIZE;
    steps[0].labels = first;
    steps[0].label_count = 2;
    steps[0].minimum_mm3 = 30;
    steps[1].labels = &second;
    steps[1].label_count = 1;
    steps[1].connectivity = 6;
    steps[1].minimum_mm3 = 9;
    steps[2].step = VOXTILE_CLEANUP_LARGEST_COMPONENT;
    steps[2].labels = &third;
    steps[2].label_count = 1;
    steps[3].step = VOXTILE_CLEANUP_FILL_HOLES;
    options.cleanup = steps;
    CHECK(cleaned == session.segment(volume, options));
    CHECK(cleaned != whole);

    // probabilities by function: counted, cancelled, thrown through
    const uint32_t wanted[2] = {1, 2};
    auto output = voxtile::make<voxtile_output>();
    output.probability_count = 2;
    output.probability_values = wanted;
    int64_t values = 0;
    session.run(volume, output, voxtile::make<voxtile_run_options>(), {},
                [&](const voxtile_probability_box &box) {
                    CHECK(box.label_count == 2 && box.label_values[1] == 2);
                    values += box.label_count * box.size[0] * box.size[1] * box.size[2];
                    return true;
                });
    CHECK(values == 2 * int64_t(image.size()));
    try {
        session.run(volume, output, voxtile::make<voxtile_run_options>(), {},
                    [](const voxtile_probability_box &) { return false; });
        CHECK(false);
    } catch (const voxtile::Error &error) {
        CHECK(error.status == VOXTILE_CANCELLED);
    }
    try {
        session.run(volume, output, voxtile::make<voxtile_run_options>(), {},
                    [](const voxtile_probability_box &) -> bool { throw 42; });
        CHECK(false);
    } catch (int thrown) {
        CHECK(thrown == 42);
    }

    // what it needs
    output.probability_dtype = VOXTILE_F32;
    const auto plain = session.estimate(volume), more = session.estimate(volume, output);
    CHECK(more.host_bytes >= plain.host_bytes + 8 * image.size());
    CHECK(plain.least_host_bytes <= plain.host_bytes);
    uint64_t sum = 0;
    for (const auto &item : session.memory(volume, output)) {
        CHECK(!item.name.empty());
        sum += item.bytes;
    }
    CHECK(sum == more.host_bytes);
    CHECK(session.seconds(volume) > 0);

    if (failures == 0) std::puts("wrapper: all checks passed");
    return failures != 0;
} catch (const std::exception &error) {
    std::printf("wrapper: %s\n", error.what());
    return 1;
}
