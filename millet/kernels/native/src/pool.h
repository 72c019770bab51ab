// Threads that work on one region at a time, and the barrier between the steps of a region.
#pragma once
#include <atomic>
#include <functional>

namespace millet {

// What a function that runs on all threads of a region knows: who it is, how many there are, and how to wait for them.
class Team {
public:
    explicit Team(int size) : size(size) {}
    const int size;

    // Returns when all have come.
    void barrier();

    // Hands out 0, 1, 2, ... to whoever asks; set back to 0 by `barrier`.
    int next() { return counter_.fetch_add(1, std::memory_order_relaxed); }

private:
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> round_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    alignas(64) std::atomic<int> counter_{0};
};

struct Worker {
    Team& team;
    int index;
    void barrier() const { team.barrier(); }
    // This worker's share of `count` items: [begin, end).
    void share(int64_t count, int64_t& begin, int64_t& end) const {
        begin = count * index / team.size;
        end = count * (index + 1) / team.size;
    }
};

// Runs `work` on `threads` threads, the caller among them, and returns when all are done. One region at a time; a second
// caller waits. Helper threads are started when first needed and sleep between regions.
void run_parallel(int threads, const std::function<void(const Worker&)>& work);

}  // namespace millet
