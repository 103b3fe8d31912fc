/* Runs on two emulated GPUs of 128 MiB beside the processor. argv: MODEL.safetensors of 4 labels. */
#include "check.h"

static char told[2000];

static void keep(void *user, int32_t level, const char *message)
{
    (void)user;
    (void)level;
    strncat(told, message, sizeof told - strlen(told) - 2);
    strcat(told, "\n");
}

static voxtile_session_options setup_of(uint32_t device)
{
    voxtile_session_options setup;
    memset(&setup, 0, sizeof setup);
    setup.struct_size = sizeof setup;
    setup.device = device;
    setup.threads = 1;
    setup.log = keep;
    told[0] = 0;
    return setup;
}

static void devices(void)
{
    voxtile_device d;
    struct { uint32_t struct_size; uint32_t id; } short_one;

    CHECK(voxtile_device_count() == 3);
    memset(&d, 0, sizeof d);
    d.struct_size = sizeof d;
    EXPECT(VOXTILE_OK, voxtile_device_get(0, &d, &error), "");
    CHECK(d.id == 1 && d.kind == VOXTILE_CPU && d.ordinal == 0 && d.covered == 1);
    CHECK(d.capability_major == 0 && d.driver[0] == 0 && d.kernels[0] == 0);
    EXPECT(VOXTILE_OK, voxtile_device_get(2, &d, &error), "");
    CHECK(d.id == 3 && d.kind == VOXTILE_CUDA && d.ordinal == 1 && d.covered == 1);
    CHECK(d.capability_major == 8 && d.capability_minor == 0);
    CHECK(d.memory_total == 128 << 20 && d.memory_free == d.memory_total);
    CHECK(strcmp(d.kernels, "sm_80") == 0 && strncmp(d.driver, "12.", 3) == 0);
    CHECK(strstr(d.name, "emulated") != NULL);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_device_get(3, &d, &error), "there are 3");
    short_one.struct_size = sizeof short_one; /* an earlier header's */
    EXPECT(VOXTILE_OK, voxtile_device_get(1, (voxtile_device *)&short_one, &error), "");
    CHECK(short_one.id == 2);
}

static int run(const voxtile_model *model, const voxtile_session_options *setup, uint32_t kind)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_estimate estimate;
    voxtile_memory_part part;
    voxtile_session *session = NULL;
    voxtile_device d;
    uint64_t sums[2] = {0, 0};
    uint32_t index;
    int voxel, same = 0;

    EXPECT(VOXTILE_OK, voxtile_session_create(model, setup, &session, &error), "");
    if (session == NULL)
        return 0;
    memset(&d, 0, sizeof d);
    d.struct_size = sizeof d;
    EXPECT(VOXTILE_OK, voxtile_session_device_get(session, &d, &error), "");
    CHECK(d.kind == kind);
    memset(&estimate, 0, sizeof estimate);
    estimate.struct_size = sizeof estimate;
    EXPECT(VOXTILE_OK, voxtile_run_estimate(session, &v, NULL, &estimate, &error), "");
    memset(&part, 0, sizeof part);
    part.struct_size = sizeof part;
    for (index = 0; index < estimate.memory_parts; ++index) {
        EXPECT(VOXTILE_OK, voxtile_run_memory(session, &v, NULL, NULL, index, &part, &error), "");
        CHECK(part.place == VOXTILE_PLACE_HOST || part.place == VOXTILE_PLACE_DEVICE);
        sums[part.place == VOXTILE_PLACE_DEVICE] += part.bytes;
    }
    CHECK(sums[0] == estimate.host_bytes && sums[1] == estimate.device_bytes);
    CHECK((estimate.least_device_bytes > 0) == (kind == VOXTILE_CUDA));
    memset(labels, 0xee, sizeof labels);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    voxtile_session_release(session);
    for (voxel = 0; voxel < VOXELS; ++voxel)
        same += labels[voxel] == reference[voxel];
    return same;
}

int main(int argc, char **argv)
{
    voxtile_model *model = NULL;
    voxtile_session *session = NULL;
    voxtile_session_options setup;

    if (argc != 2)
        return 2;
    fill_image();
    devices();
    EXPECT(VOXTILE_OK, voxtile_model_open(argv[1], &model, &error), "");

    setup = setup_of(1);
    run(model, &setup, VOXTILE_CPU);
    memcpy(reference, labels, sizeof reference);
    setup = setup_of(1);
    setup.precision = VOXTILE_PRECISION_BF16;
    CHECK(run(model, &setup, VOXTILE_CPU) > VOXELS * 99 / 100);
    setup.precision = VOXTILE_PRECISION_INT8;
    CHECK(run(model, &setup, VOXTILE_CPU) > VOXELS * 95 / 100);
    setup = setup_of(3);
    CHECK(run(model, &setup, VOXTILE_CUDA) > VOXELS * 99 / 100);
    CHECK(strstr(told, "emulated") != NULL);
    setup = setup_of(2);
    setup.precision = VOXTILE_PRECISION_F32;
    CHECK(run(model, &setup, VOXTILE_CUDA) >= VOXELS - 1);

    /* left the choice */
    setup = setup_of(0);
    run(model, &setup, VOXTILE_CUDA);
    CHECK(strstr(told, "processor") == NULL);
    setup = setup_of(0);
    setup.device_budget = 1000;
    CHECK(run(model, &setup, VOXTILE_CPU) == VOXELS);
    CHECK(strstr(told, "on the processor: the network needs") != NULL);

    /* what can't be */
    EXPECT(VOXTILE_E_MEMORY,
           (setup.device = 2, voxtile_session_create(model, &setup, &session, &error)), "1000");
    setup = setup_of(4);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(model, &setup, &session, &error),
           "1 to 3");
    setup = setup_of(1);
    setup.precision = VOXTILE_PRECISION_F16;
    EXPECT(VOXTILE_E_UNSUPPORTED, voxtile_session_create(model, &setup, &session, &error),
           "half precision");
    setup = setup_of(2);
    setup.precision = VOXTILE_PRECISION_BF16;
    EXPECT(VOXTILE_E_UNSUPPORTED, voxtile_session_create(model, &setup, &session, &error), "bf16");
    setup.precision = VOXTILE_PRECISION_INT8;
    EXPECT(VOXTILE_E_UNSUPPORTED, voxtile_session_create(model, &setup, &session, &error), "int8");
    setup.precision = 5;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_session_create(model, &setup, &session, &error), "precision");
    CHECK(session == NULL);
    voxtile_model_release(model);
    if (failures == 0)
        printf("all checks passed\n");
    return failures != 0;
}
