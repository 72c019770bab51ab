// Causal attention over the paged cache.
//
// Blocks of 16 positions. Keys of a block are [G][K][16]: the 16 positions side by side, so that a vector of scores is
// one chain over the head's width. Values are [G][16][V]: a vector of outputs is one chain over the positions. Where the
// value is part of the key (latent attention), there is no second store, and outputs are summed over the positions of
// each lane first, then across lanes.
//
// Order, the same however a prompt is cut and whoever shares the batch: positions are taken in spans of 512 from the
// first on. In each, a row finds its largest score m, the weights e^(score - m), their sum l and the weighted values.
// Spans are merged in order. A span beyond a row's own position takes no part in it.
//
// n: 0 query heads H, 1 key/value heads G, 2 key width K, 3 value width V, 4 the cache is fp16, 5 bytes from one block
// to the next of keys, 6 the same of values (0: the value is in the key). weight: the layer's keys and values. f[0]: scale.
#pragma once
#include <algorithm>
#include <cmath>

#include "abi.h"
#include "pool.h"
#include "rows.h"
#include "simd.h"
#include "workspace.h"

namespace millet {
namespace MILLET_VARIANT {

constexpr int BLOCK = 16;
constexpr int64_t SPAN = 512;  // positions that share one softmax before merging

template <bool HALF>
inline vf load_cached(const void* store, int64_t index) {
    return HALF ? load_half((const uint16_t*)store + index) : load((const float*)store + index);
}

// Numbers [0, count) of `from` to every `step`-th place of the store from `to` on.
inline void store_cached(bool half, const float* from, int64_t count, void* store, int64_t to, int64_t step) {
    if (!half) {
        for (int64_t i = 0; i < count; i++) ((float*)store)[to + i * step] = from[i];
        return;
    }
    uint16_t* halves = (uint16_t*)store + to;
    for (int64_t i = 0; i < count; i += W) {
        uint16_t converted[W];
        const int64_t some = std::min<int64_t>(W, count - i);
        store_half(converted, some == W ? load(from + i) : load_rest(from + i, some));
        for (int64_t j = 0; j < some; j++) halves[(i + j) * step] = converted[j];
    }
}

struct Heads {
    explicit Heads(const MilletOp& op)
        : op(op), queries(op.n[0]), keys(op.n[1]), per_key(op.n[0] / op.n[1]), key_width(op.n[2]), value_width(op.n[3]),
          half(op.n[4] != 0), key_step(op.n[5]), value_step(op.n[6]), in_key(op.n[6] == 0) {}
    const MilletOp& op;
    const int64_t queries, keys, per_key, key_width, value_width;
    const bool half;
    const int64_t key_step, value_step;
    const bool in_key;
    const uint8_t* key_block(int32_t block) const { return (const uint8_t*)op.weight[0] + block * key_step; }
    const uint8_t* value_block(int32_t block) const { return (const uint8_t*)op.weight[1] + block * value_step; }
};

// Puts the new keys and values of rows [begin, end) into their blocks.
inline void store_keys_values(const Heads& h, const MilletBatch& batch, int64_t begin, int64_t end) {
    for (int s = 0; s < batch.num_spans; s++) {
        const MilletSpan& span = batch.spans[s];
        const int64_t first = std::max<int64_t>(begin, span.row), last = std::min<int64_t>(end, span.row + span.length);
        for (int64_t t = first; t < last; t++) {
            const int64_t position = span.start + t - span.row, lane = position % BLOCK;
            const int32_t block = batch.tables[span.table + position / BLOCK];
            const float* key = h.op.in[1].data + t * h.op.in[1].stride;
            uint8_t* keys = (uint8_t*)h.key_block(block);
            store_cached(h.half, key, h.keys * h.key_width, keys, lane, BLOCK);
            if (h.in_key) continue;
            const float* value = h.op.in[2].data + t * h.op.in[2].stride;
            uint8_t* values = (uint8_t*)h.value_block(block);
            for (int64_t g = 0; g < h.keys; g++)
                store_cached(
                    h.half, value + g * h.value_width, h.value_width, values, (g * BLOCK + lane) * h.value_width, 1
                );
        }
    }
}

// Up to SCORE_ROWS queries of one sequence that share a key/value head.
struct Tile {
    int count;
    const float* query[SCORE_ROWS];  // already scaled
    int64_t context[SCORE_ROWS];     // positions each may see
    const int32_t* table;
    int64_t group;
};

// What a row knows after a span: largest score, sum of weights, weighted values (not yet divided).
struct Partial {
    float* largest;  // [rows]
    float* sum;      // [rows]
    float* values;   // [rows][V]
};

// Scores of R queries against one block: chains over the key's width.
template <bool HALF, int R>
inline void score_block(const uint8_t* keys, int64_t group, int64_t width, const float* const* query, float* const* out) {
    constexpr int V = BLOCK / W;
    vf acc[R][V];
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) acc[r][v] = zero();
    const int64_t base = group * width * BLOCK;
    for (int64_t k = 0; k < width; k++) {
        vf key[V];
        MILLET_UNROLL
        for (int v = 0; v < V; v++) key[v] = load_cached<HALF>(keys, base + k * BLOCK + v * W);
        MILLET_UNROLL
        for (int r = 0; r < R; r++) {
            const vf q = all(query[r][k]);
            MILLET_UNROLL
            for (int v = 0; v < V; v++) acc[r][v] = fma(q, key[v], acc[r][v]);
        }
    }
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) store(out[r] + v * W, acc[r][v]);
}

template <bool HALF, int R>
void score_rows(const Heads& h, const Tile& tile, int64_t from, int64_t to, float* scores) {
    if constexpr (R > 1) {
        if (tile.count < R) return score_rows<HALF, R - 1>(h, tile, from, to, scores);
    }
    for (int64_t position = from; position < to; position += BLOCK) {
        float* out[R];
        MILLET_UNROLL
        for (int r = 0; r < R; r++) out[r] = scores + r * SPAN + position - from;
        score_block<HALF, R>(h.key_block(tile.table[position / BLOCK]), tile.group, h.key_width, tile.query, out);
    }
}

// scores -> weights e^(score - largest), 0 beyond the row's context. Returns the sum.
inline float weigh(float* scores, int64_t count, float& most) {
    const int64_t whole = count / W * W;
    vf best = all(-INFINITY);
    for (int64_t i = 0; i < whole; i += W) best = max(best, load(scores + i));
    if (whole < count) best = max(best, first_lanes(load(scores + whole), all(-INFINITY), (int)(count - whole)));
    most = largest(best);
    vf sum = zero();
    for (int64_t i = 0; i < count; i += W) {
        vf weight = exponential(sub(load(scores + i), all(most)));
        if (i + W > count) weight = first_lanes(weight, zero(), (int)(count - i));
        store(scores + i, weight);
        sum = add(sum, weight);
    }
    return total(sum);
}

// R rows by V vectors of outputs from `first` on: chains over the positions.
template <bool HALF, int R, int V>
void mix_tile(
    const Heads& h, const Tile& tile, int row, int64_t first, int64_t from, int64_t to, const float* scores, float* values
) {
    vf acc[R][V];
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) acc[r][v] = zero();
    for (int64_t position = from; position < to; position += BLOCK) {
        const uint8_t* block = h.value_block(tile.table[position / BLOCK]);
        const int64_t base = tile.group * BLOCK * h.value_width + first;
        const int count = (int)std::min<int64_t>(BLOCK, to - position);
        for (int i = 0; i < count; i++) {
            vf value[V];
            MILLET_UNROLL
            for (int v = 0; v < V; v++) value[v] = load_cached<HALF>(block, base + i * h.value_width + v * W);
            MILLET_UNROLL
            for (int r = 0; r < R; r++) {
                const vf weight = all(scores[(row + r) * SPAN + position - from + i]);
                MILLET_UNROLL
                for (int v = 0; v < V; v++) acc[r][v] = fma(weight, value[v], acc[r][v]);
            }
        }
    }
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) store(values + (row + r) * h.value_width + first + v * W, acc[r][v]);
}

// The value is the head of the key, its positions side by side: sums within each lane, then across lanes.
template <bool HALF, int R, int V>
void mix_in_key_tile(
    const Heads& h, const Tile& tile, int row, int64_t first, int64_t from, int64_t to, const float* scores, float* values
) {
    constexpr int PARTS = BLOCK / W;
    vf acc[R][V];
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) acc[r][v] = zero();
    for (int64_t position = from; position < to; position += BLOCK) {
        const uint8_t* block = h.key_block(tile.table[position / BLOCK]);
        const int64_t base = (tile.group * h.key_width + first) * BLOCK;
        MILLET_UNROLL
        for (int part = 0; part < PARTS; part++) {
            vf weight[R];
            MILLET_UNROLL
            for (int r = 0; r < R; r++) weight[r] = load(scores + (row + r) * SPAN + position - from + part * W);
            MILLET_UNROLL
            for (int v = 0; v < V; v++) {
                const vf value = load_cached<HALF>(block, base + v * BLOCK + part * W);
                MILLET_UNROLL
                for (int r = 0; r < R; r++) acc[r][v] = fma(weight[r], value, acc[r][v]);
            }
        }
    }
    MILLET_UNROLL
    for (int r = 0; r < R; r++)
        MILLET_UNROLL
        for (int v = 0; v < V; v++) values[(row + r) * h.value_width + first + v] = total(acc[r][v]);
}

template <bool HALF, int R>
void mix_rows(const Heads& h, const Tile& tile, int row, int64_t from, int64_t to, const float* scores, float* values) {
    if constexpr (R > 1) {
        if (tile.count - row < R) return mix_rows<HALF, R - 1>(h, tile, row, from, to, scores, values);
    }
    int64_t first = 0;
    if (h.in_key) {
        for (; first + VALUE_VECTORS <= h.value_width; first += VALUE_VECTORS)
            mix_in_key_tile<HALF, R, VALUE_VECTORS>(h, tile, row, first, from, to, scores, values);
        for (; first < h.value_width; first++)
            mix_in_key_tile<HALF, R, 1>(h, tile, row, first, from, to, scores, values);
        return;
    }
    for (; first + VALUE_VECTORS * W <= h.value_width; first += VALUE_VECTORS * W)
        mix_tile<HALF, R, VALUE_VECTORS>(h, tile, row, first, from, to, scores, values);
    for (; first + W <= h.value_width; first += W)
        mix_tile<HALF, R, 1>(h, tile, row, first, from, to, scores, values);
    for (; first < h.value_width; first++) {  // a width that is no multiple of the vector: the same chain, number by number
        MILLET_UNROLL
        for (int r = 0; r < R; r++) {
            float acc = 0.0f;
            for (int64_t position = from; position < to; position++) {
                const uint8_t* block = h.value_block(tile.table[position / BLOCK]);
                const int64_t index = (tile.group * BLOCK + position % BLOCK) * h.value_width + first;
                const float value = HALF ? half_to_float(((const uint16_t*)block)[index]) : ((const float*)block)[index];
                acc = scores[(row + r) * SPAN + position - from] * value + acc;
            }
            values[(row + r) * h.value_width + first] = acc;
        }
    }
}

// One span of positions [from, from + SPAN) for all rows of a tile that reach into it.
template <bool HALF>
void attend_span(const Heads& h, const Tile& tile, int64_t from, float* scores, const Partial& part) {
    int64_t to = from;
    for (int r = 0; r < tile.count; r++) to = std::max(to, std::min(tile.context[r], from + SPAN));
    score_rows<HALF, SCORE_ROWS>(h, tile, from, to, scores);
    const int64_t padded = (to - from + BLOCK - 1) / BLOCK * BLOCK;
    for (int r = 0; r < tile.count; r++) {
        const int64_t count = std::max<int64_t>(0, std::min(tile.context[r], to) - from);
        part.largest[r] = -INFINITY;
        part.sum[r] = 0.0f;
        float* row = scores + r * SPAN;
        int64_t filled = 0;
        if (count > 0) {
            part.sum[r] = weigh(row, count, part.largest[r]);
            filled = (count + W - 1) / W * W;
        }
        std::fill(row + std::min(filled, padded), row + padded, 0.0f);
    }
    for (int r = 0; r < tile.count; r += VALUE_ROWS)
        mix_rows<HALF, VALUE_ROWS>(h, tile, r, from, to, scores, part.values);
}

// Joins what a later span found to what the earlier ones did.
inline void merge(const Partial& so_far, const Partial& part, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        if (part.sum[r] == 0.0f && part.largest[r] == -INFINITY) continue;
        const float most = std::max(so_far.largest[r], part.largest[r]);
        float factors[2 * W] = {};
        factors[0] = so_far.largest[r] - most;
        factors[1] = part.largest[r] - most;
        store(factors, exponential(load(factors)));
        const float keep = factors[0], take = factors[1];
        so_far.largest[r] = most;
        so_far.sum[r] = so_far.sum[r] * keep + part.sum[r] * take;
        float* values = so_far.values + r * width;
        const float* more = part.values + r * width;
        for (int64_t i = 0; i < width; i++) values[i] = values[i] * keep + more[i] * take;
    }
}

// Which rows a task computes: tile `index` of key/value head `group` of a span of the batch.
inline void fill_tile(
    const Heads& h, const MilletBatch& batch, const MilletSpan& span, int64_t group, int64_t index, float* scaled, Tile& tile,
    float** out
) {
    const int64_t pairs = span.length * h.per_key, first = index * SCORE_ROWS;
    tile.count = (int)std::min<int64_t>(SCORE_ROWS, pairs - first);
    tile.table = batch.tables + span.table;
    tile.group = group;
    for (int r = 0; r < tile.count; r++) {
        const int64_t row = (first + r) / h.per_key, head = group * h.per_key + (first + r) % h.per_key;
        const float* q = h.op.in[0].data + (span.row + row) * h.op.in[0].stride + head * h.key_width;
        float* to = scaled + r * h.key_width;
        for (int64_t i = 0; i < h.key_width; i++) to[i] = q[i] * h.op.f[0];
        tile.query[r] = to;
        tile.context[r] = span.start + row + 1;
        out[r] = h.op.out[0].data + (span.row + row) * h.op.out[0].stride + head * h.value_width;
    }
}

inline int64_t tiles_of(const Heads& h, const MilletSpan& span) {
    return (span.length * h.per_key + SCORE_ROWS - 1) / SCORE_ROWS;
}

inline int64_t spans_of(const MilletSpan& span) { return (span.start + span.length + SPAN - 1) / SPAN; }

inline size_t partial_floats(const Heads& h) { return SCORE_ROWS * (2 + h.value_width); }

inline Partial partial_at(float* at) { return Partial{at, at + SCORE_ROWS, at + 2 * SCORE_ROWS}; }

// Few queries and a long context (decoding) leave threads idle unless a tile's spans are shared out too.
inline bool split_spans(const Heads& h, const MilletBatch& batch) {
    int64_t tasks = 0, longest = 0;
    for (int s = 0; s < batch.num_spans; s++) {
        tasks += h.keys * tiles_of(h, batch.spans[s]);
        longest = std::max(longest, spans_of(batch.spans[s]));
    }
    return batch.num_threads > 1 && longest > 1 && tasks < 4 * batch.num_threads;
}

inline int64_t split_parts(const Heads& h, const MilletBatch& batch) {
    int64_t parts = 0;
    for (int s = 0; s < batch.num_spans; s++) parts += h.keys * tiles_of(h, batch.spans[s]) * spans_of(batch.spans[s]);
    return parts;
}

inline void attention_workspace(const MilletOp& op, const MilletBatch& batch, size_t& shared, size_t& local) {
    const Heads h(op);
    const size_t own = lines(SCORE_ROWS * SPAN * 4) + lines(SCORE_ROWS * h.key_width * 4) + 2 * lines(partial_floats(h) * 4);
    local = std::max(local, own);
    if (split_spans(h, batch)) shared = std::max(shared, split_parts(h, batch) * partial_floats(h) * 4 + 64);
}

inline void divide(const Partial& part, int64_t row, int64_t width, float* out) {
    const float inverse = 1.0f / part.sum[row];
    for (int64_t i = 0; i < width; i++) out[i] = part.values[row * width + i] * inverse;
}

inline void attend_part(const Heads& h, const Tile& tile, int64_t from, float* scores, const Partial& part) {
    if (h.half) attend_span<true>(h, tile, from, scores, part);
    else attend_span<false>(h, tile, from, scores, part);
}

inline void attention(const Worker& worker, const MilletOp& op, const MilletBatch& batch, const Workspace& space) {
    const Heads h(op);
    int64_t begin, end;
    worker.share(batch.rows, begin, end);
    store_keys_values(h, batch, begin, end);
    worker.barrier();

    Carver local(space.of(worker.index));
    float* scores = local.take<float>(SCORE_ROWS * SPAN);
    float* scaled = local.take<float>(SCORE_ROWS * h.key_width);
    const Partial so_far = partial_at(local.take<float>(partial_floats(h)));
    const Partial part = partial_at(local.take<float>(partial_floats(h)));
    float* parts = space.shared.as<float>();
    const bool split = split_spans(h, batch);
    Tile tile;
    float* out[SCORE_ROWS];

    // Tasks are numbered by span of the batch, head, tile and (if split) span of positions; last ones see most.
    int64_t wanted = worker.team.next(), before = 0;
    for (int s = 0; s < batch.num_spans; s++) {
        const MilletSpan& span = batch.spans[s];
        const int64_t tiles = tiles_of(h, span), per_tile = split ? spans_of(span) : 1, tasks = h.keys * tiles * per_tile;
        for (; wanted < before + tasks; wanted = worker.team.next()) {
            const int64_t task = wanted - before, which = task / per_tile;
            fill_tile(h, batch, span, which / tiles, which % tiles, scaled, tile, out);
            if (split) {
                const Partial mine = partial_at(parts + wanted * partial_floats(h));
                attend_part(h, tile, task % per_tile * SPAN, scores, mine);
                continue;
            }
            attend_part(h, tile, 0, scores, so_far);
            for (int64_t from = SPAN; from < tile.context[tile.count - 1]; from += SPAN) {
                attend_part(h, tile, from, scores, part);
                merge(so_far, part, tile.count, h.value_width);
            }
            for (int r = 0; r < tile.count; r++) divide(so_far, r, h.value_width, out[r]);
        }
        before += tasks;
    }
    if (!split) return;
    worker.barrier();
    before = 0;
    wanted = worker.team.next();
    int64_t seen = 0;
    for (int s = 0; s < batch.num_spans; s++) {
        const MilletSpan& span = batch.spans[s];
        const int64_t tiles = tiles_of(h, span), per_tile = spans_of(span);
        for (; wanted < seen + h.keys * tiles; wanted = worker.team.next()) {
            const int64_t which = wanted - seen;
            fill_tile(h, batch, span, which / tiles, which % tiles, scaled, tile, out);
            float* first = parts + (before + which * per_tile) * partial_floats(h);
            const Partial joined = partial_at(first);
            for (int64_t i = 1; i < per_tile; i++)
                merge(joined, partial_at(first + i * partial_floats(h)), tile.count, h.value_width);
            for (int r = 0; r < tile.count; r++) divide(joined, r, h.value_width, out[r]);
        }
        seen += h.keys * tiles;
        before += h.keys * tiles * per_tile;
    }
}

}  // namespace MILLET_VARIANT
}  // namespace millet
