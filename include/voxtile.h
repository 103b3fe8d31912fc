/*
 * voxtile.h - segment a 3D medical volume with an nnU-Net-family network.
 *
 *   model    weights and labels. Immutable, reference counted. Share it between threads freely.
 *   session  a model made ready on one device: a plan, an arena, worker threads.
 *            One run at a time; a second concurrent call gets VOXTILE_E_BUSY.
 *
 * Rules that hold for every function
 *   - Returns VOXTILE_OK or a status. Outputs are written only on VOXTILE_OK.
 *   - `error` may be NULL. The caller owns it; nothing in it needs freeing.
 *   - NULL where a pointer is required gives VOXTILE_E_ARGUMENT, never a crash.
 *   - All functions may be called from any thread. Releasing a handle for the last time must not
 *     overlap with another call that uses the handle.
 *   - No exception, panic, abort, exit, signal handler or print leaves the library. Callbacks
 *     must not throw, longjmp or release the handle they are called for.
 *   - Strings are UTF-8 and NUL-terminated. Lengths are in voxels, mm and bytes.
 *   - A struct that begins with `struct_size` must be zeroed, then have that field set to its
 *     sizeof. Zero always means "the default". New fields go at the end.
 *   - Volumes have axes i, j, k, i varying fastest. The model's own axes are those of its network,
 *     the slowest first; for most models they are k, j, i.
 *
 * The version of this header and of the library should agree in major and minor:
 *   assert(voxtile_version() >> 8 == (VOXTILE_VERSION_MAJOR << 8 | VOXTILE_VERSION_MINOR));
 *
 * Generated from bindings/c; do not edit.
 */

#ifndef VOXTILE_H
#define VOXTILE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && !defined(VOXTILE_STATIC)
#  define VOXTILE_API __declspec(dllimport)
#else
#  define VOXTILE_API
#endif
#if defined(__GNUC__)
#  define VOXTILE_CHECK __attribute__((warn_unused_result))
#else
#  define VOXTILE_CHECK
#endif

// Version of this header.
#define VOXTILE_VERSION_MAJOR 0

// See above.
#define VOXTILE_VERSION_MINOR 1

// See above.
#define VOXTILE_VERSION_PATCH 0

// Done.
#define VOXTILE_OK 0

// The caller asked to stop; outputs are untouched.
#define VOXTILE_CANCELLED 1

// A bad value or NULL from the caller.
#define VOXTILE_E_ARGUMENT -1

// A file could not be read.
#define VOXTILE_E_IO -2

// A file was read and is not a valid model.
#define VOXTILE_E_FORMAT -3

// Valid, but this build or device can't do it.
#define VOXTILE_E_UNSUPPORTED -4

// Memory, or the budget, ran out.
#define VOXTILE_E_MEMORY -5

// The device or its driver reported an error (see voxtile_error.native).
#define VOXTILE_E_DEVICE -6

// This session is running on another thread.
#define VOXTILE_E_BUSY -7

// A bug in voxtile; the session now only accepts release.
#define VOXTILE_E_INTERNAL -8

// The caller set a field this library does not know.
#define VOXTILE_E_NEWER -9

// voxtile_device.kind: the processor.
#define VOXTILE_CPU 1

// voxtile_device.kind: an NVIDIA GPU.
#define VOXTILE_CUDA 2

// voxtile_session_options.precision: half precision on a GPU, single on the processor.
#define VOXTILE_PRECISION_DEFAULT 0

// voxtile_session_options.precision: single. On a GPU a check of it, and slow.
#define VOXTILE_PRECISION_F32 1

// voxtile_session_options.precision: half; on a GPU only.
#define VOXTILE_PRECISION_F16 2

// voxtile_session_options.precision: bf16, the upper half of single precision; on the processor only.
// Faster, and half the memory of a tile's activations; labels may differ where two scores nearly tie.
#define VOXTILE_PRECISION_BF16 3

// voxtile_session_options.precision: values as bf16, and products of 8-bit integers where they are
// faster; on the processor only. More labels differ than with bf16.
#define VOXTILE_PRECISION_INT8 4

// voxtile_log_fn level: something worth knowing.
#define VOXTILE_LOG_INFO 1

// voxtile_log_fn level: something the user should be told.
#define VOXTILE_LOG_WARNING 2

// Element types.
#define VOXTILE_U8 1

// Element type.
#define VOXTILE_I8 2

// Element type.
#define VOXTILE_U16 3

// Element type.
#define VOXTILE_I16 4

// Element type.
#define VOXTILE_I32 5

// Element type: IEEE half precision.
#define VOXTILE_F16 6

// Element type.
#define VOXTILE_F32 7

// Element type.
#define VOXTILE_F64 8

// Element type.
#define VOXTILE_U32 9

// voxtile_progress.phase: cropping, normalising, resampling.
#define VOXTILE_PHASE_PREPARE 0

// voxtile_progress.phase: running tiles.
#define VOXTILE_PHASE_TILES 1

// voxtile_progress.phase: handing over the result.
#define VOXTILE_PHASE_RESTORE 2

// voxtile_run_options.export_mode: scores are interpolated to the volume's grid, then compared.
#define VOXTILE_EXPORT_SCORES 0

// voxtile_run_options.export_mode: labels, by their interpolated shares (nnU-Net v1's fast mode).
#define VOXTILE_EXPORT_LABELS 1

// voxtile_run_options.export_mode: the nearest voxel's label (nnU-Net v1's fastest mode).
#define VOXTILE_EXPORT_NEAREST_LABELS 2

// voxtile_run_options.accumulators: in single precision.
#define VOXTILE_SUMS_F32 0

// voxtile_run_options.accumulators: in half precision, as nnU-Net's own. Half the memory; labels
// may differ where scores lie within about a thousandth of each other.
#define VOXTILE_SUMS_F16 1

// voxtile_run_options.probability_grid: the volume's; axes k, j, i.
#define VOXTILE_GRID_VOLUME 0

// voxtile_run_options.probability_grid: the network's, around the voxels that are not zero; axes
// as the network's.
#define VOXTILE_GRID_NETWORK 1

// voxtile_cleanup.step: of each label the largest component stays (all that are as large), its
// others become background.
#define VOXTILE_CLEANUP_LARGEST_COMPONENT 1

// voxtile_cleanup.step: components smaller than `minimum_mm3` become background.
#define VOXTILE_CLEANUP_MINIMUM_SIZE 2

// voxtile_cleanup.step: background that one label encloses by faces becomes that label.
#define VOXTILE_CLEANUP_FILL_HOLES 3

// voxtile_memory_part.place: the machine's memory.
#define VOXTILE_PLACE_HOST 0

// voxtile_memory_part.place: the GPU's own memory.
#define VOXTILE_PLACE_DEVICE 1

// Weights and labels; opaque.
typedef struct voxtile_model voxtile_model;

// A model made ready on one device; opaque.
typedef struct voxtile_session voxtile_session;

// What a call came to: VOXTILE_OK, VOXTILE_CANCELLED or a negative VOXTILE_E_...
typedef int32_t voxtile_status;

// A device.
typedef struct voxtile_device {
    // sizeof(voxtile_device)
    uint32_t struct_size;
    // 1 and up; stable within the process. 0 means "choose".
    uint32_t id;
    // VOXTILE_CPU or VOXTILE_CUDA
    uint32_t kind;
    // Of a GPU: its number among the driver's, from 0. Else 0.
    uint32_t ordinal;
    // Bytes; 0 if unknown.
    uint64_t memory_total;
    // Bytes; 0 if unknown.
    uint64_t memory_free;
    // "x86_64 AVX-512", "NVIDIA H100 80GB HBM3"
    char name[96];
    // Of a GPU: its compute capability, such as 9 and 0. Else 0.
    uint32_t capability_major;
    // See above.
    uint32_t capability_minor;
    // 1 if voxtile runs on it; 0 of a GPU that is too old for its kernels.
    uint32_t covered;
    // 0
    uint32_t reserved;
    // Of a GPU: the newest CUDA that its driver supports, such as "12.4". Else empty.
    char driver[16];
    // Of a GPU: which kernels run on it, such as "sm_90a"; "compute_80" are compiled by the driver
    // when they are loaded. Else empty.
    char kernels[16];
} voxtile_device;

// Why a call failed. Frozen: this struct never grows.
typedef struct voxtile_error {
    // What the call returned.
    voxtile_status status;
    // errno of the system's call that failed, or the CUDA driver's number of its error; 0 if
    // neither.
    int32_t native;
    // One sentence: what, where, what was expected.
    char message[504];
} voxtile_error;

// What a model is. Axes are the network's, the slowest first. Of a model of several networks, folds,
// patch, spacing and family are those of the last.
typedef struct voxtile_model_info {
    // sizeof(voxtile_model_info)
    uint32_t struct_size;
    // Input channels expected.
    uint32_t channels;
    // Labels, background included.
    uint32_t labels;
    // Networks that are averaged (cross-validation folds).
    uint32_t folds;
    // Voxels of a tile.
    int64_t patch[3];
    // Grid the network was trained on, mm; 0 is the volume's own.
    double spacing[3];
    // Weights of one fold of each network.
    uint64_t parameters;
    // 1 if the model is a demonstration that must not be used on patients.
    uint32_t demo;
    // 0
    uint32_t reserved;
    // Valid while the model lives.
    const char *name;
    // One sentence. Valid while the model lives.
    const char *description;
    // "stunet". Valid while the model lives.
    const char *family;
} voxtile_model_info;

// A label.
typedef struct voxtile_label {
    // sizeof(voxtile_label)
    uint32_t struct_size;
    // The value written into label maps.
    uint32_t value;
    // Red, green, blue; all 0 if the model names no colour.
    uint8_t rgb[3];
    // 1 if the model names a colour.
    uint8_t has_rgb;
    // 0
    uint32_t reserved;
    // Valid while the model lives.
    const char *name;
    // "SCT:10200004" or NULL. Valid while the model lives.
    const char *code;
} voxtile_label;

// Takes messages. Called on the thread that is inside a call of this library. `message` is valid
// for the call.
typedef void (*voxtile_log_fn)(void *user, int32_t level, const char *message);

// How a session is set up.
typedef struct voxtile_session_options {
    // sizeof(voxtile_session_options)
    uint32_t struct_size;
    // voxtile_device.id; 0 = the first GPU that voxtile's kernels cover, if it has room for the
    // network, else the processor, and then `log` is told why.
    uint32_t device;
    // 0 = all processors this process may use. Results do not depend on it.
    uint32_t threads;
    // How the network's values are held: VOXTILE_PRECISION_DEFAULT ...
    uint32_t precision;
    // Bytes that session and runs may allocate beyond the caller's buffers and the model; 0 = no
    // limit.
    uint64_t host_budget;
    // NULL = silent.
    voxtile_log_fn log;
    // Passed to `log`.
    void *log_user;
    // Bytes of a GPU's own memory that session and runs may allocate; 0 = what is free.
    uint64_t device_budget;
} voxtile_session_options;

// A volume. Borrowed for the call; never written. Voxel (i, j, k) lies at
// origin + direction * (spacing * (i, j, k)).
typedef struct voxtile_volume {
    // sizeof(voxtile_volume)
    uint32_t struct_size;
    // Element type: VOXTILE_U8 ...
    uint32_t dtype;
    // 0 = 1
    uint32_t channels;
    // 0
    uint32_t reserved;
    // Voxel (0, 0, 0) of channel 0; no alignment needed.
    const void *data;
    // Voxels along i, j, k.
    int64_t dims[3];
    // Bytes to the next voxel along i, j, k; may be negative. All 0 = dense, i fastest.
    int64_t strides[3];
    // Bytes to the next channel; 0 = dense.
    int64_t channel_stride;
    // mm along i, j, k.
    double spacing[3];
    // mm, LPS (as ITK and DICOM).
    double origin[3];
    // Row-major; columns are the directions of i, j, k in LPS. All 0 = identity.
    double direction[9];
    // Value = stored value * slope + intercept; slope 0 = 1.
    double slope;
    // See `slope`.
    double intercept;
} voxtile_volume;

// How far a run is.
typedef struct voxtile_progress {
    // Size of this struct in the library.
    uint32_t struct_size;
    // VOXTILE_PHASE_...
    uint32_t phase;
    // Network passes done.
    uint64_t done;
    // Network passes in all; 0 before it is known.
    uint64_t total;
    // Since the run began.
    double seconds;
} voxtile_progress;

// Follows a run, on the thread that called voxtile_run. Return non-zero to cancel.
typedef int32_t (*voxtile_progress_fn)(void *user, const struct voxtile_progress *progress);

// Probabilities of a box of voxels. Axes are those of the grid, the slowest first. The boxes of a
// run cover the grid, each label's voxels once.
typedef struct voxtile_probability_box {
    // Size of this struct in the library.
    uint32_t struct_size;
    // Number of `label_values`.
    uint32_t label_count;
    // Some or all of voxtile_output.probability_values. Valid for the call.
    const uint32_t *label_values;
    // Voxels of the whole grid. In a model of several networks each has its own
    // VOXTILE_GRID_NETWORK.
    int64_t grid[3];
    // First voxel of the box.
    int64_t start[3];
    // Voxels of the box.
    int64_t size[3];
    // [label_count][size[0]][size[1]][size[2]], dense, in [0, 1]. Valid for the call.
    const float *values;
} voxtile_probability_box;

// Takes probabilities, on the thread that called voxtile_run. Return non-zero to cancel.
typedef int32_t (*voxtile_probability_fn)(void *user, const struct voxtile_probability_box *found);

// A step that tidies up a label map. Each label is looked at on its own: a component is of voxels of
// one label.
typedef struct voxtile_cleanup {
    // sizeof(voxtile_cleanup)
    uint32_t struct_size;
    // VOXTILE_CLEANUP_LARGEST_COMPONENT ...
    uint32_t step;
    // 26 = voxels of a component touch by faces, edges or corners; 6 = by faces; 0 = 26. Must be 0
    // for VOXTILE_CLEANUP_FILL_HOLES.
    uint32_t connectivity;
    // Number of `labels`; 0 = every label but the background.
    uint32_t label_count;
    // Label values the step is for.
    const uint32_t *labels;
    // For VOXTILE_CLEANUP_MINIMUM_SIZE: the smallest size that stays, in mm^3; else 0.
    double minimum_mm3;
} voxtile_cleanup;

// What a run is asked to do.
typedef struct voxtile_run_options {
    // sizeof(voxtile_run_options)
    uint32_t struct_size;
    // 0 = off; 1 = average over mirrored copies along the axes the model allows.
    uint32_t mirror;
    // Distance of tiles as a fraction of the patch, in (0, 1]; 0 = 0.5.
    float tile_step;
    // Number of `keep`; 0 = keep all labels.
    uint32_t keep_count;
    // Label values to keep; others become 0 after the full argmax.
    const uint32_t *keep;
    // May be NULL.
    voxtile_progress_fn progress;
    // Passed to `progress`.
    void *progress_user;
    // What comes to the volume's grid: VOXTILE_EXPORT_SCORES ...
    uint32_t export_mode;
    // 0 = apply the model's postprocessing; 1 = leave it out.
    uint32_t raw;
    // First voxel of the wanted box along i, j, k. Labels inside it are those of a run on the whole
    // volume, outside it 0, and only tiles that can touch it are run. Probabilities are handed over
    // for the whole grid, but mean something inside it only.
    int64_t region_start[3];
    // Voxels of the wanted box along i, j, k. Start and size all 0 = the whole volume.
    int64_t region_size[3];
    // The wanted voxels are those that are not 0 here: [k][j][i], dense, a byte for each voxel of
    // the volume. NULL = none given. Box or mask, not both. Copied, which counts as memory of the
    // run.
    const uint8_t *region_mask;
    // 0 = run all tiles; 1 = leave out those that lie wholly below `skip_air_below`, which changes
    // labels near them; what no other tile covers is background.
    uint32_t skip_air;
    // In the volume's units after slope and intercept (HU in a CT), of its first channel. Must be
    // 0 if `skip_air` is.
    float skip_air_below;
    // How overlapping tiles are added up: VOXTILE_SUMS_F32 ...
    uint32_t accumulators;
    // Grid of probabilities: VOXTILE_GRID_VOLUME ...; the network's only with `probability`, and
    // voxtile_output.probabilities NULL.
    uint32_t probability_grid;
    // Takes the probabilities of voxtile_output.probability_values as they become final; the
    // output's own buffer may then be NULL, and the run needs no memory for all of them. May be
    // NULL.
    voxtile_probability_fn probability;
    // Passed to `probability`.
    void *probability_user;
    // Steps that tidy up the labels, in their order, after the model's own postprocessing and before
    // `keep`: structs one after the other, of the struct_size of the first.
    const struct voxtile_cleanup *cleanup;
    // Number of `cleanup`; 0 = none.
    uint32_t cleanup_count;
    // 0
    uint32_t reserved;
} voxtile_run_options;

// What a run will need, at most.
typedef struct voxtile_estimate {
    // sizeof(voxtile_estimate)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // Tiles of the volume.
    uint64_t tiles;
    // Tiles that are run, times mirrored copies, times folds. Tiles of air count, for they are not
    // known beforehand.
    uint64_t passes;
    // Bytes that session and run hold together at the peak, beyond the caller's buffers and the
    // model; a run never exceeds them.
    uint64_t host_bytes;
    // The smallest session budget that this run would do with.
    uint64_t least_host_bytes;
    // Planes that become labels at a time, at most, within the session's budget.
    uint32_t slab_planes;
    // 1 if the prepared volume is kept whole for the next network of the model.
    uint32_t prepared_kept;
    // What `host_bytes` and `device_bytes` are for: indices of voxtile_run_memory.
    uint32_t memory_parts;
    // 0
    uint32_t reserved_too;
    // Tiles that the region leaves out. Exact unless the volume has a side that is zero throughout;
    // then tiles lie elsewhere, and a few more or fewer may be run.
    uint64_t skipped_tiles;
    // Bytes of a GPU's own memory that session and run hold together at the peak; 0 on the
    // processor.
    uint64_t device_bytes;
    // The smallest voxtile_session_options.device_budget that this run would do with.
    uint64_t least_device_bytes;
} voxtile_estimate;

// The caller's buffers, dense on the input's own grid, [k][j][i].
typedef struct voxtile_output {
    // sizeof(voxtile_output)
    uint32_t struct_size;
    // VOXTILE_U8 (if all label values fit) or VOXTILE_U16.
    uint32_t labels_dtype;
    // NULL = not wanted.
    void *labels;
    // Bytes of `labels`: at least the product of dims times the element's size.
    size_t labels_size;
    // VOXTILE_U8 (255 = certain), VOXTILE_F16 or VOXTILE_F32.
    uint32_t probability_dtype;
    // Number of `probability_values`; 0 = none wanted.
    uint32_t probability_count;
    // Label values whose probabilities are wanted.
    const uint32_t *probability_values;
    // [count][k][j][i]. May be NULL if voxtile_run_options.probability takes them.
    void *probabilities;
    // Bytes of `probabilities`.
    size_t probabilities_size;
} voxtile_output;

// A part of a run's memory.
typedef struct voxtile_memory_part {
    // sizeof(voxtile_memory_part)
    uint32_t struct_size;
    // VOXTILE_PLACE_HOST or VOXTILE_PLACE_DEVICE
    uint32_t place;
    // Its size.
    uint64_t bytes;
    // "label map"
    char name[64];
} voxtile_memory_part;

// What the voxels of one label are. All 0 but struct_size and value if there are none.
typedef struct voxtile_label_statistics {
    // sizeof(voxtile_label_statistics)
    uint32_t struct_size;
    // The label's value, as asked for.
    uint32_t value;
    // How many voxels have it.
    uint64_t voxels;
    // Their volume in mL.
    double milliliters;
    // Mean of the volume's values there, after slope and intercept (HU in a CT).
    double mean;
    // Standard deviation of these values, of the voxels themselves, not of a sample.
    double deviation;
    // Lowest of these values.
    double minimum;
    // Highest of these values.
    double maximum;
    // First voxel of the box around them along i, j, k.
    int64_t box_start[3];
    // Voxels of this box along i, j, k.
    int64_t box_size[3];
    // Mean position of the voxels' centres, mm, LPS.
    double centroid[3];
} voxtile_label_statistics;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the library: 0x00MMmmpp.
VOXTILE_API uint32_t voxtile_version(void);

// "VOXTILE_E_BUSY"; static, never NULL.
VOXTILE_API const char *voxtile_status_name(voxtile_status status);

// Number of devices: the processor, and the GPUs that NVIDIA's driver sees.
VOXTILE_API uint32_t voxtile_device_count(void);

// Describes device `index`, counted from 0. Set `out->struct_size` first.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_device_get(uint32_t index,
                                  struct voxtile_device *out,
                                  struct voxtile_error *error);

// Opens the model package at `path`, one .safetensors file. The file is mapped: it must not
// change while the model or a session of it lives. Release the model with voxtile_model_release.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_model_open(const char *path,
                                  struct voxtile_model **out,
                                  struct voxtile_error *error);

// Opens a model package that lies in memory: the bytes of one .safetensors file. They are copied
// before the call returns and may be freed at once.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_model_open_memory(const void *data,
                                         size_t size,
                                         struct voxtile_model **out,
                                         struct voxtile_error *error);

// Describes a model. Set `out->struct_size` first.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_model_info_get(const struct voxtile_model *model,
                                      struct voxtile_model_info *out,
                                      struct voxtile_error *error);

// Describes label `index`, counted from 0, the background. Set `out->struct_size` first.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_model_label_get(const struct voxtile_model *model,
                                       uint32_t index,
                                       struct voxtile_label *out,
                                       struct voxtile_error *error);

// One more owner of the model: it lives until each owner has released it. NULL is fine.
VOXTILE_API void voxtile_model_retain(const struct voxtile_model *model);

// Gives up a model. NULL is fine; sessions keep what they need.
VOXTILE_API void voxtile_model_release(struct voxtile_model *model);

// Makes `model` ready on a device. `options` may be NULL for the defaults. Release the session
// with voxtile_session_release; it keeps what it needs of the model.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_session_create(const struct voxtile_model *model,
                                      const struct voxtile_session_options *options,
                                      struct voxtile_session **out,
                                      struct voxtile_error *error);

// Describes the device that a session runs on; its memory is what was free when the session was
// made. Set `out->struct_size` first.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_session_device_get(const struct voxtile_session *session,
                                          struct voxtile_device *out,
                                          struct voxtile_error *error);

// Ends a session and joins its threads. NULL is fine.
VOXTILE_API void voxtile_session_release(struct voxtile_session *session);

// Asks the run that is on, if any, to stop after its current tile. The one call meant for another
// thread while voxtile_run is running; NULL is fine.
VOXTILE_API void voxtile_session_cancel(const struct voxtile_session *session);

// Says what voxtile_run on `volume` with `options` would need for labels alone, at most; reads no
// voxel, so `volume->data` must be valid but may hold anything. A mask is read, for the tiles that
// it leaves out. `options` may be NULL for the defaults. Set `out->struct_size` first.
// Probabilities are not counted; voxtile_run_estimate_output counts them.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_run_estimate(const struct voxtile_session *session,
                                    const struct voxtile_volume *volume,
                                    const struct voxtile_run_options *options,
                                    struct voxtile_estimate *out,
                                    struct voxtile_error *error);

// As voxtile_run_estimate, for a run that fills `output`, with the probabilities it asks for. The
// buffers are not looked at, so that `labels` and `probabilities` may be NULL; with a function in
// run_options.probability, a NULL `probabilities` says that it alone takes them. `output` may be
// NULL: labels alone.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_run_estimate_output(const struct voxtile_session *session,
                                           const struct voxtile_volume *volume,
                                           const struct voxtile_run_options *options,
                                           const struct voxtile_output *output,
                                           struct voxtile_estimate *out,
                                           struct voxtile_error *error);

// Describes part `index` of the memory that voxtile_run_estimate_output says, counted from 0, the
// largest first; voxtile_estimate.memory_parts says how many there are. Those of the host add up to
// voxtile_estimate.host_bytes, those of the device to device_bytes. Set `out->struct_size` first.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_run_memory(const struct voxtile_session *session,
                                  const struct voxtile_volume *volume,
                                  const struct voxtile_run_options *options,
                                  const struct voxtile_output *output,
                                  uint32_t index,
                                  struct voxtile_memory_part *out,
                                  struct voxtile_error *error);

// Says how many seconds the network passes of voxtile_run on `volume` with `options` would take.
// Tiles that a box or a mask leaves out do not count, tiles of air do. The first call of a session
// measures, about a second for each network of the model; later ones are quick. What surrounds the
// network usually takes less than a tenth. VOXTILE_E_BUSY during a run.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_run_seconds(const struct voxtile_session *session,
                                   const struct voxtile_volume *volume,
                                   const struct voxtile_run_options *options,
                                   double *out,
                                   struct voxtile_error *error);

// Segments `volume` into the caller's buffers, which are written only on VOXTILE_OK. `options`
// may be NULL for the defaults.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_run(const struct voxtile_session *session,
                           const struct voxtile_volume *volume,
                           const struct voxtile_run_options *options,
                           const struct voxtile_output *output,
                           struct voxtile_error *error);

// Says what `count` labels of a label map cover, such as voxtile_run has filled: `labels` are
// dense [k][j][i] on the grid of `volume`, whose first channel gives the values. `values` are the
// labels' values, of which 0, the background, is not one; `out` are as many structs, each with its
// struct_size set. `threads` 0 = all processors; results do not depend on it. Copies the map.
VOXTILE_API
VOXTILE_CHECK
voxtile_status voxtile_statistics(const struct voxtile_volume *volume,
                                  uint32_t labels_dtype,
                                  const void *labels,
                                  size_t labels_size,
                                  const uint32_t *values,
                                  uint32_t count,
                                  uint32_t threads,
                                  struct voxtile_label_statistics *out,
                                  struct voxtile_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VOXTILE_H */
