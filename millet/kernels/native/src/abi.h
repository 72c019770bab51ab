// The C interface: plain structs that Python fills through ctypes (abi.py mirrors this file field by field).
//
// A model's forward is a list of `Op`s over rows of fp32 numbers; `millet_run` executes them all in one call. Nothing
// here knows a model: what the ops are and in which order is decided by the model's own Python code (kernels/plan.py).
//
// Shape legend: T rows of the batch, K inputs and F outputs of a matrix, H query heads, G key/value heads.
#pragma once
#include <cstdint>

extern "C" {

// Rows of fp32: row t begins at data + t * stride.
struct MilletRows {
    float* data;
    int64_t stride;
};

enum MilletFormat : int32_t { MILLET_F32 = 0, MILLET_F16 = 1, MILLET_Q8 = 2, MILLET_Q4_0 = 3, MILLET_Q4_1 = 4 };

// A matrix [F, K] in panels of 16 outputs; layout.h says how each format lays a panel out.
struct MilletMatrix {
    const uint8_t* data;
    int32_t format;
    int32_t outputs;
    int32_t inputs;
    int32_t reserved;
};

// y = matrix x (+ bias) (+ add), one of several products that an op computes side by side.
struct MilletProduct {
    MilletMatrix matrix;
    MilletRows x;
    MilletRows y;
    const float* bias;  // [F] or null
    MilletRows add;     // rows added to the result, or data == null
};

// NORM, ROTATE and COPY take a row as n[1] groups (heads) of n[0] numbers, n[3] apart in in[0] and n[4] in out[0].
enum MilletCode : int32_t {
    MILLET_EMBED = 0,    // out[0] = row ids[t] of products[0].matrix
    MILLET_NORM = 1,     // out[0] = RMSNorm of each group of in[0]; weight[0] [n[0]], f[0] eps
    MILLET_PRODUCTS = 2, // products[0 .. num_products); n[0] != 0: over the sampled rows; n[6] != 0: activations are
                         // quantised in parts of 16, not 32; n[7]: what is done to a row first (rows.h)
    MILLET_TURN = 3,     // out[0] [n[0]] = cos, then sin, of position * weight[0][i], times f[0]: n[0] = pairs
    MILLET_ROTATE = 4,   // out[0] = groups of in[0] turned by in[1]; n[0] = pairs; n[2] != 0: pairs lie side by side
    MILLET_ATTEND = 5,   // store in[1], in[2] in the cache, then out[0] = attention of in[0]; see attention.h
    MILLET_SWIGLU = 6,   // out[0] = silu(in[0]) * in[1], n[0] wide
    MILLET_ADD = 7,      // out[0] = in[0] + in[1], n[0] wide
    MILLET_COPY = 8,     // out[0] = in[0], group by group
    MILLET_PICK = 9,     // out[0][i] = in[0][sampled row i], n[0] wide
    MILLET_ROUTE = 10,   // choose experts; see experts.h
    MILLET_EXPERTS = 11, // run them
};

struct MilletOp {
    int32_t code;
    int32_t num_products;
    const MilletProduct* products;
    MilletRows in[3];
    MilletRows out[2];
    const void* weight[2];
    int64_t n[8];
    float f[4];
};

// `length` rows of the batch from `row` on: positions start .. start + length - 1 of one sequence, whose cache blocks
// are tables[table], tables[table + 1], ...
struct MilletSpan {
    int32_t row;
    int32_t length;
    int32_t start;
    int32_t table;
};

struct MilletBatch {
    int32_t rows;
    int32_t num_spans;
    int32_t num_sampled;
    int32_t num_threads;
    const int32_t* ids;        // [T]
    const int32_t* positions;  // [T]
    const MilletSpan* spans;   // covering all rows, in order
    const int32_t* tables;
    const int32_t* sampled;    // rows whose logits are wanted
};

}  // extern "C"
