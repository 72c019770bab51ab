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

// One vector of a quantised panel, four inputs by 16 outputs: to[input][output].
void unpack_quad(const uint8_t* quad, int shift, uint32_t mask, int zero, const float* scale, const float* offset, float* to) {
    for (int i = 0; i < 4; i++)
        for (int64_t lane = 0; lane < PANEL_OUTPUTS; lane++) {
            uint32_t four;
            std::memcpy(&four, quad + 4 * lane, 4);
            const int q = (int)(four >> (8 * i + shift) & mask) - zero;
            to[i * PANEL_OUTPUTS + lane] = scale[lane] * (float)q + offset[lane];
        }
}

// Inputs [32 g, 32 g + 32) of a panel: to[input][output].
void unpack_group(const uint8_t* panel, int32_t format, int64_t inputs, int64_t g, float* to) {
    const int64_t groups = inputs / GROUP_INPUTS;
    const uint16_t* scales = (const uint16_t*)(panel + scales_offset(format, inputs)) + g * PANEL_OUTPUTS;
    float scale[PANEL_OUTPUTS], offset[PANEL_OUTPUTS];
    for (int64_t lane = 0; lane < PANEL_OUTPUTS; lane++) {
        scale[lane] = half_to_float(scales[lane]);
        offset[lane] = format == MILLET_Q4_1 ? half_to_float(scales[groups * PANEL_OUTPUTS + lane]) : 0.0f;
    }
    const uint8_t* from = panel + g * group_bytes(format);
    if (format == MILLET_Q8) {
        for (int i = 0; i < 8; i++, to += 4 * PANEL_OUTPUTS) unpack_quad(from + 64 * i, 0, 255, 128, scale, offset, to);
        return;
    }
    const int zero = format == MILLET_Q4_0 ? 8 : 0;
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 4; i++, to += 4 * PANEL_OUTPUTS)
            unpack_quad(from + 64 * i, 4 * half, 15, zero, scale, offset, to);
}

// Inputs [first, first + count) of a panel: to[input][output]. Of quantised ones whole groups.
void unpack_inputs(const uint8_t* panel, int32_t format, int64_t inputs, int64_t first, int64_t count, float* to) {
    const int64_t from = first * PANEL_OUTPUTS, numbers = count * PANEL_OUTPUTS;
    switch (format) {
        case MILLET_F32: std::memcpy(to, (const float*)panel + from, numbers * 4); break;
        case MILLET_F16:
            for (int64_t i = 0; i < numbers; i++) to[i] = half_to_float(((const uint16_t*)panel)[from + i]);
            break;
        default: unpack_group(panel, format, inputs, first / GROUP_INPUTS, to);
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

// Back to fp32: [outputs, inputs], or the other way round where it is to be transposed.
EXPORT void millet_unpack(const MilletMatrix* from, float* out, int32_t transposed, int32_t threads) {
    using namespace millet;
    const int64_t inputs = from->inputs, outputs = from->outputs;
    run_parallel(threads, [&](const Worker& worker) {
        float numbers[GROUP_INPUTS * PANEL_OUTPUTS];
        int64_t begin, end;
        worker.share(num_panels(outputs), begin, end);
        for (int64_t p = begin; p < end; p++) {
            const uint8_t* panel = from->data + p * panel_bytes(from->format, inputs);
            const int64_t output = p * PANEL_OUTPUTS, lanes = std::min(PANEL_OUTPUTS, outputs - output);
            for (int64_t k = 0; k < inputs; k += GROUP_INPUTS) {
                const int64_t count = std::min(GROUP_INPUTS, inputs - k);
                unpack_inputs(panel, from->format, inputs, k, count, numbers);
                if (transposed) {
                    for (int64_t i = 0; i < count; i++)
                        std::memcpy(out + (k + i) * outputs + output, numbers + i * PANEL_OUTPUTS, lanes * 4);
                } else {
                    for (int64_t lane = 0; lane < lanes; lane++)
                        for (int64_t i = 0; i < count; i++)
                            out[(output + lane) * inputs + k + i] = numbers[i * PANEL_OUTPUTS + lane];
                }
            }
        }
    });
}
