// Choosing a token from a row of logits: see sample.h for the contract.
#pragma once
#include <algorithm>
#include <cmath>

#include "rows.h"
#include "sample.h"
#include "simd.h"

namespace millet {
namespace MILLET_VARIANT {

constexpr int64_t CHUNK = 1024;    // numbers summed in fp32 before they join a sum in double
constexpr float COLDEST = 1e-5f;   // below this temperature the choice is the largest

inline float largest_of(const float* x, int64_t count) {
    vf best = all(-INFINITY);
    int64_t i = 0;
    for (; i + W <= count; i += W) best = max(best, load(x + i));
    float most = largest(best);
    for (; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

inline int32_t first_of_largest(const float* x, int64_t count) {
    const float most = largest_of(x, count);
    for (int64_t i = 0; i < count; i++)
        if (x[i] == most) return (int32_t)i;
    return 0;  // not a number somewhere
}

// e^((x - most) / temperature) of one chunk into `out` (if any); returns their sum.
inline float weights_of(const float* x, int64_t count, float most, float inverse_temperature, float* out) {
    vf sum = zero();
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const vf weight = exponential(mul(sub(load(x + i), all(most)), all(inverse_temperature)));
        sum = add(sum, weight);
        if (out) store(out + i, weight);
    }
    if (i < count) {
        vf weight = exponential(mul(sub(load_rest(x + i, count - i), all(most)), all(inverse_temperature)));
        weight = first_lanes(weight, zero(), (int)(count - i));
        sum = add(sum, weight);
        if (out) store_rest(out + i, weight, count - i);
    }
    return total(sum);
}

// Log-probability of `token`: the same function for a token that was drawn and for one that a trainer asks about.
inline float log_probability(const float* logits, int64_t size, int32_t token) {
    const float most = largest_of(logits, size);
    double sum = 0.0;
    for (int64_t i = 0; i < size; i += CHUNK)
        sum += weights_of(logits + i, std::min(CHUNK, size - i), most, 1.0f, nullptr);
    return (logits[token] - most) - (float)std::log(sum);
}

// The first index whose cumulative weight exceeds `target`; the last one with any weight where rounding is in the way.
inline int32_t invert(const float* weights, int64_t size, double target) {
    double before = 0.0;
    int64_t last = 0;
    for (int64_t from = 0; from < size; from += CHUNK) {
        const int64_t to = std::min(from + CHUNK, size);
        double sum = before;
        for (int64_t i = from; i < to; i++) sum += weights[i];
        if (sum > target) {
            for (int64_t i = from; i < to; i++) {
                before += weights[i];
                if (before > target) return (int32_t)i;
            }
        }
        for (int64_t i = to - 1; sum > before && i >= from; i--)
            if (weights[i] > 0.0f) {
                last = i;
                break;
            }
        before = sum;
    }
    return (int32_t)last;
}

inline int32_t draw_truncated(const MilletSample& row, const float* w, int32_t* order, double total_weight) {
    // Few tokens carry nearly all the weight: look at these, and at more only if the cut lies beyond them.
    for (const float least : {1e-3f, 1e-6f, 0.0f}) {
        int64_t count = 0;
        for (int64_t i = 0; i < row.size; i++)
            if (w[i] >= least) order[count++] = (int32_t)i;
        std::sort(order, order + count, [w](int32_t a, int32_t b) { return w[a] != w[b] ? w[a] > w[b] : a < b; });
        const bool everything = count == row.size;
        if (row.top_k > count && !everything) continue;
        const int64_t ranked = row.top_k > 0 ? std::min<int64_t>(row.top_k, count) : count;
        double mass = total_weight;
        if (row.top_k > 0) {
            mass = 0.0;
            for (int64_t i = 0; i < ranked; i++) mass += w[order[i]];
        }
        double kept_weight = 0.0;
        int64_t kept = 0;
        const auto enough = [&] { return row.top_p < 1.0 && kept_weight >= row.top_p * mass; };
        const double smallest = row.min_p * w[order[0]];
        while (kept < ranked && !enough() && w[order[kept]] >= smallest) kept_weight += w[order[kept++]];
        const bool all_kept = kept == count && row.top_k != count && !enough() && smallest < least;
        if (all_kept && !everything) continue;  // and more would be, if they were looked at
        const double target = row.uniform * kept_weight;
        double sum = 0.0;
        for (int64_t i = 0; i < kept; i++) {
            sum += w[order[i]];
            if (sum > target) return order[i];
        }
        return order[std::max<int64_t>(kept - 1, 0)];
    }
    return 0;
}

inline int32_t draw(const MilletSample& row, float* weights, int32_t* order) {
    if (row.temperature < COLDEST) return first_of_largest(row.choice, row.size);
    const float most = largest_of(row.choice, row.size), inverse = 1.0f / row.temperature;
    double sum = 0.0;
    for (int64_t i = 0; i < row.size; i += CHUNK)
        sum += weights_of(row.choice + i, std::min(CHUNK, row.size - i), most, inverse, weights + i);
    if (row.top_k > 0 || row.top_p < 1.0 || row.min_p > 0.0) return draw_truncated(row, weights, order, sum);
    double exact = 0.0;  // as `invert` sums
    for (int64_t i = 0; i < row.size; i++) exact += weights[i];
    return invert(weights, row.size, row.uniform * exact);
}

// weights and order are scratch of row.size.
inline void sample_row(MilletSample& row, float* weights, int32_t* order) {
    if (row.token < 0) row.token = draw(row, weights, order);
    if (row.want_logprob) row.logprob = log_probability(row.logits, row.size, row.token);
}

}  // namespace MILLET_VARIANT
}  // namespace millet
