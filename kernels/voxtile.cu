// Every kernel of the library: the one file that is compiled, by build.py for GPUs and by
// host/build.sh for the emulator.
#include "primitives.cuh"

#include "parameters.cuh"

#include "gather.cuh"
#include "mosaic.cuh"
#include "probabilities.cuh"
#include "classify.cuh"
#include "interpolate.cuh"
#include "intensity.cuh"
#include "resample.cuh"

#include "convolution_direct.cuh"
#include "convolution_mma.cuh"
#include "normalization.cuh"
#include "pool.cuh"
