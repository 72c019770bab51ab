// Putting matrices into the layout of layout.h, from fp32 and from GGUF's blocks, and reading them back.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "abi.h"
#include "half.h"
#include "layout.h"
#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace millet {
namespace {

// One output's group of 32 numbers to 4-bit (as q4_0: the number of largest magnitude becomes -8) or 8-bit.
void quantise_group(const float* x, int32_t format, uint8_t* q, uint16_t* scale) {
    float most = 0.0f;
    for (int i = 0; i < GROUP_INPUTS; i++)
        if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
    const bool eight = format == MILLET_Q8;
    const float step = eight ? std::fabs(most) / 127.0f : most / -8.0f;
    *scale = float_to_half(step);
    const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < GROUP_INPUTS; i++) {
        const int value = (int)std::nearbyintf(x[i] * inverse);
        q[i] = (uint8_t)(eight ? std::clamp(value, -127, 127) + 128 : std::clamp(value + 8, 0, 15));
    }
}

void place_group(uint8_t* panel, int32_t format, int64_t group, int64_t lane, const uint8_t* q) {
    if (format == MILLET_Q8) {
        uint8_t* to = panel + group * 512 + lane * 4;
        for (int i = 0; i < 8; i++) std::memcpy(to + 64 * i, q + 4 * i, 4);
        return;
    }
    uint8_t* to = panel + group * 256 + lane * 4;
    for (int i = 0; i < 16; i++) to[i / 4 * 64 + i % 4] = (uint8_t)(q[i] | q[16 + i] << 4);
}

void pack_row(const float* from, int64_t inputs, int32_t format, uint8_t* panel, int64_t lane) {
    if (format == MILLET_F32) {
        for (int64_t k = 0; k < inputs; k++) ((float*)panel)[k * PANEL_OUTPUTS + lane] = from[k];
        return;
    }
    if (format == MILLET_F16) {
        for (int64_t k = 0; k < inputs; k++) ((uint16_t*)panel)[k * PANEL_OUTPUTS + lane] = float_to_half(from[k]);
        return;
    }
    uint16_t* scales = (uint16_t*)(panel + scales_offset(format, inputs));
    for (int64_t g = 0; g < inputs / GROUP_INPUTS; g++) {
        uint8_t q[GROUP_INPUTS];
        quantise_group(from + g * GROUP_INPUTS, format, q, scales + g * PANEL_OUTPUTS + lane);
        place_group(panel, format, g, lane, q);
    }
}

// One output's blocks of a GGUF tensor of the matching type: Q8_0 (fp16 scale, 32 int8), Q4_0 (scale, 16 bytes of
// halves), Q4_1 (scale, offset, 16 bytes), F16, F32.
void pack_gguf_row(const uint8_t* from, int64_t inputs, int32_t format, uint8_t* panel, int64_t lane) {
    if (format == MILLET_F32) {
        for (int64_t k = 0; k < inputs; k++) std::memcpy(panel + (k * PANEL_OUTPUTS + lane) * 4, from + 4 * k, 4);
        return;
    }
    if (format == MILLET_F16) {
        for (int64_t k = 0; k < inputs; k++) std::memcpy(panel + (k * PANEL_OUTPUTS + lane) * 2, from + 2 * k, 2);
        return;
    }
    const int64_t groups = inputs / GROUP_INPUTS;
    uint16_t* scales = (uint16_t*)(panel + scales_offset(format, inputs));
    for (int64_t g = 0; g < groups; g++) {
        std::memcpy(scales + g * PANEL_OUTPUTS + lane, from, 2);
        from += 2;
        if (format == MILLET_Q4_1) {
            std::memcpy(scales + (groups + g) * PANEL_OUTPUTS + lane, from, 2);
            from += 2;
        }
        const int quads = format == MILLET_Q8 ? 8 : 4;
        uint8_t* to = panel + g * group_bytes(format) + lane * 4;
        for (int i = 0; i < quads; i++) {
            uint32_t quad;
            std::memcpy(&quad, from + 4 * i, 4);
            if (format == MILLET_Q8) quad ^= 0x80808080u;
            std::memcpy(to + 64 * i, &quad, 4);
        }
        from += 4 * quads;
    }
}

void unpack_row(const MilletMatrix& matrix, int64_t row, float* out) {
    const int64_t inputs = matrix.inputs, groups = inputs / GROUP_INPUTS, lane = row % PANEL_OUTPUTS;
    const uint8_t* panel = matrix.data + row / PANEL_OUTPUTS * panel_bytes(matrix.format, inputs);
    const uint16_t* scales = (const uint16_t*)(panel + scales_offset(matrix.format, inputs));
    for (int64_t k = 0; k < inputs; k++) {
        const int64_t g = k / GROUP_INPUTS, i = k % GROUP_INPUTS;
        switch (matrix.format) {
            case MILLET_F32: out[k] = ((const float*)panel)[k * PANEL_OUTPUTS + lane]; break;
            case MILLET_F16: out[k] = half_to_float(((const uint16_t*)panel)[k * PANEL_OUTPUTS + lane]); break;
            case MILLET_Q8:
                out[k] = half_to_float(scales[g * PANEL_OUTPUTS + lane]) *
                         (float)((int)panel[g * 512 + i / 4 * 64 + lane * 4 + i % 4] - 128);
                break;
            default: {
                const int both = panel[g * 256 + i % 16 / 4 * 64 + lane * 4 + i % 4], q = i < 16 ? both & 15 : both >> 4;
                const float scale = half_to_float(scales[g * PANEL_OUTPUTS + lane]);
                out[k] = matrix.format == MILLET_Q4_0
                             ? scale * (float)(q - 8)
                             : scale * (float)q + half_to_float(scales[(groups + g) * PANEL_OUTPUTS + lane]);
            }
        }
    }
}

template <class PackRow>
void pack_all(const MilletMatrix& to, int32_t threads, const PackRow& pack) {
    run_parallel(threads, [&](const Worker& worker) {
        const int64_t size = panel_bytes(to.format, to.inputs), panels = num_panels(to.outputs);
        int64_t begin, end;
        worker.share(panels, begin, end);
        for (int64_t p = begin; p < end; p++) {
            uint8_t* panel = const_cast<uint8_t*>(to.data) + p * size;
            if ((p + 1) * PANEL_OUTPUTS > to.outputs) std::memset(panel, 0, size);
            else std::memset(panel + size - 64, 0, 64);  // padding is somewhere in there, and may go to disk
            for (int64_t lane = 0; lane < PANEL_OUTPUTS && p * PANEL_OUTPUTS + lane < to.outputs; lane++)
                pack(p * PANEL_OUTPUTS + lane, panel, lane);
        }
    });
}

}  // namespace
}  // namespace millet

// Bytes of a packed matrix.
EXPORT int64_t millet_matrix_bytes(int32_t format, int64_t outputs, int64_t inputs) {
    return millet::num_panels(outputs) * millet::panel_bytes(format, inputs);
}

// From fp32 rows at data + row * stride (in numbers), quantised if the format says so.
EXPORT void millet_pack(const float* data, int64_t stride, const MilletMatrix* to, int32_t threads) {
    millet::pack_all(*to, threads, [&](int64_t row, uint8_t* panel, int64_t lane) {
        millet::pack_row(data + row * stride, to->inputs, to->format, panel, lane);
    });
}

// From the bytes of a GGUF tensor of the matching type. Output r is the tensor's row source[r], or r where source is null.
EXPORT void millet_pack_gguf(
    const uint8_t* data, int64_t row_bytes, const int64_t* source, const MilletMatrix* to, int32_t threads
) {
    millet::pack_all(*to, threads, [&](int64_t row, uint8_t* panel, int64_t lane) {
        millet::pack_gguf_row(data + (source ? source[row] : row) * row_bytes, to->inputs, to->format, panel, lane);
    });
}

// Back to fp32 rows [outputs, inputs].
EXPORT void millet_unpack(const MilletMatrix* from, float* out, int32_t threads) {
    millet::run_parallel(threads, [&](const millet::Worker& worker) {
        int64_t begin, end;
        worker.share(from->outputs, begin, end);
        for (int64_t row = begin; row < end; row++) millet::unpack_row(*from, row, out + row * from->inputs);
    });
}
