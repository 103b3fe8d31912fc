// Segments a raw volume with libvoxtile through its C++ wrapper; see segment.c for the files.
//
//   c++ -std=c++17 -Iinclude examples/segment.cpp -o segment -Ltarget/release -lvoxtile
#include "voxtile.hpp"

#include <array>
#include <cstdlib>
#include <fstream>
#include <iostream>

int main(int argc, char **argv)
try {
    if (argc != 10) {
        std::cerr << "usage: segment MODEL IMAGE.raw I J K SPACING_I SPACING_J SPACING_K "
                     "LABELS.raw\n";
        return 2;
    }
    auto volume = voxtile::make<voxtile_volume>();
    volume.dtype = VOXTILE_I16;
    size_t voxels = 1;
    for (int axis = 0; axis < 3; ++axis) {
        volume.dims[axis] = std::stol(argv[3 + axis]);
        volume.spacing[axis] = std::stod(argv[6 + axis]);
        if (volume.dims[axis] < 1 || volume.dims[axis] > 65535)
            throw std::invalid_argument(std::string(argv[3 + axis]) + " voxels");
        voxels *= size_t(volume.dims[axis]);
    }
    std::vector<int16_t> image(voxels);
    std::ifstream file(argv[2], std::ios::binary);
    if (!file.read(reinterpret_cast<char *>(image.data()), std::streamsize(voxels * 2)) ||
        file.peek() != std::ifstream::traits_type::eof())
        throw std::runtime_error(std::string(argv[2]) + ": expected " + std::to_string(voxels) +
                                 " voxels of 2 bytes, no header");
    volume.data = image.data();

    const voxtile::Model model(argv[1]);
    voxtile::Session session(model);
    const auto labels = session.segment(volume, voxtile::make<voxtile_run_options>(),
                                        [](const voxtile_progress &progress) {
                                            std::cerr << progress.done << " of " << progress.total
                                                      << '\r';
                                            return true;
                                        });

    std::array<size_t, 256> counts{};
    for (const uint8_t label : labels) ++counts[label];
    const double voxel_ml = volume.spacing[0] * volume.spacing[1] * volume.spacing[2] / 1000.0;
    for (const auto &label : model.labels())
        if (label.value != 0 && counts[label.value] != 0)
            std::cout << label.name << ": " << double(counts[label.value]) * voxel_ml << " mL\n";

    std::ofstream out(argv[9], std::ios::binary);
    if (!out.write(reinterpret_cast<const char *>(labels.data()), std::streamsize(voxels)))
        throw std::runtime_error(std::string(argv[9]) + ": cannot be written");
    return 0;
} catch (const std::exception &error) {
    std::cerr << "segment: " << error.what() << '\n';
    return 1;
}
