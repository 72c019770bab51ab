// What each instruction set's build of the kernels offers to the rest of the library.
#pragma once
#include "abi.h"
#include "pool.h"
#include "sample.h"
#include "workspace.h"

namespace millet {

struct Variant {
    const char* name;
    // Grows the workspace for the ops; before the threads start.
    void (*prepare)(const MilletOp* ops, int count, const MilletBatch& batch, Workspace& space);
    // Runs the ops on one worker of a team; `seconds` [count] gets the time of each op added, on worker 0.
    void (*run)(const Worker& worker, const MilletOp* ops, int count, const MilletBatch& batch, const Workspace& space, double* seconds);
    void (*sample)(MilletSample& row, float* weights, int32_t* order);
};

#define MILLET_DECLARE(name)     \
    namespace name {             \
    extern const Variant variant; \
    }
MILLET_DECLARE(scalar)
MILLET_DECLARE(avx2)
MILLET_DECLARE(avxvnni)
MILLET_DECLARE(avx512)
MILLET_DECLARE(neon)
#undef MILLET_DECLARE

}  // namespace millet
