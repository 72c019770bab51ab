// Choosing a token from one row of logits. The rule is that of engine/sampler.py, which is the reference.
#pragma once
#include <cstdint>

extern "C" {

// One row. The token is drawn by inverting the cumulative distribution at `uniform`, over what top-k, then top-p, then
// min-p leave. Out: `token`, and `logprob` of it under the row as it is (no temperature, nothing cut).
struct MilletSample {
    const float* logits;   // [size], the model's own
    const float* choice;   // [size], what to choose from: the same, or with penalties, bias and masks applied
    int64_t size;
    float temperature;     // 0: the first of the largest
    int32_t top_k;         // 0: all
    double top_p;
    double min_p;
    double uniform;
    int32_t want_logprob;
    int32_t token;         // out; in where it is fixed (below 0: to be drawn)
    float logprob;         // out
    int32_t reserved;
};
}
