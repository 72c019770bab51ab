// How packed matrices lie in memory: panels of 16 outputs, each holding all inputs, one after the other.
//
//   f32, f16   [K][16]: the 16 weights of one input side by side.
//   q8         groups of 32 inputs: [K/32] x 8 vectors of 64 bytes; vector i holds inputs 4i .. 4i+3 of each of the 16
//              outputs, as unsigned bytes w + 128; then [K/32][16] fp16 scales.
//   q4_0       [K/32] x 4 vectors of 64 bytes: the low halves of vector i are inputs 4i .. 4i+3, the high halves inputs
//              16 + 4i .. (GGUF's own pairing, so packing only moves bytes); value = scale * (q - 8); then the scales.
//   q4_1       the same; value = scale * q + offset; then [K/32][16] scales and [K/32][16] offsets.
//
// A vector of four inputs by 16 outputs is what one integer dot product takes; narrower processors take its halves or
// quarters. Panels begin at multiples of 64 bytes. Outputs beyond the last are zeros that nobody reads.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi.h"

namespace millet {

constexpr int64_t PANEL_OUTPUTS = 16;
constexpr int64_t GROUP_INPUTS = 32;

inline int64_t num_panels(int64_t outputs) { return (outputs + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS; }

inline int64_t group_bytes(int32_t format) { return format == MILLET_Q8 ? 512 : 256; }

// From a panel's start to its scales.
inline int64_t scales_offset(int32_t format, int64_t inputs) { return inputs / GROUP_INPUTS * group_bytes(format); }

inline int64_t panel_bytes(int32_t format, int64_t inputs) {
    int64_t groups = inputs / GROUP_INPUTS, bytes = 0;
    switch (format) {
        case MILLET_F32: bytes = inputs * 64; break;
        case MILLET_F16: bytes = inputs * 32; break;
        case MILLET_Q8: bytes = groups * (512 + 32); break;
        case MILLET_Q4_0: bytes = groups * (256 + 32); break;
        case MILLET_Q4_1: bytes = groups * (256 + 64); break;
    }
    return (bytes + 63) / 64 * 64;
}

inline bool is_quantised(int32_t format) { return format >= MILLET_Q8; }

}  // namespace millet
