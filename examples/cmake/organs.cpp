// Volumes of organs in a NIfTI image that is as examples/ct.nii.gz, decompressed: 32-bit integers, axes
// to the right, anterior and superior. An imaging library reads others.
#include <fstream>
#include <iostream>
#include <voxtile.hpp>

int main(int argc, char **argv) try {
    if (argc != 3) throw std::invalid_argument("usage: organs MODEL.safetensors IMAGE.nii");
    uint16_t dims[4] = {};
    float spacing[4] = {};
    std::ifstream file(argv[2], std::ios::binary);
    file.seekg(40).read(reinterpret_cast<char *>(dims), sizeof dims);
    file.seekg(76).read(reinterpret_cast<char *>(spacing), sizeof spacing);
    std::vector<int32_t> voxels(dims[0] == 3 ? size_t{dims[1]} * dims[2] * dims[3] : 0);
    file.seekg(352).read(reinterpret_cast<char *>(voxels.data()), voxels.size() * 4);
    if (!file || dims[0] != 3) throw std::runtime_error(std::string(argv[2]) + " is no such image");
    auto volume = voxtile::dense(voxels, {dims[1], dims[2], dims[3]}, {spacing[1], spacing[2], spacing[3]});
    volume.direction[0] = volume.direction[4] = -1, volume.direction[8] = 1; // of LPS

    const voxtile::Model model(argv[1]);
    const auto labels = voxtile::Session(model).segment(volume);
    for (const auto &[label, found] : voxtile::statistics(volume, labels, model))
        std::cout << label.name << ": " << found.milliliters << " mL\n";
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
