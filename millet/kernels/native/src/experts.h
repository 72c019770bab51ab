// Mixture of experts: the choice, and the chosen experts' work.
//
// MILLET_ROUTE: in[0] router logits [T, E]; out[0] [T, 2 J]: J chosen experts (as int32), then their weights, best first.
//   n: 0 E, 1 J, 2 groups, 3 groups kept, 4 scores by sigmoid (else softmax), 5 weights normalised, 6 a group counts as
//   the sum of its two best (else as its best); weight[0]: correction bias [E] or null; f[0]: factor of the weights.
// MILLET_EXPERTS: in[0] x [T, D], in[1] what ROUTE wrote; out[0] [T, D]: the sum over j = 0, 1, ... of weight j times
//   expert j's output, in this order. products: gate, up, down of expert 0, of expert 1, ...; n: 0 J, 1 F.
// Rows are sorted by expert, so that an expert runs once, on its own rows.
#pragma once
#include <algorithm>
#include <cmath>

#include "pool.h"
#include "products.h"
#include "rows.h"
#include "workspace.h"

namespace millet {
namespace MILLET_VARIANT {

constexpr int64_t MOST_EXPERTS = 1024;

inline void route_row(const MilletOp& op, int64_t t) {
    const int64_t experts = op.n[0], chosen = op.n[1], groups = op.n[2], kept = op.n[3], size = experts / groups;
    const float* logits = op.in[0].data + t * op.in[0].stride;
    float* out = op.out[0].data + t * op.out[0].stride;
    const float* bias = (const float*)op.weight[0];
    float scores[MOST_EXPERTS], choice[MOST_EXPERTS];
    if (op.n[4]) {
        for (int64_t e = 0; e < experts; e++) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    } else {
        const float most = *std::max_element(logits, logits + experts);
        float sum = 0.0f;
        for (int64_t e = 0; e < experts; e++) sum += scores[e] = std::exp(logits[e] - most);
        for (int64_t e = 0; e < experts; e++) scores[e] /= sum;
    }
    for (int64_t e = 0; e < experts; e++) choice[e] = bias ? scores[e] + bias[e] : scores[e];
    if (kept < groups) {
        float value[MOST_EXPERTS];
        bool keep[MOST_EXPERTS] = {};
        for (int64_t g = 0; g < groups; g++) {
            float first = -INFINITY, second = -INFINITY;
            for (int64_t e = g * size; e < (g + 1) * size; e++) {
                if (choice[e] > first) second = first, first = choice[e];
                else if (choice[e] > second) second = choice[e];
            }
            value[g] = op.n[6] && size > 1 ? first + second : first;
        }
        for (int64_t i = 0; i < kept; i++) {
            int64_t best = -1;
            for (int64_t g = 0; g < groups; g++)
                if (!keep[g] && (best < 0 || value[g] > value[best])) best = g;
            keep[best] = true;
        }
        // -inf, not 0: a kept expert's score plus bias may be negative.
        for (int64_t e = 0; e < experts; e++)
            if (!keep[e / size]) choice[e] = -INFINITY;
    }
    int32_t* indices = (int32_t*)out;
    float sum = 0.0f;
    bool taken[MOST_EXPERTS] = {};
    for (int64_t j = 0; j < chosen; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || choice[e] > choice[best])) best = e;
        taken[best] = true;
        indices[j] = (int32_t)best;
        out[chosen + j] = scores[best];
        sum += scores[best];
    }
    for (int64_t j = 0; j < chosen; j++) {
        if (op.n[5]) out[chosen + j] /= sum + 1e-20f;
        out[chosen + j] *= op.f[0];
    }
}

inline void experts_workspace(const MilletOp& op, int64_t rows, size_t& shared, size_t& local) {
    const int64_t pairs = rows * op.n[0], width = op.products[0].matrix.inputs, hidden = op.n[1];
    const int64_t experts = op.num_products / 3;
    shared = std::max<size_t>(
        shared, lines((experts + 1) * 4) + lines(pairs * 4) * 2 + lines(pairs * width * 4) * 2 + lines(pairs * hidden * 4) * 2 +
                    quantised_bytes(pairs, std::max(width, hidden)) + 64
    );
    local = std::max<size_t>(local, lines(std::max<int64_t>(pairs, 1) * FLOAT_VECTORS * W * 4 + PANEL * 4));
}

// One matrix of every expert over that expert's own rows: which = 0 gate, 1 up, 2 down. Tasks: expert by panels of two.
inline void expert_products(
    const Worker& worker, const MilletOp& op, int64_t which, const int32_t* starts, const MilletRows& x, const Quantised& q,
    const MilletRows& y, float* c
) {
    const int64_t experts = op.num_products / 3, panels = num_panels(op.products[which].matrix.outputs);
    const int64_t step = 2 * std::max(1, FLOAT_VECTORS * W / PANEL), tasks = (panels + step - 1) / step;
    for (int64_t task = worker.team.next(); task < experts * tasks; task = worker.team.next()) {
        const int64_t expert = task / tasks, first = task % tasks * step, rows = starts[expert + 1] - starts[expert];
        if (rows == 0) continue;
        MilletProduct product = op.products[3 * expert + which];
        product.y = y;
        panel_range(product, first, std::min(first + step, panels), x, q, starts[expert], rows, c);
    }
}

inline void experts(const Worker& worker, const MilletOp& op, int64_t rows, const Workspace& space) {
    const int64_t chosen = op.n[0], hidden = op.n[1], pairs = rows * chosen, count = op.num_products / 3;
    const int64_t width = op.products[0].matrix.inputs;
    bool quantise = false, quantise_down = false;  // each matrix has a format of its own
    for (int64_t e = 0; e < count; e++) {
        const MilletProduct* expert = op.products + 3 * e;
        quantise = quantise || is_quantised(expert[0].matrix.format) || is_quantised(expert[1].matrix.format);
        quantise_down = quantise_down || is_quantised(expert[2].matrix.format);
    }
    Carver shared(space.shared.as<uint8_t>());
    int32_t* starts = shared.take<int32_t>(count + 1);  // where each expert's rows begin
    int32_t* pair_of = shared.take<int32_t>(pairs);     // sorted row -> (token, choice)
    int32_t* row_of = shared.take<int32_t>(pairs);      // and back
    const MilletRows x{shared.take<float>(pairs * width), width}, out{shared.take<float>(pairs * width), width};
    const MilletRows gate{shared.take<float>(pairs * hidden), hidden}, up{shared.take<float>(pairs * hidden), hidden};
    uint8_t* rest = space.shared.as<uint8_t>() + shared.used;
    float* c = Carver(space.of(worker.index)).take<float>(0);
    auto expert_of = [&](int64_t pair) {
        return ((const int32_t*)(op.in[1].data + pair / chosen * op.in[1].stride))[pair % chosen];
    };
    if (worker.index == 0) {
        std::fill(starts, starts + count + 1, 0);
        for (int64_t p = 0; p < pairs; p++) starts[expert_of(p) + 1]++;
        for (int64_t e = 0; e < count; e++) starts[e + 1] += starts[e];
        for (int64_t p = 0; p < pairs; p++) {
            const int32_t row = starts[expert_of(p)]++;
            pair_of[row] = (int32_t)p;
            row_of[p] = row;
        }
        for (int64_t e = count; e > 0; e--) starts[e] = starts[e - 1];
        starts[0] = 0;
    }
    worker.barrier();
    int64_t begin, end;
    worker.share(pairs, begin, end);
    Carver first(rest), second(rest);
    const Quantised q = quantise ? carve_quantised(first, pairs, width, false) : Quantised{};
    for (int64_t r = begin; r < end; r++) {
        const float* from = op.in[0].data + pair_of[r] / chosen * op.in[0].stride;
        std::copy(from, from + width, x.data + r * width);
        if (quantise) quantise_row(from, width, q, r);
    }
    worker.barrier();
    expert_products(worker, op, 0, starts, x, q, gate, c);
    worker.barrier();
    expert_products(worker, op, 1, starts, x, q, up, c);
    worker.barrier();
    const Quantised q_down = quantise_down ? carve_quantised(second, pairs, hidden, false) : Quantised{};
    for (int64_t r = begin; r < end; r++) {
        float* row = gate.data + r * hidden;
        swiglu_row(row, up.data + r * hidden, hidden, row);
        if (quantise_down) quantise_row(row, hidden, q_down, r);
    }
    worker.barrier();
    expert_products(worker, op, 2, starts, gate, q_down, out, c);
    worker.barrier();
    worker.share(rows, begin, end);
    for (int64_t t = begin; t < end; t++) {
        const float* weights = op.in[1].data + t * op.in[1].stride + chosen;
        float* y = op.out[0].data + t * op.out[0].stride;
        for (int64_t i = 0; i < width; i++) {
            float sum = 0.0f;
            for (int64_t j = 0; j < chosen; j++) sum += weights[j] * out.data[row_of[t * chosen + j] * width + i];
            y[i] = sum;
        }
    }
}

}  // namespace MILLET_VARIANT
}  // namespace millet
