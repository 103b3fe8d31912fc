// binary16 where the processor has no instruction for it.
#include "../primitives.cuh"

namespace emulator {

u16 portable_half_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    u16 sign = u16(bits >> 16 & 0x8000);
    u32 magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return u16(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);
    if (magnitude >= 0x38800000) { // normal: 13 bits of the significand go, to nearest even
        u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
        return u16(sign | ((rounded - 0x38000000) >> 13));
    }
    // Subnormal: adding 0.5 leaves multiples of 2^-24 in the significand, rounded to nearest even.
    float absolute;
    memcpy(&absolute, &magnitude, 4);
    absolute += 0.5f;
    memcpy(&bits, &absolute, 4);
    return u16(sign | (bits - 0x3f000000));
}

float portable_half_value(u16 bits) {
    u32 sign = u32(bits & 0x8000) << 16, magnitude = bits & 0x7fff, result;
    if (magnitude >= 0x7c00) {
        result = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
    } else if (magnitude >= 0x400) {
        result = sign | ((magnitude << 13) + 0x38000000);
    } else {
        float value = float(magnitude) * 0x1p-24f;
        memcpy(&result, &value, 4);
        result |= sign;
    }
    float value;
    memcpy(&value, &result, 4);
    return value;
}

} // namespace emulator
