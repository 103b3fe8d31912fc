/*
 * Segments a raw volume with libvoxtile and prints the labels it found.
 *
 *   segment MODEL.safetensors IMAGE.raw I J K SPACING_I SPACING_J SPACING_K LABELS.raw
 *
 * IMAGE.raw holds I x J x K little-endian 16-bit integers in Hounsfield units, i fastest, patient
 * axes in LPS order (i to the left, j to the back, k to the head). LABELS.raw receives one byte
 * per voxel in the same order.
 *
 *   cargo build --release
 *   ln -sf libvoxtile.so target/release/libvoxtile.so.0.1
 *   cc -std=c99 -Iinclude examples/segment.c -o segment -Ltarget/release -lvoxtile
 *   LD_LIBRARY_PATH=target/release ./segment ...
 */
#include "voxtile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what, const voxtile_error *error)
{
    fprintf(stderr, "%s: %s (%s)\n", what, error->message, voxtile_status_name(error->status));
    return 1;
}

static int32_t on_progress(void *user, const voxtile_progress *progress)
{
    (void)user;
    if (progress->phase == VOXTILE_PHASE_TILES)
        fprintf(stderr, "tile pass %llu of %llu\r", (unsigned long long)progress->done,
                (unsigned long long)progress->total);
    return 0; /* anything else cancels */
}

static void on_log(void *user, int32_t level, const char *message)
{
    (void)user;
    fprintf(stderr, "%s%s\n", level == VOXTILE_LOG_WARNING ? "warning: " : "", message);
}

/* Prints name and volume of each label that occurs. */
static int print_labels(const voxtile_model *model, const unsigned char *labels, size_t voxels,
                        double voxel_mm3)
{
    voxtile_error error;
    voxtile_label label;
    size_t counts[256] = {0}, voxel;
    uint32_t index;

    for (voxel = 0; voxel < voxels; ++voxel)
        ++counts[labels[voxel]];
    for (index = 1; index < 256; ++index) {
        if (counts[index] == 0)
            continue;
        memset(&label, 0, sizeof label);
        label.struct_size = sizeof label;
        if (voxtile_model_label_get(model, index, &label, &error) != VOXTILE_OK)
            return failed("label", &error);
        printf("%3u  %-32s %10.1f mL\n", (unsigned)label.value, label.name,
               (double)counts[index] * voxel_mm3 / 1000.0);
    }
    return 0;
}

static int segment(const char *model_path, voxtile_volume *volume, unsigned char *labels,
                   size_t voxels)
{
    voxtile_error error;
    voxtile_model *model = NULL;
    voxtile_session *session = NULL;
    voxtile_session_options setup;
    voxtile_run_options options;
    voxtile_output output;
    int result = 1;

    memset(&setup, 0, sizeof setup);
    setup.struct_size = sizeof setup;
    setup.log = on_log;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.progress = on_progress;
    memset(&output, 0, sizeof output);
    output.struct_size = sizeof output;
    output.labels_dtype = VOXTILE_U8;
    output.labels = labels;
    output.labels_size = voxels;

    if (voxtile_model_open(model_path, &model, &error) != VOXTILE_OK)
        return failed("model", &error);
    if (voxtile_session_create(model, &setup, &session, &error) != VOXTILE_OK)
        failed("session", &error);
    else if (voxtile_run(session, volume, &options, &output, &error) != VOXTILE_OK)
        failed("segment", &error);
    else
        result = print_labels(model, labels, voxels,
                              volume->spacing[0] * volume->spacing[1] * volume->spacing[2]);
    voxtile_session_release(session);
    voxtile_model_release(model);
    return result;
}

int main(int argc, char **argv)
{
    voxtile_volume volume;
    size_t voxels = 1;
    void *image;
    unsigned char *labels;
    FILE *file;
    int axis, result = 1;

    if (argc != 10) {
        fprintf(stderr, "usage: segment MODEL IMAGE.raw I J K SPACING_I SPACING_J SPACING_K "
                        "LABELS.raw\n");
        return 2;
    }
    memset(&volume, 0, sizeof volume);
    volume.struct_size = sizeof volume;
    volume.dtype = VOXTILE_I16;
    for (axis = 0; axis < 3; ++axis) {
        volume.dims[axis] = strtol(argv[3 + axis], NULL, 10);
        volume.spacing[axis] = strtod(argv[6 + axis], NULL);
        if (volume.dims[axis] < 1 || volume.dims[axis] > 65535) {
            fprintf(stderr, "%s voxels: expected 1 to 65535\n", argv[3 + axis]);
            return 2;
        }
        voxels *= (size_t)volume.dims[axis];
    }
    image = malloc(voxels * 2);
    labels = (unsigned char *)malloc(voxels);
    file = fopen(argv[2], "rb");
    if (image == NULL || labels == NULL) {
        fprintf(stderr, "no memory for %lu voxels\n", (unsigned long)voxels);
    } else if (file == NULL || fread(image, 2, voxels, file) != voxels ||
               fgetc(file) != EOF) {
        fprintf(stderr, "%s: expected %lu voxels of 2 bytes, no header\n", argv[2], (unsigned long)voxels);
    } else {
        volume.data = image;
        result = segment(argv[1], &volume, labels, voxels);
    }
    if (file != NULL)
        fclose(file);
    if (result == 0) {
        file = fopen(argv[9], "wb");
        if (file == NULL || fwrite(labels, 1, voxels, file) != voxels || fclose(file) != 0) {
            fprintf(stderr, "%s: cannot be written\n", argv[9]);
            result = 1;
        }
    }
    free(image);
    free(labels);
    return result;
}
