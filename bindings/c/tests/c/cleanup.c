/* Clean-up steps against flooding voxel after voxel. argv: MODEL.safetensors of 4 labels. */
#include "check.h"

/* What a step is to do, as the header says it; `map` is changed. */
static void expected_step(unsigned char *map, const voxtile_cleanup *step, double voxel_mm3)
{
    static int members[VOXELS], component[VOXELS];
    static int sizes[VOXELS], first[VOXELS], around[VOXELS];
    const int holes = step->step == VOXTILE_CLEANUP_FILL_HOLES;
    const int diagonal = !holes && step->connectivity != 6;
    int count = 0, seed, largest[256] = {0};

    for (seed = 0; seed < VOXELS; ++seed)
        component[seed] = -1;
    for (seed = 0; seed < VOXELS; ++seed) {
        int next = 0, end = 1;
        if (component[seed] >= 0 || (map[seed] == 0) != holes)
            continue;
        members[0] = seed;
        component[seed] = count;
        around[count] = 0; /* of a hole: the label around it, -1 = open or of several */
        while (next < end) {
            const int voxel = members[next++];
            const int at[3] = {voxel % I, voxel / I % J, voxel / (I * J)};
            int by[3];
            for (by[0] = -1; by[0] <= 1; ++by[0])
                for (by[1] = -1; by[1] <= 1; ++by[1])
                    for (by[2] = -1; by[2] <= 1; ++by[2]) {
                        const int i = at[0] + by[0], j = at[1] + by[1], k = at[2] + by[2];
                        const int moved = abs(by[0]) + abs(by[1]) + abs(by[2]);
                        const int other = (k * J + j) * I + i;
                        if (moved == 0 || (moved > 1 && !diagonal))
                            continue;
                        if (i < 0 || j < 0 || k < 0 || i >= I || j >= J || k >= K) {
                            if (moved == 1)
                                around[count] = -1;
                            continue;
                        }
                        if (map[other] != map[seed]) {
                            if (moved == 1 && around[count] != map[other])
                                around[count] = around[count] == 0 ? map[other] : -1;
                        } else if (component[other] < 0) {
                            component[other] = count;
                            members[end++] = other;
                        }
                    }
        }
        sizes[count] = end;
        first[count] = map[seed];
        if (end > largest[map[seed]])
            largest[map[seed]] = end;
        ++count;
    }
    for (seed = 0; seed < VOXELS; ++seed) {
        const int of = component[seed];
        int label, wanted, becomes = -1;
        uint32_t index;
        if (of < 0)
            continue;
        label = holes ? around[of] : first[of];
        wanted = step->label_count == 0 && label > 0;
        for (index = 0; index < step->label_count; ++index)
            wanted |= (int)step->labels[index] == label;
        if (!wanted)
            continue;
        if (holes)
            becomes = label;
        else if (step->step == VOXTILE_CLEANUP_LARGEST_COMPONENT)
            becomes = sizes[of] < largest[label] ? 0 : -1;
        else
            becomes = sizes[of] * voxel_mm3 < step->minimum_mm3 ? 0 : -1;
        if (becomes >= 0)
            map[seed] = (unsigned char)becomes;
    }
}

static voxtile_cleanup step_of(uint32_t step, const uint32_t *values, uint32_t count)
{
    voxtile_cleanup cleanup;
    memset(&cleanup, 0, sizeof cleanup);
    cleanup.struct_size = sizeof cleanup;
    cleanup.step = step;
    cleanup.labels = values;
    cleanup.label_count = count;
    return cleanup;
}

static const uint32_t some[2] = {3, 2}, two[1] = {2}, one[1] = {1};

/* Runs `count` steps and compares; how many voxels they change. */
static int compare(const voxtile_session *session, const voxtile_cleanup *steps, uint32_t count)
{
    static unsigned char expected[VOXELS];
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options = good_options();
    int voxel, changed = 0;
    uint32_t index;

    options.cleanup = steps;
    options.cleanup_count = count;
    memcpy(expected, reference, VOXELS);
    for (index = 0; index < count; ++index)
        expected_step(expected, steps + index, 1.5 * 1.5 * 1.5);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(memcmp(labels, expected, VOXELS) == 0);
    for (voxel = 0; voxel < VOXELS; ++voxel)
        changed += expected[voxel] != reference[voxel];
    return changed;
}

static void steps(const voxtile_session *session)
{
    static const uint32_t connectivities[3] = {0, 6, 26};
    voxtile_cleanup all[4], step;
    int index;

    for (index = 0; index < 3; ++index) {
        step = step_of(VOXTILE_CLEANUP_LARGEST_COMPONENT, NULL, 0);
        step.connectivity = connectivities[index];
        CHECK(compare(session, &step, 1) > 0);
        step.labels = some;
        step.label_count = 2;
        CHECK(compare(session, &step, 1) > 0);
        step = step_of(VOXTILE_CLEANUP_MINIMUM_SIZE, NULL, 0);
        step.connectivity = connectivities[index];
        step.minimum_mm3 = 9 * 1.5 * 1.5 * 1.5; /* nine voxels stay */
        CHECK(compare(session, &step, 1) > 0);
        step.labels = two;
        step.label_count = 1;
        step.minimum_mm3 = 30;
        CHECK(compare(session, &step, 1) > 0);
    }
    /* in their order, and sizes of their own */
    all[0] = step_of(VOXTILE_CLEANUP_MINIMUM_SIZE, some, 2);
    all[0].minimum_mm3 = 40;
    all[1] = step_of(VOXTILE_CLEANUP_MINIMUM_SIZE, one, 1);
    all[1].minimum_mm3 = 7;
    all[2] = step_of(VOXTILE_CLEANUP_FILL_HOLES, NULL, 0);
    all[3] = step_of(VOXTILE_CLEANUP_LARGEST_COMPONENT, two, 1);
    CHECK(compare(session, all, 2) > 0);
    CHECK(compare(session, all, 3) != compare(session, all, 2)); /* there are holes */
    CHECK(compare(session, all, 4) > 0);
    all[2] = step_of(VOXTILE_CLEANUP_FILL_HOLES, some, 2);
    CHECK(compare(session, all, 3) > 0);
    CHECK(compare(session, NULL, 0) == 0);
}

/* Structs of a later header, longer than ours, and of an earlier one. */
static void other_sizes(const voxtile_session *session)
{
    struct longer {
        voxtile_cleanup known;
        uint64_t unknown;
    } *later = (struct longer *)calloc(2, sizeof *later);
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options = good_options();
    voxtile_cleanup plain[2];
    static unsigned char expected[VOXELS];
    const size_t before = offsetof(voxtile_cleanup, minimum_mm3);
    char *earlier = (char *)calloc(2, before);
    uint32_t size = (uint32_t)before;

    plain[0] = step_of(VOXTILE_CLEANUP_LARGEST_COMPONENT, some, 2);
    plain[1] = step_of(VOXTILE_CLEANUP_FILL_HOLES, NULL, 0);
    options.cleanup = plain;
    options.cleanup_count = 2;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    memcpy(expected, labels, VOXELS);
    later[0].known = plain[0];
    later[1].known = plain[1];
    later[0].known.struct_size = later[1].known.struct_size = sizeof *later;
    options.cleanup = (const voxtile_cleanup *)later;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(memcmp(labels, expected, VOXELS) == 0);
    later[1].unknown = 1;
    EXPECT(VOXTILE_E_NEWER, voxtile_run(session, &v, &options, &out, &error), "cleanup");
    memcpy(earlier, plain, before);
    memcpy(earlier + before, plain + 1, before);
    memcpy(earlier, &size, sizeof size);
    memcpy(earlier + before, &size, sizeof size);
    options.cleanup = (const voxtile_cleanup *)(void *)earlier;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(memcmp(labels, expected, VOXELS) == 0);
    free(later);
    free(earlier);
}

/* `change` makes a step of all labels wrong, which estimates say as well. */
#define BAD(kind, change, text)                                                               \
    do {                                                                                      \
        step = step_of(kind, NULL, 0);                                                        \
        options = good_options();                                                             \
        options.cleanup = &step;                                                              \
        options.cleanup_count = 1;                                                            \
        change;                                                                               \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), text);   \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_estimate(session, &v, &options, &estimate, &error), \
               text);                                                                         \
        CHECK(labels[0] == 0xee && labels[VOXELS - 1] == 0xee);                               \
    } while (0)

static void bad_steps(const voxtile_session *session)
{
    static const uint32_t background[2] = {1, 0}, unknown[1] = {77};
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options;
    voxtile_estimate estimate;
    voxtile_cleanup step;

    memset(&estimate, 0, sizeof estimate);
    estimate.struct_size = sizeof estimate;
    memset(labels, 0xee, sizeof labels);
    BAD(0, (void)0, "cleanup.step is 0");
    BAD(4, (void)0, "cleanup.step is 4");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, options.cleanup = NULL, "cleanup is NULL");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.struct_size = 0, "struct_size is 0");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, options.cleanup_count = UINT32_MAX, "cleanup_count");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.connectivity = 6, "connectivity is 6");
    BAD(VOXTILE_CLEANUP_LARGEST_COMPONENT, step.connectivity = 18, "connectivity is 18");
    BAD(VOXTILE_CLEANUP_LARGEST_COMPONENT, step.minimum_mm3 = 5, "minimum_mm3 is 5");
    BAD(VOXTILE_CLEANUP_MINIMUM_SIZE, step.minimum_mm3 = -1, "-1 mm^3");
    BAD(VOXTILE_CLEANUP_MINIMUM_SIZE, step.minimum_mm3 = NAN, "NaN mm^3");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.label_count = 2, "cleanup.labels");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.labels = background, "label_count is 0");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.label_count = UINT32_MAX, "label_count");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.labels = background; step.label_count = 2,
        "0 is the background");
    BAD(VOXTILE_CLEANUP_FILL_HOLES, step.labels = unknown; step.label_count = 1, "no label 77");
}

int main(int argc, char **argv)
{
    voxtile_model *model = NULL;
    voxtile_session *session = NULL;
    voxtile_session_options setup;
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();

    if (argc != 2)
        return 2;
    fill_image();
    memset(&setup, 0, sizeof setup);
    setup.struct_size = sizeof setup;
    setup.threads = 2;
    EXPECT(VOXTILE_OK, voxtile_model_open(argv[1], &model, &error), "");
    EXPECT(VOXTILE_OK, voxtile_session_create(model, &setup, &session, &error), "");
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    memcpy(reference, labels, sizeof labels);
    steps(session);
    other_sizes(session);
    bad_steps(session);
    voxtile_session_release(session);
    voxtile_model_release(model);
    if (failures == 0)
        printf("cleanup: all checks passed\n");
    return failures != 0;
}
