/* Uses every function of voxtile.h as a careless caller would. argv: MODEL.safetensors LAYOUT,
 * where LAYOUT is what the library's own compiler says of the structs. */
#include "check.h"

#include <pthread.h>

static void layout(const char *expected)
{
    char found[512];
    snprintf(found, sizeof found, "%u,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u,%u",
             (unsigned)sizeof(voxtile_error),
             (unsigned)sizeof(voxtile_device), (unsigned)sizeof(voxtile_model_info),
             (unsigned)sizeof(voxtile_label), (unsigned)sizeof(voxtile_session_options),
             (unsigned)sizeof(voxtile_volume), (unsigned)sizeof(voxtile_progress),
             (unsigned)sizeof(voxtile_run_options), (unsigned)sizeof(voxtile_output),
             (unsigned)sizeof(voxtile_estimate), (unsigned)sizeof(voxtile_probability_box),
             (unsigned)sizeof(voxtile_memory_part), (unsigned)sizeof(voxtile_label_statistics),
             (unsigned)sizeof(voxtile_cleanup));
    if (strcmp(found, expected) != 0) {
        printf("layout: C has %s, the library %s\n", found, expected);
        ++failures;
    }
    CHECK(offsetof(voxtile_volume, direction) == 128);
    CHECK(offsetof(voxtile_run_options, region_start) == 48);
    CHECK(offsetof(voxtile_run_options, reserved) + sizeof(uint32_t)
          == sizeof(voxtile_run_options));
    CHECK(offsetof(voxtile_output, probabilities_size) + sizeof(size_t) == sizeof(voxtile_output));
    CHECK(voxtile_version()
          == (VOXTILE_VERSION_MAJOR << 16 | VOXTILE_VERSION_MINOR << 8 | VOXTILE_VERSION_PATCH));
    CHECK(strcmp(voxtile_status_name(VOXTILE_E_BUSY), "VOXTILE_E_BUSY") == 0);
    CHECK(strcmp(voxtile_status_name(12345), "unknown status") == 0);
}

static void devices(void)
{
    voxtile_device d;
    memset(&d, 0, sizeof d);
    CHECK(voxtile_device_count() >= 1);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_device_get(0, &d, &error), "struct_size is 0");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_device_get(0, NULL, &error), "NULL");
    d.struct_size = sizeof d;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_device_get(99, &d, &error), "device 99");
    EXPECT(VOXTILE_OK, voxtile_device_get(0, &d, &error), "");
    CHECK(d.id == 1 && d.kind == VOXTILE_CPU && d.name[0] != 0);
    CHECK(d.struct_size == sizeof d);
}

/* A struct of an older program is filled as far as it reaches. */
static void short_struct(const voxtile_model *model)
{
    voxtile_model_info info;
    memset(&info, 0x55, sizeof info);
    info.struct_size = offsetof(voxtile_model_info, folds);
    EXPECT(VOXTILE_OK, voxtile_model_info_get(model, &info, &error), "");
    CHECK(info.channels == 1 && info.folds == 0x55555555u);
}

static voxtile_model *models(const char *path)
{
    voxtile_model *model = NULL, *again = NULL;
    voxtile_model_info info;
    voxtile_label label;
    FILE *file;
    char *bytes;
    long size;

    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open(NULL, &model, &error), "path");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open(path, NULL, &error), "out");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open("\xff\xfe", &model, &error), "UTF-8");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open("", &model, &error), "path is empty");
    EXPECT(VOXTILE_E_IO, voxtile_model_open("missing.safetensors", &model, &error), "missing");
    CHECK(error.native == 2 /* ENOENT */);
    CHECK(model == NULL);
    CHECK(voxtile_model_open("missing.safetensors", &model, NULL) == VOXTILE_E_IO);
    EXPECT(VOXTILE_OK, voxtile_model_open(path, &model, &error), "");

    file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    bytes = (char *)malloc((size_t)size);
    CHECK(fread(bytes, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open_memory(NULL, 8, &again, &error), "data");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_open_memory(bytes, SIZE_MAX, &again, &error), "size");
    EXPECT(VOXTILE_E_FORMAT, voxtile_model_open_memory(bytes, 100, &again, &error), "safetensors");
    EXPECT(VOXTILE_OK, voxtile_model_open_memory(bytes, (size_t)size, &again, &error), "");
    free(bytes);
    voxtile_model_release(model); /* go on with the one from memory */
    model = again;

    memset(&info, 0, sizeof info);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_info_get(NULL, &info, &error), "model");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_info_get(model, NULL, &error), "NULL");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_info_get(model, &info, &error), "struct_size");
    info.struct_size = sizeof info;
    EXPECT(VOXTILE_OK, voxtile_model_info_get(model, &info, &error), "");
    CHECK(info.labels == 4 && info.folds == 1 && info.patch[0] == 8 && info.spacing[2] == 1.5);
    CHECK(strcmp(info.family, "stunet") == 0 && info.parameters > 1000);
    short_struct(model);

    memset(&label, 0, sizeof label);
    label.struct_size = sizeof label;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_label_get(model, 4, &label, &error), "label 4");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_model_label_get(model, 1, NULL, &error), "NULL");
    EXPECT(VOXTILE_OK, voxtile_model_label_get(model, 1, &label, &error), "");
    CHECK(label.value == 1 && strcmp(label.name, "structure 1") == 0 && label.code == NULL);

    voxtile_model_retain(model);
    voxtile_model_retain(NULL);
    voxtile_model_release(model);
    voxtile_model_release(NULL);
    return model;
}

static void volumes(const voxtile_session *session)
{
    voxtile_volume v;
    voxtile_output out = good_output();
    int64_t axis;

#define BAD(change, text)                                                                   \
    do {                                                                                    \
        v = good_volume();                                                                  \
        change;                                                                             \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, NULL, &out, &error), text);     \
    } while (0)
    BAD(v.struct_size = 0, "struct_size");
    BAD(v.struct_size = 100000, "struct_size");
    BAD(v.data = NULL, "data");
    BAD(v.dtype = 0, "dtype");
    BAD(v.dtype = 77, "dtype is 77");
    BAD(v.dims[1] = 0, "dims");
    BAD(v.dims[1] = -4, "dims");
    BAD(v.dims[0] = v.dims[1] = v.dims[2] = INT64_MAX, "addressed");
    BAD(v.dims[0] = v.dims[1] = v.dims[2] = (int64_t)1 << 20, "addressed");
    BAD(v.strides[0] = INT64_MIN, "addressed");
    BAD(v.channels = 3; v.channel_stride = 2, "3 channels");
    BAD(v.spacing[0] = 0, "spacing");
    BAD(v.spacing[2] = NAN, "spacing");
    BAD(v.spacing[1] = -1, "spacing");
    BAD(v.spacing[0] = v.spacing[1] = v.spacing[2] = 1e6, "spacing");
    BAD(v.origin[1] = INFINITY, "origin");
    BAD(v.direction[0] = 1, "direction");
    BAD(v.slope = NAN, "slope");
#undef BAD
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, NULL, NULL, &out, &error), "volume is NULL");

    /* the same volume, its memory running backwards along every axis */
    v = good_volume();
    v.data = image + VOXELS - 1;
    v.strides[0] = -2;
    v.strides[1] = -2 * I;
    v.strides[2] = -2 * I * J;
    {
        static int16_t reversed[VOXELS];
        for (axis = 0; axis < VOXELS; ++axis)
            reversed[axis] = image[VOXELS - 1 - axis];
        v.data = reversed + VOXELS - 1;
        memset(labels, 0xee, sizeof labels);
        EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
        CHECK(memcmp(labels, reference, sizeof labels) == 0);
    }
}

static void outputs(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out;
    voxtile_run_options options = good_options();
    static uint16_t wide[VOXELS];
    static float probabilities[2 * VOXELS];
    static unsigned char bytes[2 * VOXELS];
    const uint32_t wanted[2] = {0, 2}, unknown[1] = {9}, keep[1] = {1};
    struct {
        voxtile_run_options options;
        uint64_t newer;
    } grown;
    size_t voxel;

#define BAD(change, text)                                                                   \
    do {                                                                                    \
        out = good_output();                                                                \
        change;                                                                             \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, NULL, &out, &error), text);     \
    } while (0)
    memset(labels, 0xee, sizeof labels);
    BAD(out.struct_size = 3, "struct_size");
    BAD(out.labels_dtype = VOXTILE_F32, "labels_dtype");
    BAD(out.labels_size = VOXELS - 1, "labels");
    BAD(out.labels_dtype = VOXTILE_U16, "labels");
    BAD(out.labels = NULL, "asks for nothing");
    BAD(out.probability_count = 1; out.probability_dtype = VOXTILE_F32, "probabilities");
    BAD(out.probability_count = 1; out.probability_dtype = VOXTILE_F64, "probability_dtype");
    BAD(out.probability_count = 1; out.probability_dtype = VOXTILE_U8; out.probabilities = bytes;
        out.probabilities_size = sizeof bytes, "probability_values");
    BAD(out.probability_count = 1; out.probability_dtype = VOXTILE_U8; out.probabilities = bytes;
        out.probabilities_size = sizeof bytes; out.probability_values = unknown, "label 9");
#undef BAD
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, NULL, NULL, &error), "output is NULL");
    out = good_output();
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(NULL, &v, NULL, &out, &error), "session");
    options.tile_step = 2.0f;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), "step");
    options = good_options();
    options.mirror = 2;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), "mirror");
    options = good_options();
    options.keep_count = 1;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), "keep");
    memset(&grown, 0, sizeof grown);
    grown.options.struct_size = sizeof grown;
    grown.newer = 1;
    EXPECT(VOXTILE_E_NEWER, voxtile_run(session, &v, &grown.options, &out, &error), "know");
    CHECK(labels[0] == 0xee && labels[VOXELS - 1] == 0xee);

    grown.newer = 0;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &grown.options, &out, &error), "");
    CHECK(memcmp(labels, reference, sizeof labels) == 0);

    out.labels = wide;
    out.labels_dtype = VOXTILE_U16;
    out.labels_size = sizeof wide;
    out.probability_count = 2;
    out.probability_values = wanted;
    out.probability_dtype = VOXTILE_F32;
    out.probabilities = probabilities;
    out.probabilities_size = sizeof probabilities;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    out.labels = NULL;
    out.probability_dtype = VOXTILE_U8;
    out.probabilities = bytes;
    out.probabilities_size = sizeof bytes;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel) {
        CHECK(wide[voxel] == reference[voxel]);
        CHECK(probabilities[voxel] >= 0 && probabilities[voxel] <= 1);
        CHECK(fabs(probabilities[voxel] * 255 - bytes[voxel]) <= 0.5001);
        if (failures > 20)
            return;
    }

    options.keep = keep;
    out = good_output();
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        CHECK(labels[voxel] == (reference[voxel] == 1 ? 1 : 0));
}

struct shared {
    const voxtile_session *session;
    voxtile_status other;
    int calls;
};

static void *run_elsewhere(void *user)
{
    struct shared *shared = (struct shared *)user;
    static unsigned char other[VOXELS];
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    out.labels = other;
    shared->other = voxtile_run(shared->session, &v, NULL, &out, NULL);
    return NULL;
}

static void *cancel_elsewhere(void *user)
{
    voxtile_session_cancel(((struct shared *)user)->session);
    return NULL;
}

static void in_thread(void *(*body)(void *), void *user)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, user) == 0);
    pthread_join(thread, NULL);
}

static int32_t busy_then_go_on(void *user, const voxtile_progress *p)
{
    struct shared *shared = (struct shared *)user;
    CHECK(p->struct_size == sizeof *p && p->seconds >= 0 && p->done <= p->total + 1);
    if (shared->calls++ == 0)
        in_thread(run_elsewhere, user);
    return 0;
}

static int32_t cancel_from_a_thread(void *user, const voxtile_progress *p)
{
    (void)p;
    if (((struct shared *)user)->calls++ == 0)
        in_thread(cancel_elsewhere, user);
    return 0;
}

static int32_t cancel_by_value(void *user, const voxtile_progress *p)
{
    (void)user;
    return p->done == 1;
}

static void threads(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options = good_options();
    struct shared shared;

    shared.session = session;
    shared.other = VOXTILE_OK;
    shared.calls = 0;
    options.progress = busy_then_go_on;
    options.progress_user = &shared;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(shared.other == VOXTILE_E_BUSY && shared.calls > 3);

    memset(labels, 0xee, sizeof labels);
    shared.calls = 0;
    options.progress = cancel_from_a_thread;
    EXPECT(VOXTILE_CANCELLED, voxtile_run(session, &v, &options, &out, &error), "cancelled");
    options.progress = cancel_by_value;
    EXPECT(VOXTILE_CANCELLED, voxtile_run(session, &v, &options, &out, &error), "cancelled");
    CHECK(labels[0] == 0xee && labels[VOXELS - 1] == 0xee);
    voxtile_session_cancel(session); /* no run is on: nothing happens */
    voxtile_session_cancel(NULL);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    CHECK(memcmp(labels, reference, sizeof labels) == 0);
}

static void count_messages(void *user, int32_t level, const char *message)
{
    CHECK(level >= VOXTILE_LOG_INFO && message[0] != 0);
    ++*(int *)user;
}

int main(int argc, char **argv)
{
    voxtile_model *model;
    voxtile_session *session = NULL, *small = NULL;
    voxtile_session_options setup;
    voxtile_estimate estimate;
    voxtile_volume v;
    voxtile_output out = good_output();
    int messages = 0;

    if (argc != 3)
        return 2;
    fill_image();
    layout(argv[2]);
    devices();
    model = models(argv[1]);

    memset(&setup, 0, sizeof setup);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(model, &setup, &session, &error), "size");
    setup.struct_size = sizeof setup;
    setup.threads = 2;
    setup.log = count_messages;
    setup.log_user = &messages;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(NULL, &setup, &session, &error), "model");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(model, &setup, NULL, &error), "out");
    setup.device = 7;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(model, &setup, &session, &error), "device");
    setup.device = 1;
    setup.host_budget = 1000;
    EXPECT(VOXTILE_E_MEMORY, voxtile_session_create(model, &setup, &session, &error), "bytes");
    setup.host_budget = 0;
    EXPECT(VOXTILE_OK, voxtile_session_create(model, &setup, &session, &error), "");
    EXPECT(VOXTILE_OK, voxtile_session_create(model, NULL, &small, &error), "");
    voxtile_session_release(small);

    v = good_volume();
    memset(&estimate, 0, sizeof estimate);
    estimate.struct_size = sizeof estimate;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_estimate(NULL, &v, NULL, &estimate, &error), "session");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_estimate(session, NULL, NULL, &estimate, &error), "NULL");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_estimate(session, &v, NULL, NULL, &error), "NULL");
    EXPECT(VOXTILE_OK, voxtile_run_estimate(session, &v, NULL, &estimate, &error), "");
    CHECK(estimate.tiles == 8 && estimate.passes == 8 && estimate.host_bytes > 10000);

    setup.host_budget = estimate.least_host_bytes - 1;
    EXPECT(VOXTILE_OK, voxtile_session_create(model, &setup, &small, &error), "");
    EXPECT(VOXTILE_E_MEMORY, voxtile_run(small, &v, NULL, &out, &error), "bytes");
    voxtile_session_release(small);
    setup.host_budget = estimate.least_host_bytes;
    EXPECT(VOXTILE_OK, voxtile_session_create(model, &setup, &small, &error), "");
    EXPECT(VOXTILE_OK, voxtile_run(small, &v, NULL, &out, &error), "");
    voxtile_session_release(small);
    voxtile_session_release(NULL);

    voxtile_model_release(model); /* sessions keep what they need */
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    memcpy(reference, labels, sizeof labels);
    CHECK(messages > 1);
    volumes(session);
    outputs(session);
    threads(session);
    voxtile_session_release(session);
    if (failures == 0)
        printf("abi: all checks passed\n");
    return failures != 0;
}
