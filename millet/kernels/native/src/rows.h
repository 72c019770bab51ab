// Operations on one row at a time: norm, gated activation, rotation, sums.
#pragma once
#include <cmath>

#include "abi.h"
#include "layout.h"
#include "simd.h"

namespace millet {
namespace MILLET_VARIANT {

// What an op does to a row before it multiplies it (n[7] of MILLET_PRODUCTS): an operation of its own would cost a
// barrier and a trip through memory.
enum : int64_t {
    PREPARE_NOTHING = 0,
    PREPARE_NORM = 1,    // RMSNorm of in[0]; weight[0], f[0]
    PREPARE_SWIGLU = 2,  // silu(in[0]) * in[1]
};

// x / sqrt(mean(x^2) + eps) * weight. The squares are summed lane by lane, then across lanes.
inline void norm_row(const float* x, const float* weight, float eps, int64_t width, float* out) {
    vf squares = zero();
    int64_t i = 0;
    for (; i + W <= width; i += W) {
        vf v = load(x + i);
        squares = fma(v, v, squares);
    }
    float sum = total(squares);
    for (; i < width; i++) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / (float)width + eps);
    for (i = 0; i + W <= width; i += W) store(out + i, mul(mul(load(x + i), all(factor)), load(weight + i)));
    for (; i < width; i++) out[i] = x[i] * factor * weight[i];
}

inline vf silu(vf x) { return div(x, add(all(1.0f), exponential(sub(zero(), x)))); }

// The rest of a row that does not fill a vector, as a whole one padded with zeros.
inline vf load_rest(const float* x, int64_t count) {
    float padded[W] = {};
    for (int64_t i = 0; i < count; i++) padded[i] = x[i];
    return load(padded);
}

inline void store_rest(float* out, vf x, int64_t count) {
    float padded[W];
    store(padded, x);
    for (int64_t i = 0; i < count; i++) out[i] = padded[i];
}

inline void swiglu_row(const float* gate, const float* up, int64_t width, float* out) {
    int64_t i = 0;
    for (; i + W <= width; i += W) store(out + i, mul(silu(load(gate + i)), load(up + i)));
    if (i < width) store_rest(out + i, mul(silu(load_rest(gate + i, width - i)), load_rest(up + i, width - i)), width - i);
}

inline void add_row(const float* a, const float* b, int64_t width, float* out) {
    int64_t i = 0;
    for (; i + W <= width; i += W) store(out + i, add(load(a + i), load(b + i)));
    for (; i < width; i++) out[i] = a[i] + b[i];
}

// cos and sin of position * frequency, [pairs] each. In double: fp32 would lose digits of large angles to no one's gain,
// but the product is fp32's, as every reference has it.
inline void turn_row(int32_t position, const float* frequencies, int64_t pairs, float magnitude, float* out) {
    for (int64_t i = 0; i < pairs; i++) {
        const double angle = (double)((float)position * frequencies[i]);
        out[i] = (float)std::cos(angle) * magnitude;
        out[pairs + i] = (float)std::sin(angle) * magnitude;
    }
}

// (a, b) -> (a cos - b sin, b cos + a sin) for the pairs of one head.
inline void rotate_head(const float* x, const float* turn, int64_t pairs, bool side_by_side, float* out) {
    const float *cosine = turn, *sine = turn + pairs;
    int64_t i = 0;
    if (side_by_side) {
        for (; i < pairs; i++) {
            const float a = x[2 * i], b = x[2 * i + 1];
            out[2 * i] = a * cosine[i] - b * sine[i];
            out[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
        return;
    }
    for (; i + W <= pairs; i += W) {
        const vf a = load(x + i), b = load(x + pairs + i), c = load(cosine + i), s = load(sine + i);
        store(out + i, sub(mul(a, c), mul(b, s)));
        store(out + pairs + i, add(mul(b, c), mul(a, s)));
    }
    for (; i < pairs; i++) {
        const float a = x[i], b = x[pairs + i];
        out[i] = a * cosine[i] - b * sine[i];
        out[pairs + i] = b * cosine[i] + a * sine[i];
    }
}

inline void prepare_row(const MilletOp& op, int64_t t, int64_t width, float* out) {
    const float* first = op.in[0].data + t * op.in[0].stride;
    if (op.n[7] == PREPARE_NORM) norm_row(first, (const float*)op.weight[0], op.f[0], width, out);
    else swiglu_row(first, op.in[1].data + t * op.in[1].stride, width, out);
}

// Row `index` of a packed matrix, as fp32.
inline void read_row(const MilletMatrix& matrix, int64_t index, float* out) {
    const int64_t inputs = matrix.inputs, groups = inputs / GROUP, lane = index % PANEL;
    const uint8_t* panel = matrix.data + index / PANEL * panel_bytes(matrix.format, inputs);
    if (matrix.format == MILLET_F32) {
        for (int64_t k = 0; k < inputs; k++) out[k] = ((const float*)panel)[k * PANEL + lane];
        return;
    }
    if (matrix.format == MILLET_F16) {
        for (int64_t k = 0; k < inputs; k++) out[k] = half_to_float(((const uint16_t*)panel)[k * PANEL + lane]);
        return;
    }
    const uint16_t* scales = (const uint16_t*)(panel + scales_offset(matrix.format, inputs));
    for (int64_t g = 0; g < groups; g++) {
        const float scale = half_to_float(scales[g * PANEL + lane]);
        const float offset =
            matrix.format == MILLET_Q4_1 ? half_to_float(scales[(groups + g) * PANEL + lane]) : 0.0f;
        for (int64_t k = 0; k < GROUP; k++) {
            int q;
            if (matrix.format == MILLET_Q8) {
                q = (int)panel[g * 512 + k / 4 * 64 + lane * 4 + k % 4] - 128;
            } else {
                const int both = panel[g * 256 + k % 16 / 4 * 64 + lane * 4 + k % 4];
                q = (k < 16 ? both & 15 : both >> 4) - (matrix.format == MILLET_Q4_0 ? 8 : 0);
            }
            out[g * GROUP + k] = matrix.format == MILLET_Q4_1 ? (float)q * scale + offset : (float)q * scale;
        }
    }
}

}  // namespace MILLET_VARIANT
}  // namespace millet
