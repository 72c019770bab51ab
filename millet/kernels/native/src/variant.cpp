// One build of the kernels: compiled once for each instruction set, with that set's flags and MILLET_VARIANT its name.
#include "variant.h"

#include <chrono>

#include "attention.h"
#include "experts.h"
#include "products.h"
#include "rows.h"
#include "sampling.h"

#define MILLET_STRING(name) #name
#define MILLET_NAME(name) MILLET_STRING(name)

namespace millet {
namespace MILLET_VARIANT {
namespace {

int64_t rows_of(const MilletOp& op, const MilletBatch& batch) {
    const bool sampled = op.code == MILLET_PICK || (op.code == MILLET_PRODUCTS && op.n[0] != 0);
    return sampled ? batch.num_sampled : batch.rows;
}

void prepare(const MilletOp* ops, int count, const MilletBatch& batch, Workspace& space) {
    size_t shared = 64, local = 64;
    for (int i = 0; i < count; i++) {
        const int64_t rows = rows_of(ops[i], batch);
        if (ops[i].code == MILLET_PRODUCTS) products_workspace(ops[i], rows, shared, local);
        if (ops[i].code == MILLET_EXPERTS) experts_workspace(ops[i], rows, shared, local);
        if (ops[i].code == MILLET_ATTEND) attention_workspace(ops[i], batch, shared, local);
    }
    local = (local + 4095) / 4096 * 4096 + 64;  // no two workers on one page; an odd line keeps them off the same sets
    space.shared.reserve(shared);
    space.local_size = std::max(space.local_size, local);
    space.local.reserve(space.local_size * batch.num_threads);
}

// Operations on row t alone.
void row_op(const MilletOp& op, const MilletBatch& batch, int64_t t) {
    const float* in = op.in[0].data + t * op.in[0].stride;
    float* out = op.out[0].data + t * op.out[0].stride;
    switch (op.code) {
        case MILLET_EMBED: read_row(op.products[0].matrix, batch.ids[t], out); break;
        case MILLET_NORM:
            for (int64_t g = 0; g < op.n[1]; g++)
                norm_row(in + g * op.n[3], (const float*)op.weight[0], op.f[0], op.n[0], out + g * op.n[4]);
            break;
        case MILLET_TURN: turn_row(batch.positions[t], (const float*)op.weight[0], op.n[0], op.f[0], out); break;
        case MILLET_ROTATE:
            for (int64_t g = 0; g < op.n[1]; g++)
                rotate_head(
                    in + g * op.n[3], op.in[1].data + t * op.in[1].stride, op.n[0], op.n[2] != 0, out + g * op.n[4]
                );
            break;
        case MILLET_SWIGLU: swiglu_row(in, op.in[1].data + t * op.in[1].stride, op.n[0], out); break;
        case MILLET_ADD: add_row(in, op.in[1].data + t * op.in[1].stride, op.n[0], out); break;
        case MILLET_COPY:
            for (int64_t g = 0; g < op.n[1]; g++) std::copy(in + g * op.n[3], in + g * op.n[3] + op.n[0], out + g * op.n[4]);
            break;
        case MILLET_PICK: {
            const float* picked = op.in[0].data + batch.sampled[t] * op.in[0].stride;
            std::copy(picked, picked + op.n[0], out);
            break;
        }
        case MILLET_ROUTE: route_row(op, t); break;
    }
}

void run_op(const Worker& worker, const MilletOp& op, const MilletBatch& batch, const Workspace& space) {
    const int64_t rows = rows_of(op, batch);
    switch (op.code) {
        case MILLET_PRODUCTS:
            if (rows > 0) products(worker, op, rows, space);
            break;
        case MILLET_ATTEND: attention(worker, op, batch, space); break;
        case MILLET_EXPERTS: experts(worker, op, rows, space); break;
        default: {
            int64_t begin, end;
            worker.share(rows, begin, end);
            for (int64_t t = begin; t < end; t++) row_op(op, batch, t);
        }
    }
}

// Whether the next op needs what other workers do in this one: row operations in a row share rows in the same way.
bool follows_freely(const MilletOp& op, const MilletOp& next, const MilletBatch& batch) {
    auto by_rows = [](const MilletOp& o) {
        return o.code != MILLET_PRODUCTS && o.code != MILLET_ATTEND && o.code != MILLET_EXPERTS && o.code != MILLET_PICK;
    };
    return by_rows(op) && by_rows(next) && batch.rows > 0;
}

void run(
    const Worker& worker, const MilletOp* ops, int count, const MilletBatch& batch, const Workspace& space, double* seconds
) {
    using Clock = std::chrono::steady_clock;
    auto before = Clock::now();
    for (int i = 0; i < count; i++) {
        run_op(worker, ops[i], batch, space);
        if (i + 1 == count || !follows_freely(ops[i], ops[i + 1], batch)) worker.barrier();
        if (seconds != nullptr && worker.index == 0) {
            auto now = Clock::now();
            seconds[i] += std::chrono::duration<double>(now - before).count();
            before = now;
        }
    }
}

}  // namespace

extern const Variant variant;
const Variant variant = {MILLET_NAME(MILLET_VARIANT), prepare, run, sample_row};

}  // namespace MILLET_VARIANT
}  // namespace millet
