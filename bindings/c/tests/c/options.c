/* Uses every option of a run and every way to ask what it needs. argv: MODEL.safetensors of one
 * network, 4 labels and a spacing of 1.5 mm. */
#include "check.h"

enum { LABELS = 4 };

static const uint32_t all_labels[LABELS] = {3, 0, 2, 1};
static float shares[LABELS * VOXELS];

static voxtile_session *session_of(const voxtile_model *model, uint64_t budget)
{
    voxtile_session *session = NULL;
    voxtile_session_options setup;
    memset(&setup, 0, sizeof setup);
    setup.struct_size = sizeof setup;
    setup.threads = 2;
    setup.host_budget = budget;
    EXPECT(VOXTILE_OK, voxtile_session_create(model, &setup, &session, &error), "");
    return session;
}

static voxtile_estimate estimate_of(const voxtile_session *session,
                                    const voxtile_run_options *options,
                                    const voxtile_output *output)
{
    voxtile_volume v = good_volume();
    voxtile_estimate estimate;
    memset(&estimate, 0, sizeof estimate);
    estimate.struct_size = sizeof estimate;
    EXPECT(VOXTILE_OK, voxtile_run_estimate_output(session, &v, options, output, &estimate, &error),
           "");
    return estimate;
}

/* Labels alone are wanted; `change` makes the options wrong, which estimates say as well. */
#define BAD(change, text)                                                                     \
    do {                                                                                      \
        options = good_options();                                                             \
        change;                                                                               \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), text);   \
        EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_estimate(session, &v, &options, &estimate, &error), \
               text);                                                                         \
        CHECK(labels[0] == 0xee && labels[VOXELS - 1] == 0xee);                               \
    } while (0)

static void bad_values(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options;
    voxtile_estimate estimate;
    static unsigned char mask[VOXELS];

    memset(&estimate, 0, sizeof estimate);
    estimate.struct_size = sizeof estimate;
    memset(labels, 0xee, sizeof labels);
    BAD(options.region_size[0] = 1, "at least 1 voxel");
    BAD(options.region_start[1] = 1, "at least 1 voxel");
    BAD(options.region_size[0] = options.region_size[1] = 3; options.region_size[2] = -3, "[3, 3, -3]");
    BAD(options.region_size[0] = options.region_size[1] = options.region_size[2] = 2;
        options.region_start[2] = -1, "region_start");
    BAD(options.region_size[0] = options.region_size[1] = options.region_size[2] = INT64_MAX;
        options.region_start[0] = INT64_MAX, "region_size");
    BAD(options.region_size[0] = I + 1; options.region_size[1] = J; options.region_size[2] = K,
        "within [12, 10, 9] voxels");
    BAD(options.region_size[0] = I; options.region_size[1] = J; options.region_size[2] = K;
        options.region_mask = mask, "both a box and region_mask");
    BAD(options.skip_air = 2, "skip_air is 2");
    BAD(options.skip_air_below = -500, "skip_air is 0");
    BAD(options.skip_air = 1; options.skip_air_below = NAN, "skip_air_below");
    BAD(options.skip_air = 1; options.skip_air_below = -INFINITY, "skip_air_below");
    BAD(options.accumulators = 2, "accumulators is 2");
    BAD(options.probability_grid = 2, "probability_grid is 2");
}

static int in_box(int voxel)
{
    const int i = voxel % I, j = voxel / I % J, k = voxel / (I * J);
    return i >= 2 && i < 6 && j >= 1 && j < 4 && k >= 5 && k < 7;
}

static int32_t keep_last(void *user, const voxtile_progress *progress)
{
    *(voxtile_progress *)user = *progress;
    return 0;
}

static void regions(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options = good_options();
    unsigned char *mask = (unsigned char *)malloc(VOXELS); /* no byte more: valgrind looks */
    int voxel, mode;

    for (voxel = 0; voxel < VOXELS; ++voxel)
        mask[voxel] = in_box(voxel) && (voxel % 3 != 0) ? (unsigned char)(1 + voxel % 255) : 0;
    for (mode = 0; mode < 2; ++mode) {
        options = good_options();
        if (mode == 0) {
            options.region_start[0] = 2;
            options.region_start[1] = 1;
            options.region_start[2] = 5;
            options.region_size[0] = 4;
            options.region_size[1] = 3;
            options.region_size[2] = 2;
        } else {
            options.region_mask = mask;
        }
        memset(labels, 0xee, sizeof labels);
        EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
        for (voxel = 0; voxel < VOXELS; ++voxel) {
            const int wanted = mode == 0 ? in_box(voxel) : mask[voxel] != 0;
            CHECK(labels[voxel] == (wanted ? reference[voxel] : 0));
        }
    }
    CHECK(estimate_of(session, &options, NULL).host_bytes
          == estimate_of(session, NULL, NULL).host_bytes + VOXELS); /* the mask's copy */
    CHECK(estimate_of(session, &options, NULL).skipped_tiles == 0);
    CHECK(estimate_of(session, &options, NULL).passes == 8);
    memset(mask, 0, VOXELS);
    mask[VOXELS - 1] = 1; /* in a single tile */
    CHECK(estimate_of(session, &options, NULL).tiles == 8);
    CHECK(estimate_of(session, &options, NULL).skipped_tiles == 7);
    CHECK(estimate_of(session, &options, NULL).passes == 1);
    mask[VOXELS - 1] = 0;
    CHECK(estimate_of(session, &options, NULL).skipped_tiles == 8);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        CHECK(labels[voxel] == 0);
    free(mask);
}

static void air_and_sums(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    voxtile_run_options options = good_options();
    voxtile_progress last;
    int voxel, same = 0;

    options.skip_air = 1; /* below 0, but there are higher values in every tile */
    options.progress = keep_last;
    options.progress_user = &last;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(memcmp(labels, reference, sizeof labels) == 0);
    options.skip_air_below = 3000;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        CHECK(labels[voxel] == 0);
    v.intercept = 5000; /* in the volume's units */
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(memcmp(labels, reference, sizeof labels) == 0);
    CHECK(last.done == last.total && last.total == 8);

    v = good_volume();
    options = good_options();
    options.accumulators = VOXTILE_SUMS_F16;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        same += labels[voxel] == reference[voxel];
    CHECK(same > VOXELS * 9 / 10);
    CHECK(estimate_of(session, &options, NULL).host_bytes
          < estimate_of(session, NULL, NULL).host_bytes);
}

/* What a function was told. */
struct taken {
    int boxes, cancel_at;
    int64_t grid[3];
    float *values; /* [LABELS][grid], -1 where nothing came; NULL = not kept */
};

static int32_t take(void *user, const voxtile_probability_box *box)
{
    struct taken *taken = (struct taken *)user;
    const float *value = box->values;
    uint32_t label;
    int64_t a, b, c;
    int axis;

    CHECK(box->struct_size == sizeof *box && box->label_count == LABELS);
    for (axis = 0; axis < 3; ++axis) {
        CHECK(box->start[axis] >= 0 && box->size[axis] > 0);
        CHECK(box->start[axis] + box->size[axis] <= box->grid[axis]);
        CHECK(taken->boxes == 0 || taken->grid[axis] == box->grid[axis]);
        taken->grid[axis] = box->grid[axis];
    }
    if (taken->values != NULL)
        for (label = 0; label < box->label_count; ++label)
            for (a = box->start[0]; a < box->start[0] + box->size[0]; ++a)
                for (b = box->start[1]; b < box->start[1] + box->size[1]; ++b)
                    for (c = box->start[2]; c < box->start[2] + box->size[2]; ++c) {
                        float *place = taken->values + ((box->label_values[label] * box->grid[0] + a)
                                                            * box->grid[1] + b) * box->grid[2] + c;
                        CHECK(*place == -1.0f); /* once */
                        *place = *value++;
                    }
    return ++taken->boxes == taken->cancel_at ? 7 : 0;
}

static voxtile_output probability_output(void)
{
    voxtile_output out = good_output();
    out.probability_count = LABELS;
    out.probability_values = all_labels;
    return out;
}

static void probabilities(const voxtile_session *session)
{
    static float found[LABELS * VOXELS * 2];
    voxtile_volume v = good_volume();
    voxtile_output out = probability_output();
    voxtile_run_options options = good_options();
    struct taken taken;
    int label, voxel, place;

    /* the function has what a buffer gets, with and without the buffer */
    for (voxel = 0; voxel < LABELS * VOXELS; ++voxel)
        found[voxel] = -1;
    memset(&taken, 0, sizeof taken);
    taken.values = found;
    options.probability = take;
    options.probability_user = &taken;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(taken.boxes > 1 && taken.grid[0] == K && taken.grid[1] == J && taken.grid[2] == I);
    CHECK(memcmp(labels, reference, sizeof labels) == 0);
    out.labels = NULL;
    out.probability_dtype = VOXTILE_F32;
    out.probabilities = shares;
    out.probabilities_size = sizeof shares;
    taken.values = NULL;
    taken.boxes = 0;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(taken.boxes > 1);
    for (label = 0; label < LABELS; ++label)
        CHECK(memcmp(shares + label * VOXELS, found + all_labels[label] * VOXELS,
                     VOXELS * sizeof(float)) == 0);

    /* inside a box they are the same */
    options.region_start[0] = 2;
    options.region_start[1] = 1;
    options.region_start[2] = 5;
    options.region_size[0] = 4;
    options.region_size[1] = 3;
    options.region_size[2] = 2;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    for (label = 0; label < LABELS; ++label)
        for (voxel = 0; voxel < VOXELS; ++voxel)
            CHECK(!in_box(voxel)
                  || shares[label * VOXELS + voxel] == found[all_labels[label] * VOXELS + voxel]);

    /* on the network's grid, twice as fine along k */
    options = good_options();
    options.probability = take;
    options.probability_user = &taken;
    options.probability_grid = VOXTILE_GRID_NETWORK;
    v.spacing[2] = 3.0;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error),
           "VOXTILE_GRID_VOLUME");
    out = probability_output();
    for (place = 0; place < LABELS * VOXELS * 2; ++place)
        found[place] = -1;
    memset(&taken, 0, sizeof taken);
    taken.values = found;
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(taken.grid[0] == 2 * K && taken.grid[1] == J && taken.grid[2] == I);
    for (voxel = 0; voxel < VOXELS * 2; ++voxel) {
        float sum = 0;
        for (label = 0; label < LABELS; ++label) {
            CHECK(found[label * VOXELS * 2 + voxel] >= 0);
            sum += found[label * VOXELS * 2 + voxel];
        }
        CHECK(fabs(sum - 1) < 1e-4);
    }
    options.probability = NULL;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run(session, &v, &options, &out, &error), "probabilities");

    /* a function that wants no more */
    v = good_volume();
    options = good_options();
    memset(&taken, 0, sizeof taken);
    taken.cancel_at = 2;
    options.probability = take;
    options.probability_user = &taken;
    out.probability_dtype = VOXTILE_F32;
    out.probabilities = shares;
    out.probabilities_size = sizeof shares;
    memset(labels, 0xee, sizeof labels);
    memset(shares, 0xee, sizeof shares);
    EXPECT(VOXTILE_CANCELLED, voxtile_run(session, &v, &options, &out, &error), "cancelled");
    CHECK(taken.boxes == 2 && labels[0] == 0xee);
    for (place = 0; place < (int)sizeof shares; ++place)
        CHECK(((unsigned char *)shares)[place] == 0xee);

    /* without labels to tell of, it is never called */
    taken.boxes = 0;
    out = good_output();
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, &options, &out, &error), "");
    CHECK(taken.boxes == 0);
}

static void estimates(const voxtile_model *model, const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = probability_output();
    voxtile_run_options options = good_options();
    voxtile_estimate plain = estimate_of(session, NULL, NULL), buffered, told;
    voxtile_memory_part part;
    voxtile_session *tight;
    struct taken taken;
    uint64_t sum = 0, before = UINT64_MAX;
    uint32_t index;
    int staged = 0;

    CHECK(plain.slab_planes >= 1 && plain.prepared_kept == 0 && plain.memory_parts > 3);
    CHECK(plain.least_host_bytes > 10000 && plain.least_host_bytes < plain.host_bytes);
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_run_estimate_output(session, &v, NULL, &out, &plain, &error),
           "probability_dtype");
    out.probability_dtype = VOXTILE_F32;
    buffered = estimate_of(session, NULL, &out);
    CHECK(buffered.host_bytes >= plain.host_bytes + sizeof shares);
    CHECK(buffered.least_host_bytes >= plain.least_host_bytes + sizeof shares);
    options.probability = take;
    told = estimate_of(session, &options, &out);
    CHECK(told.host_bytes + sizeof shares == buffered.host_bytes);
    out.probabilities = shares;
    out.probabilities_size = sizeof shares;
    CHECK(estimate_of(session, &options, &out).host_bytes == buffered.host_bytes);

    memset(&part, 0, sizeof part);
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_memory(session, &v, NULL, &out, 0, &part, &error),
           "struct_size");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_memory(session, &v, NULL, &out, 0, NULL, &error), "NULL");
    part.struct_size = sizeof part;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_memory(NULL, &v, NULL, &out, 0, &part, &error),
           "session");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_memory(session, NULL, NULL, &out, 0, &part, &error),
           "volume");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_run_memory(session, &v, NULL, &out, buffered.memory_parts, &part, &error),
           "memory part");
    for (index = 0; index < buffered.memory_parts; ++index) {
        EXPECT(VOXTILE_OK, voxtile_run_memory(session, &v, NULL, &out, index, &part, &error), "");
        CHECK(part.name[0] != 0 && part.bytes > 0 && part.bytes <= before);
        staged += strstr(part.name, "probabilities until") != NULL && part.bytes == sizeof shares;
        before = part.bytes;
        sum += part.bytes;
    }
    CHECK(sum == buffered.host_bytes && staged == 1);

    /* a budget that is just enough, and one that is not */
    tight = session_of(model, buffered.least_host_bytes);
    CHECK(estimate_of(tight, NULL, &out).host_bytes == buffered.least_host_bytes);
    CHECK(estimate_of(tight, NULL, &out).slab_planes <= buffered.slab_planes);
    EXPECT(VOXTILE_OK, voxtile_run(tight, &v, NULL, &out, &error), "");
    CHECK(memcmp(labels, reference, sizeof labels) == 0);
    voxtile_session_release(tight);
    tight = session_of(model, buffered.least_host_bytes - 1);
    EXPECT(VOXTILE_E_MEMORY, voxtile_run(tight, &v, NULL, &out, &error), "bytes");
    memset(&taken, 0, sizeof taken);
    options.probability_user = &taken;
    out.probabilities = NULL; /* the function needs less */
    EXPECT(VOXTILE_OK, voxtile_run(tight, &v, &options, &out, &error), "");
    voxtile_session_release(tight);
}

static void seconds(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_run_options options = good_options();
    double plain = -1, again = -1, mirrored = -1;

    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_seconds(session, &v, NULL, NULL, &error), "out");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_seconds(NULL, &v, NULL, &plain, &error), "session");
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_seconds(session, NULL, NULL, &plain, &error), "volume");
    options.mirror = 2;
    EXPECT(VOXTILE_E_ARGUMENT, voxtile_run_seconds(session, &v, &options, &plain, &error), "mirror");
    CHECK(plain == -1);
    EXPECT(VOXTILE_OK, voxtile_run_seconds(session, &v, NULL, &plain, &error), "");
    EXPECT(VOXTILE_OK, voxtile_run_seconds(session, &v, NULL, &again, &error), "");
    options.mirror = 1;
    EXPECT(VOXTILE_OK, voxtile_run_seconds(session, &v, &options, &mirrored, &error), "");
    CHECK(plain > 0 && again == plain); /* measured once */
    CHECK(fabs(mirrored / plain - 8) < 1e-6);
}

static void statistics(void)
{
    static uint16_t wide[VOXELS];
    const uint32_t values[3] = {2, 77, 1}, background[2] = {1, 0};
    voxtile_volume v = good_volume();
    voxtile_label_statistics out[3], narrow[3];
    int index, voxel, axis;

    v.spacing[2] = 2.5;
    v.origin[0] = 100;
    v.slope = 2;
    v.intercept = -7;
    memset(out, 0, sizeof out);
#define STATISTICS(out_given) \
    voxtile_statistics(&v, VOXTILE_U8, reference, VOXELS, values, 3, 2, out_given, &error)
    EXPECT(VOXTILE_E_ARGUMENT, STATISTICS(out), "struct_size is 0");
    out[0].struct_size = out[2].struct_size = sizeof out[0];
    out[1].struct_size = sizeof out[0] - 8;
    EXPECT(VOXTILE_E_ARGUMENT, STATISTICS(out), "label_statistics[1].struct_size");
    out[1].struct_size = sizeof out[0];
    EXPECT(VOXTILE_E_ARGUMENT, STATISTICS(NULL), "out");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(NULL, VOXTILE_U8, labels, VOXELS, values, 3, 0, out, &error), "volume");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(&v, VOXTILE_F32, labels, VOXELS, values, 3, 0, out, &error),
           "labels_dtype");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(&v, VOXTILE_U8, NULL, VOXELS, values, 3, 0, out, &error), "labels");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(&v, VOXTILE_U16, labels, VOXELS, values, 3, 0, out, &error),
           "values of 2 bytes");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(&v, VOXTILE_U8, labels, VOXELS, NULL, 3, 0, out, &error), "values");
    EXPECT(VOXTILE_E_ARGUMENT,
           voxtile_statistics(&v, VOXTILE_U8, labels, VOXELS, background, 2, 0, out, &error),
           "background");
    CHECK(out[0].voxels == 0 && out[0].value == 0);
    EXPECT(VOXTILE_OK,
           voxtile_statistics(&v, VOXTILE_U8, reference, VOXELS, NULL, 0, 0, NULL, &error), "");
    EXPECT(VOXTILE_OK, STATISTICS(out), "");

    for (index = 0; index < 3; ++index) {
        double sum = 0, squares = 0, low = INFINITY, high = -INFINITY, place[3] = {0, 0, 0};
        int64_t first[3] = {I, J, K}, last[3] = {-1, -1, -1};
        double count = 0;
        for (voxel = 0; voxel < VOXELS; ++voxel) {
            const int at[3] = {voxel % I, voxel / I % J, voxel / (I * J)};
            const double value = image[voxel] * 2.0 - 7;
            if (reference[voxel] != values[index])
                continue;
            ++count;
            sum += value;
            squares += value * value;
            low = fmin(low, value);
            high = fmax(high, value);
            for (axis = 0; axis < 3; ++axis) {
                place[axis] += at[axis];
                first[axis] = at[axis] < first[axis] ? at[axis] : first[axis];
                last[axis] = at[axis] > last[axis] ? at[axis] : last[axis];
            }
        }
        CHECK(out[index].struct_size == sizeof out[0] && out[index].value == values[index]);
        CHECK((double)out[index].voxels == count && (index == 1) == (count == 0));
        CHECK(fabs(out[index].milliliters - count * 1.5 * 1.5 * 2.5 / 1000) < 1e-9);
        if (count == 0) {
            CHECK(out[index].mean == 0 && out[index].maximum == 0 && out[index].box_size[0] == 0);
            continue;
        }
        CHECK(fabs(out[index].mean - sum / count) < 1e-6);
        CHECK(fabs(out[index].deviation - sqrt(squares / count - sum / count * sum / count)) < 1e-6);
        CHECK(out[index].minimum == low && out[index].maximum == high);
        for (axis = 0; axis < 3; ++axis) {
            CHECK(out[index].box_start[axis] == first[axis]);
            CHECK(out[index].box_size[axis] == last[axis] - first[axis] + 1);
            CHECK(fabs(out[index].centroid[axis] - v.origin[axis]
                       - v.spacing[axis] * place[axis] / count) < 1e-9);
        }
    }

    for (voxel = 0; voxel < VOXELS; ++voxel)
        wide[voxel] = reference[voxel];
    memset(narrow, 0, sizeof narrow);
    for (index = 0; index < 3; ++index)
        narrow[index].struct_size = sizeof narrow[0];
    EXPECT(VOXTILE_OK,
           voxtile_statistics(&v, VOXTILE_U16, wide, sizeof wide, values, 3, 1, narrow, &error), "");
    CHECK(memcmp(narrow, out, sizeof out) == 0);
}

/* The structs of the first header. */
struct first_run_options {
    uint32_t struct_size, mirror;
    float tile_step;
    uint32_t keep_count;
    const uint32_t *keep;
    voxtile_progress_fn progress;
    void *progress_user;
    uint32_t export_mode, raw;
};

/* Those of the header before clean-up. */
#define OPTIONS_BEFORE_CLEANUP offsetof(voxtile_run_options, cleanup)

struct first_estimate {
    uint32_t struct_size, reserved;
    uint64_t tiles, passes, host_bytes;
};

/* Structs that end where an older program's do, with nothing behind them; valgrind looks. */
static void older_programs(const voxtile_session *session)
{
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();
    struct first_run_options *options = (struct first_run_options *)calloc(1, sizeof *options);
    struct first_estimate *estimate = (struct first_estimate *)calloc(2, sizeof *estimate);
    voxtile_run_options *before;
    const uint32_t keep[1] = {1};
    int voxel;

    CHECK(sizeof *options == offsetof(voxtile_run_options, region_start));
    CHECK(sizeof *estimate == offsetof(voxtile_estimate, least_host_bytes));
    options->struct_size = sizeof *options;
    options->keep = keep;
    options->keep_count = 1;
    EXPECT(VOXTILE_OK,
           voxtile_run(session, &v, (const voxtile_run_options *)options, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        CHECK(labels[voxel] == (reference[voxel] == 1 ? 1 : 0));
    before = (voxtile_run_options *)calloc(1, OPTIONS_BEFORE_CLEANUP);
    memcpy(before, options, sizeof *options);
    before->struct_size = OPTIONS_BEFORE_CLEANUP;
    memset(labels, 0xee, sizeof labels);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, before, &out, &error), "");
    for (voxel = 0; voxel < VOXELS; ++voxel)
        CHECK(labels[voxel] == (reference[voxel] == 1 ? 1 : 0));
    free(before);
    estimate->struct_size = sizeof *estimate;
    memset(estimate + 1, 0x55, sizeof *estimate);
    EXPECT(VOXTILE_OK,
           voxtile_run_estimate(session, &v, (const voxtile_run_options *)options,
                                (voxtile_estimate *)estimate, &error), "");
    CHECK(estimate->tiles == 8 && estimate->host_bytes > 10000);
    CHECK(estimate[1].struct_size == 0x55555555u);
    free(options);
    free(estimate);
}

int main(int argc, char **argv)
{
    voxtile_model *model = NULL;
    voxtile_session *session;
    voxtile_volume v = good_volume();
    voxtile_output out = good_output();

    if (argc != 2)
        return 2;
    fill_image();
    EXPECT(VOXTILE_OK, voxtile_model_open(argv[1], &model, &error), "");
    session = session_of(model, 0);
    EXPECT(VOXTILE_OK, voxtile_run(session, &v, NULL, &out, &error), "");
    memcpy(reference, labels, sizeof labels);
    bad_values(session);
    regions(session);
    air_and_sums(session);
    probabilities(session);
    estimates(model, session);
    seconds(session);
    statistics();
    older_programs(session);
    voxtile_session_release(session);
    voxtile_model_release(model);
    if (failures == 0)
        printf("options: all checks passed\n");
    return failures != 0;
}
