// Volumes of organs in a NIfTI image that is as examples/ct.nii.gz, decompressed: 32-bit integers, axes
// to the right, anterior and superior. An imaging library reads others.
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <voxtile.hpp>

int main(int argc, char **argv) try {
    std::ifstream file(argc == 3 ? argv[2] : "", std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() < 352) throw std::runtime_error("usage: organs MODEL.safetensors IMAGE.nii");
    auto volume = voxtile::make<voxtile_volume>();
    volume.data = bytes.data() + 352;
    volume.dtype = VOXTILE_I32;
    for (int axis = 0; axis < 3; ++axis) {
        int16_t count;
        float spacing;
        std::memcpy(&count, &bytes[42 + 2 * axis], 2);
        std::memcpy(&spacing, &bytes[80 + 4 * axis], 4);
        volume.dims[axis] = count;
        volume.spacing[axis] = spacing;
        volume.direction[4 * axis] = axis < 2 ? -1 : 1;  // of LPS
    }
    const voxtile::Model model(argv[1]);
    std::map<int, double> ml;
    for (int label : voxtile::Session(model).segment(volume))
        ml[label] += volume.spacing[0] * volume.spacing[1] * volume.spacing[2] / 1000;
    for (const auto &label : model.labels())
        if (label.value) std::cout << label.name << ": " << ml[int(label.value)] << " mL\n";
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
