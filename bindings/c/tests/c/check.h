/* What the programs that test voxtile.h share: checks, and arguments that are in order. */
#ifndef CHECK_H
#define CHECK_H

#include "voxtile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);           \
            ++failures;                                                      \
        }                                                                    \
    } while (0)

/* The call gives `status`, and a failure's message holds `text`. */
#define EXPECT(status_expected, call, text)                                  \
    do {                                                                     \
        voxtile_status found_;                                               \
        memset(&error, 0x55, sizeof error);                                  \
        found_ = (call);                                                     \
        if (found_ != (status_expected)                                      \
            || (found_ != VOXTILE_OK                                         \
                && (error.status != found_ || strstr(error.message, (text)) == NULL))) { \
            printf("%s:%d: %s: %s, \"%.500s\"\n", __FILE__, __LINE__, #call, \
                   voxtile_status_name(found_),                              \
                   found_ == VOXTILE_OK ? "" : error.message);               \
            ++failures;                                                      \
        }                                                                    \
    } while (0)

enum { I = 12, J = 10, K = 9, VOXELS = I * J * K };

static int16_t image[VOXELS];
static unsigned char labels[VOXELS], reference[VOXELS];
static voxtile_error error;

static voxtile_volume good_volume(void)
{
    voxtile_volume v;
    memset(&v, 0, sizeof v);
    v.struct_size = sizeof v;
    v.dtype = VOXTILE_I16;
    v.data = image;
    v.dims[0] = I;
    v.dims[1] = J;
    v.dims[2] = K;
    v.spacing[0] = v.spacing[1] = v.spacing[2] = 1.5;
    return v;
}

static inline voxtile_output good_output(void)
{
    voxtile_output o;
    memset(&o, 0, sizeof o);
    o.struct_size = sizeof o;
    o.labels_dtype = VOXTILE_U8;
    o.labels = labels;
    o.labels_size = sizeof labels;
    return o;
}

static inline voxtile_run_options good_options(void)
{
    voxtile_run_options o;
    memset(&o, 0, sizeof o);
    o.struct_size = sizeof o;
    return o;
}

/* Values that differ everywhere, none of them 0. */
static void fill_image(void)
{
    int voxel;
    for (voxel = 0; voxel < VOXELS; ++voxel)
        image[voxel] = (int16_t)((voxel * 7919) % 2000 - 900);
}

#endif
