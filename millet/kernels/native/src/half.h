// Half precision (IEEE 754 binary16) to and from fp32 without special instructions; rounds to nearest, ties to even.
#pragma once
#include <cstdint>
#include <cstring>

namespace millet {

static inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7F800000 | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f;  // subnormal, exact
    return sign ? -value : value;
}

static inline uint16_t float_to_half(float value) {
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00);    // not a number
    if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);   // rounds to 65536 or more: infinity
    if (magnitude < 0x38800000) {                                    // below 2^-14: a multiple of 2^-24
        float scaled = float_of_bits(magnitude) + 0.5f;              // fp32 around 0.5 steps by 2^-24: it rounds
        return (uint16_t)(sign | (bits_of_float(scaled) - 0x3F000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xFFF + odd) >> 13));
}

}  // namespace millet
