// The library's entry points, and the choice of the build that this processor can run.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "abi.h"
#include "layout.h"
#include "pool.h"
#include "sample.h"
#include "variant.h"
#include "workspace.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace millet {
namespace {

#if defined(__x86_64__)
bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#if MILLET_HAVE_AVXVNNI  // a compiler that does not know a set may not know its name either
bool runs_avxvnni() { return runs_avx2() && __builtin_cpu_supports("avxvnni"); }
#endif
#if MILLET_HAVE_AVX512
bool runs_avx512() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#endif
#elif defined(__aarch64__) && defined(__linux__)
bool runs_neon() { return (getauxval(AT_HWCAP) & (1u << 20)) != 0; }  // ASIMDDP: the integer dot product
#else
bool runs_neon() { return true; }  // every Apple processor has it
#endif

// The best first.
const Variant* find(const char* name) {
#define OFFER(which, runs) \
    if ((name == nullptr || std::strcmp(name, #which) == 0) && (runs)) return &which::variant;
#if MILLET_HAVE_AVX512
    OFFER(avx512, runs_avx512())
#endif
#if MILLET_HAVE_AVXVNNI
    OFFER(avxvnni, runs_avxvnni())
#endif
#if MILLET_HAVE_AVX2
    OFFER(avx2, runs_avx2())
#endif
#if MILLET_HAVE_NEON
    OFFER(neon, runs_neon())
#endif
    OFFER(scalar, true)
#undef OFFER
    return nullptr;
}

const Variant* chosen() {
    static const Variant* variant = [] {
        const char* name = std::getenv("MILLET_KERNELS");
        return find(name != nullptr && name[0] != 0 ? name : nullptr);
    }();
    return variant;
}

}  // namespace
}  // namespace millet

// A hash of the sources this was built from.
EXPORT const char* millet_build_id(void) { return MILLET_BUILD_ID; }

// The build in use, or null: MILLET_KERNELS asks for one that is not in this library or that this processor cannot run.
EXPORT const char* millet_variant(void) {
    const millet::Variant* variant = millet::chosen();
    return variant != nullptr ? variant->name : nullptr;
}

// Executes the ops in order. Returns 0, or 1 where memory ran out (nothing was computed then). `seconds` may be null.
EXPORT int millet_run(const MilletOp* ops, int32_t count, const MilletBatch* batch, double* seconds) {
    using namespace millet;
    static std::mutex one_at_a_time;  // the workspace is shared by all callers
    static Workspace* space = new Workspace();
    std::lock_guard<std::mutex> lock(one_at_a_time);
    const Variant* variant = chosen();
    try {
        variant->prepare(ops, count, *batch, *space);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    run_parallel(batch->num_threads, [&](const Worker& worker) { variant->run(worker, ops, count, *batch, *space, seconds); });
    return 0;
}

// Draws a token for each row. Returns 0, or 1 where memory ran out (nothing was drawn then).
EXPORT int millet_sample(MilletSample* rows, int32_t count, int32_t threads) {
    using namespace millet;
    static std::mutex one_at_a_time;
    static Workspace* space = new Workspace();
    std::lock_guard<std::mutex> lock(one_at_a_time);
    const Variant* variant = chosen();
    const int workers = threads < count ? threads : count;
    int64_t size = 0;
    for (int i = 0; i < count; i++) size = rows[i].size > size ? rows[i].size : size;
    space->local_size = 2 * lines(size * 4);
    try {
        space->local.reserve(space->local_size * workers);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    run_parallel(workers, [&](const Worker& worker) {
        Carver local(space->of(worker.index));
        float* weights = local.take<float>(size);
        int32_t* order = local.take<int32_t>(size);
        for (int i = worker.team.next(); i < count; i = worker.team.next()) variant->sample(rows[i], weights, order);
    });
    return 0;
}
