// Matrix products y = W x (+ bias) (+ add) for all rows of a batch.
//
// Order of accumulation, the same for every number of rows, tile and thread: an output is one chain of fused
// multiply-adds over its inputs, in rising order. For integers the chain runs over groups of 32 inputs:
// acc += (weight scale * activation scale) * exact integer sum, and for q4_1 a second one for the offset.
//
// Work is shared out by panels of 16 outputs. A panel stays in the first-level cache while tiles of rows pass over it;
// rows are taken in blocks that stay there as well.
#pragma once
#include <algorithm>

#include "layout.h"
#include "pool.h"
#include "rows.h"
#include "simd.h"
#include "workspace.h"

namespace millet {
namespace MILLET_VARIANT {

constexpr int64_t BLOCK_BYTES = 16 << 10;  // of one block of rows
constexpr int64_t CHAIN = 128;              // inputs of a float product before the next tile of rows takes its turn
constexpr int64_t LONE_NUMBERS = 2048;      // inputs so few that every thread prepares its own copy: no barrier

// Weights are asked for this many bytes before they are needed. Processors fetch ahead by themselves, but not across
// pages, and a panel is a few pages long.
constexpr int64_t AHEAD = 2048;

// Rows quantised to int8, each part of 32 numbers (or of 16, where it is to be fine) by its own largest number.
struct Quantised {
    int8_t* q;       // [T, K]
    float* scale;    // [T, parts]
    int32_t* start;  // [T, parts]: -8 times the sum of the part's q, what a zero point of 8 adds
    float* sum;      // [T, parts]: scale times the sum, what an offset of 1 adds
    bool fine;
};

constexpr int FINE = GROUP / 2;

inline size_t quantised_bytes(int64_t rows, int64_t inputs) {
    return lines(rows * inputs) + 3 * lines(rows * inputs / FINE * 4);
}

inline Quantised carve_quantised(Carver& carver, int64_t rows, int64_t inputs, bool fine) {
    const int64_t parts = rows * inputs / (fine ? FINE : GROUP);
    Quantised x;
    x.q = carver.take<int8_t>(rows * inputs);
    x.scale = carver.take<float>(parts);
    x.start = carver.take<int32_t>(parts);
    x.sum = carver.take<float>(parts);
    x.fine = fine;
    return x;
}

template <int PART>
void quantise_parts(const float* x, int64_t inputs, const Quantised& to, int64_t row) {
    const int64_t parts = inputs / PART;
    for (int64_t g = 0; g < parts; g++) {
        const float* from = x + g * PART;
        int8_t* q = to.q + row * inputs + g * PART;
        vf most = zero();
        for (int i = 0; i < PART; i += W) {
            vf v = load(from + i);
            most = max(most, max(v, sub(zero(), v)));
        }
        const float magnitude = largest(most), inverse = magnitude > 0.0f ? 127.0f / magnitude : 0.0f;
        for (int i = 0; i < PART; i += W) store_bytes(q + i, mul(load(from + i), all(inverse)));
        int sum = 0;
        for (int i = 0; i < PART; i++) sum += q[i];
        const int64_t at = row * parts + g;
        to.scale[at] = magnitude / 127.0f;
        to.start[at] = -8 * sum;
        to.sum[at] = to.scale[at] * (float)sum;
    }
}

inline void quantise_row(const float* x, int64_t inputs, const Quantised& to, int64_t row) {
    if (to.fine) quantise_parts<FINE>(x, inputs, to, row);
    else quantise_parts<GROUP>(x, inputs, to, row);
}

// The integer sums of one part of a group for M rows, from quad `FROM` on. starts: see Quantised, `step` apart.
template <int FORMAT, int FROM, int COUNT, int M>
inline void part_sums(const vb* w, const int8_t* q, int64_t stride, const int32_t* starts, int64_t step, vf* sums) {
    vi total[M];
    MILLET_UNROLL
    for (int m = 0; m < M; m++) total[m] = all_int(FORMAT == MILLET_Q4_1 ? 0 : starts[m * step]);
    if (FORMAT == MILLET_Q8) {
        MILLET_UNROLL
        for (int m = 0; m < M; m++) total[m] = times16(total[m]);
        dots8<COUNT, M>(w + FROM, q + 4 * FROM, stride, total);
    } else {
        dots4<COUNT, M>(w + FROM, q + 4 * FROM, stride, total);
    }
    MILLET_UNROLL
    for (int m = 0; m < M; m++) sums[m] = to_float(total[m]);
}

// M rows by SUBS * W outputs of one panel, from output `first` of the panel on. c is [M][PANEL]. PARTS: of a group, each
// with an activation scale of its own; 1, or 2 where x is fine.
template <int FORMAT, int PARTS, int M, int SUBS>
void quantised_tile(const uint8_t* panel, int64_t inputs, int first, const Quantised& x, int64_t row, float* c) {
    const int64_t groups = inputs / GROUP;
    const uint16_t* scales = (const uint16_t*)(panel + scales_offset(FORMAT, inputs)) + first;
    const uint16_t* offsets = scales + groups * PANEL;
    vf acc[M][SUBS];
    MILLET_UNROLL
    for (int m = 0; m < M; m++)
        MILLET_UNROLL
        for (int s = 0; s < SUBS; s++) acc[m][s] = zero();
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t* bytes = panel + g * (FORMAT == MILLET_Q8 ? 512 : 256) + 4 * first;
        const int8_t* q = x.q + row * inputs + g * GROUP;
        const int64_t at = (row * groups + g) * PARTS;
        MILLET_UNROLL
        for (int i = 0; i < (FORMAT == MILLET_Q8 ? 8 : 4); i++) __builtin_prefetch(bytes + AHEAD + 64 * i);
        MILLET_UNROLL
        for (int s = 0; s < SUBS; s++) {
            vb w[QUADS];
            if (FORMAT == MILLET_Q8) {
                MILLET_UNROLL
                for (int i = 0; i < QUADS; i++) w[i] = load_bytes(bytes + 64 * i + 4 * W * s);
            } else {
                MILLET_UNROLL
                for (int i = 0; i < QUADS / 2; i++) {
                    vb both = load_bytes(bytes + 64 * i + 4 * W * s);
                    w[i] = low_nibbles(both);
                    w[i + QUADS / 2] = high_nibbles(both);
                }
            }
            const vf scale = load_half(scales + g * PANEL + s * W);
            vf offset = zero();
            if (FORMAT == MILLET_Q4_1) offset = load_half(offsets + g * PANEL + s * W);
            vf sum[M];
            if (PARTS == 1) {
                part_sums<FORMAT, 0, QUADS, M>(w, q, inputs, x.start + at, groups, sum);
                MILLET_UNROLL
                for (int m = 0; m < M; m++) {
                    const int64_t part = at + m * groups;
                    acc[m][s] = fma(sum[m], mul(scale, all(x.scale[part])), acc[m][s]);
                    if (FORMAT == MILLET_Q4_1) acc[m][s] = fma(offset, all(x.sum[part]), acc[m][s]);
                }
            } else {
                vf low[M];
                part_sums<FORMAT, 0, QUADS / 2, M>(w, q, inputs, x.start + at, 2 * groups, low);
                part_sums<FORMAT, QUADS / 2, QUADS / 2, M>(w, q, inputs, x.start + at + 1, 2 * groups, sum);
                MILLET_UNROLL
                for (int m = 0; m < M; m++) {
                    const int64_t part = at + 2 * m * groups;
                    sum[m] = fma(sum[m], all(x.scale[part + 1]), mul(low[m], all(x.scale[part])));
                    acc[m][s] = fma(sum[m], scale, acc[m][s]);
                    if (FORMAT == MILLET_Q4_1) acc[m][s] = fma(offset, all(x.sum[part] + x.sum[part + 1]), acc[m][s]);
                }
            }
        }
    }
    MILLET_UNROLL
    for (int m = 0; m < M; m++)
        MILLET_UNROLL
        for (int s = 0; s < SUBS; s++) store(c + m * PANEL + first + s * W, acc[m][s]);
}

// One panel over `rows` rows from `row` on, into c [rows][PANEL].
template <int FORMAT, int PARTS, int M>
void quantised_rows(const uint8_t* panel, int64_t inputs, const Quantised& x, int64_t row, int64_t rows, float* c) {
    constexpr int SUBS = PANEL / W;
    for (; rows >= M; row += M, rows -= M, c += M * PANEL) {
        if (M == 1) {
            quantised_tile<FORMAT, PARTS, M, SUBS>(panel, inputs, 0, x, row, c);
        } else {
            for (int s = 0; s < SUBS; s++) quantised_tile<FORMAT, PARTS, M, 1>(panel, inputs, s * W, x, row, c);
        }
    }
    if constexpr (M > 1) {
        if (rows > 0) quantised_rows<FORMAT, PARTS, M - 1>(panel, inputs, x, row, rows, c);
    }
}

template <int FORMAT>
void quantised_panel(const uint8_t* panel, int64_t inputs, const Quantised& x, int64_t row, int64_t rows, float* c) {
    if (x.fine) quantised_rows<FORMAT, 2, GROUP_ROWS>(panel, inputs, x, row, rows, c);
    else quantised_rows<FORMAT, 1, GROUP_ROWS>(panel, inputs, x, row, rows, c);
}

template <bool HALF>
inline vf load_weights(const uint8_t* panel, int64_t index) {
    return HALF ? load_half((const uint16_t*)panel + index) : load((const float*)panel + index);
}

// M rows by FLOAT_VECTORS * W outputs over inputs [from, to), continuing the chains in c [M][FLOAT_VECTORS * W].
template <bool HALF, int M>
void float_tile(const uint8_t* const* panels, int64_t from, int64_t to, const MilletRows& x, int64_t row, float* c) {
    constexpr int V = FLOAT_VECTORS, WIDTH = V * W;
    vf acc[M][V];
    const float* in[M];
    MILLET_UNROLL
    for (int m = 0; m < M; m++) {
        in[m] = x.data + (row + m) * x.stride;
        MILLET_UNROLL
        for (int v = 0; v < V; v++) acc[m][v] = from == 0 ? zero() : load(c + m * WIDTH + v * W);
    }
    for (int64_t k = from; k < to; k++) {
        vf w[V];
        MILLET_UNROLL
        for (int v = 0; v < V; v++) w[v] = load_weights<HALF>(panels[v * W / PANEL], k * PANEL + v * W % PANEL);
        MILLET_UNROLL
        for (int v = 0; v < V; v += PANEL / W) __builtin_prefetch(panels[v * W / PANEL] + k * (HALF ? 32 : 64) + AHEAD);
        MILLET_UNROLL
        for (int m = 0; m < M; m++) {
            const vf value = all(in[m][k]);
            MILLET_UNROLL
            for (int v = 0; v < V; v++) acc[m][v] = fma(value, w[v], acc[m][v]);
        }
    }
    MILLET_UNROLL
    for (int m = 0; m < M; m++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) store(c + m * WIDTH + v * W, acc[m][v]);
}

template <bool HALF, int M>
void float_rows(
    const uint8_t* const* panels, int64_t from, int64_t to, const MilletRows& x, int64_t row, int64_t rows, float* c
) {
    for (; rows >= M; row += M, rows -= M, c += M * FLOAT_VECTORS * W)
        float_tile<HALF, M>(panels, from, to, x, row, c);
    if constexpr (M > 1) {
        if (rows > 0) float_rows<HALF, M - 1>(panels, from, to, x, row, rows, c);
    }
}

// y = c (+ bias) (+ add) for one panel of `count` outputs; c is [rows][width], the panel's outputs first.
inline void finish_panel(
    const MilletProduct& product, int64_t panel, int64_t row, int64_t rows, const float* c, int64_t width
) {
    const int64_t output = panel * PANEL, count = std::min<int64_t>(PANEL, product.matrix.outputs - output);
    for (int64_t m = 0; m < rows; m++) {
        float* y = product.y.data + (row + m) * product.y.stride + output;
        const float* from = c + m * width;
        const float* bias = product.bias ? product.bias + output : nullptr;
        const float* more = product.add.data ? product.add.data + (row + m) * product.add.stride + output : nullptr;
        if (count == PANEL) {
            for (int i = 0; i < PANEL; i += W) {
                vf value = load(from + i);
                if (bias) value = add(value, load(bias + i));
                if (more) value = add(value, load(more + i));
                store(y + i, value);
            }
        } else {
            for (int64_t i = 0; i < count; i++) {
                float value = from[i];
                if (bias) value = value + bias[i];
                if (more) value = value + more[i];
                y[i] = value;
            }
        }
    }
}

// Panels [first, last) of one product over rows [row, row + rows).
inline void panel_range(
    const MilletProduct& product, int64_t first, int64_t last, const MilletRows& x, const Quantised& q, int64_t row,
    int64_t rows, float* c
) {
    const MilletMatrix& matrix = product.matrix;
    const int64_t inputs = matrix.inputs, size = panel_bytes(matrix.format, inputs);
    if (is_quantised(matrix.format)) {
        for (int64_t p = first; p < last; p++) {
            const uint8_t* panel = matrix.data + p * size;
            switch (matrix.format) {
                case MILLET_Q8: quantised_panel<MILLET_Q8>(panel, inputs, q, row, rows, c); break;
                case MILLET_Q4_0: quantised_panel<MILLET_Q4_0>(panel, inputs, q, row, rows, c); break;
                default: quantised_panel<MILLET_Q4_1>(panel, inputs, q, row, rows, c);
            }
            finish_panel(product, p, row, rows, c, PANEL);
        }
        return;
    }
    constexpr int WIDTH = FLOAT_VECTORS * W, AT_ONCE = WIDTH / PANEL > 0 ? WIDTH / PANEL : 1;
    static_assert(WIDTH % PANEL == 0, "a float tile is whole panels wide");
    for (int64_t p = first; p < last; p += AT_ONCE) {
        const uint8_t* panels[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) panels[i] = matrix.data + std::min(p + i, last - 1) * size;
        for (int64_t from = 0; from < inputs; from += CHAIN) {
            const int64_t to = std::min(from + CHAIN, inputs);
            if (matrix.format == MILLET_F16) float_rows<true, FLOAT_ROWS>(panels, from, to, x, row, rows, c);
            else float_rows<false, FLOAT_ROWS>(panels, from, to, x, row, rows, c);
        }
        for (int i = 0; i < AT_ONCE && p + i < last; i++) finish_panel(product, p + i, row, rows, c + i * PANEL, WIDTH);
    }
}

// Rows taken at a time, so that their inputs stay in the first-level cache. Measured: blocks that only fit the second
// level halve the speed where two threads share a core.
inline int64_t block_rows(int64_t rows, int64_t inputs, bool quantised) {
    const int64_t bytes = quantised ? inputs : std::min(inputs, CHAIN) * 4;
    return std::min(rows, std::max<int64_t>(BLOCK_BYTES / bytes / 8 * 8, 24));
}

// Numbers of a tile for the results of one block of rows, whichever kind of matrix asks for more.
inline int64_t tile_numbers(int64_t rows, int64_t inputs) {
    const int64_t block = std::max(block_rows(rows, inputs, true), block_rows(rows, inputs, false));
    return std::max<int64_t>(block, 1) * FLOAT_VECTORS * W + PANEL;
}

// What `products` needs of memory: of `shared` the inputs made ready for all threads, of `local` those made ready by one
// thread for itself, and the results of one block of rows.
inline void products_workspace(const MilletOp& op, int64_t rows, size_t& shared, size_t& local) {
    if (op.num_products == 0) return;
    const int64_t inputs = op.products[0].matrix.inputs;
    const size_t ready = lines(rows * inputs * 4) + quantised_bytes(rows, inputs);
    const size_t tile = lines(tile_numbers(rows, inputs) * 4);
    shared = std::max(shared, ready);
    local = std::max(local, tile + (rows * inputs <= LONE_NUMBERS ? ready : 0));
}

// Makes rows [begin, end) of the common input ready: the op's preparation (see rows.h), then quantised if any matrix is.
inline void make_ready(
    const MilletOp& op, int64_t begin, int64_t end, int64_t inputs, bool quantise, const MilletRows& x, const Quantised& q
) {
    for (int64_t t = begin; t < end; t++) {
        if (op.n[7] != PREPARE_NOTHING) prepare_row(op, t, inputs, x.data + t * x.stride);
        if (quantise) quantise_row(x.data + t * x.stride, inputs, q, t);
    }
}

inline void products(const Worker& worker, const MilletOp& op, int64_t rows, const Workspace& space) {
    const int64_t inputs = op.products[0].matrix.inputs;
    int64_t panels = 0;
    bool quantise = false;
    for (int i = 0; i < op.num_products; i++) {
        panels += num_panels(op.products[i].matrix.outputs);
        quantise = quantise || is_quantised(op.products[i].matrix.format);
    }
    Carver local(space.of(worker.index));
    float* c = local.take<float>(tile_numbers(rows, inputs));
    const bool prepared = op.n[7] != PREPARE_NOTHING, alone = rows * inputs <= LONE_NUMBERS;
    MilletRows x = op.products[0].x;
    Quantised q = {};
    if (prepared || quantise) {
        Carver shared(space.shared.as<uint8_t>());
        Carver& carver = alone ? local : shared;
        if (prepared) x = MilletRows{carver.take<float>(rows * inputs), inputs};
        if (quantise) q = carve_quantised(carver, rows, inputs, op.n[6] != 0);
        int64_t begin = 0, end = rows;
        if (!alone) worker.share(rows, begin, end);
        make_ready(op, begin, end, inputs, quantise, x, q);
        if (!alone) worker.barrier();
    }
    // Whole blocks of panels by turns, so that a core that is held up does not hold up the others.
    constexpr int64_t AT_ONCE = FLOAT_VECTORS * W / PANEL;
    int64_t chunk = (panels + worker.team.size * 6 - 1) / (worker.team.size * 6);
    chunk = (chunk + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    const int64_t block = block_rows(rows, inputs, quantise);
    for (int64_t from = worker.team.next() * chunk; from < panels; from = worker.team.next() * chunk) {
        for (int64_t row = 0; row < rows; row += block) {
            int64_t before = 0;
            for (int i = 0; i < op.num_products; i++) {
                const MilletProduct& product = op.products[i];
                const int64_t count = num_panels(product.matrix.outputs);
                const int64_t first = std::max<int64_t>(from - before, 0), last = std::min(from + chunk - before, count);
                if (first < last)
                    panel_range(product, first, last, prepared ? x : product.x, q, row, std::min(block, rows - row), c);
                before += count;
            }
        }
    }
}

}  // namespace MILLET_VARIANT
}  // namespace millet
