#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace millet {
namespace {

constexpr int SPINS = 4000;         // some 40 us: longer than the steps of a token are apart
constexpr int SPINS_BETWEEN = 8000; // helpers between regions, before they sleep

inline void pause_a_little() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    void run(int threads, const std::function<void(const Worker&)>& work) {
        std::lock_guard<std::mutex> one_at_a_time(region_);
        if (threads <= 1) {
            Team team(1);
            work(Worker{team, 0});
            return;
        }
        grow(threads - 1);
        Team team(threads);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            team_ = &team;
            work_ = &work;
            finished_.store(0, std::memory_order_relaxed);
            wanted_ = threads - 1;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        work(Worker{team, 0});
        for (int spins = 0; finished_.load(std::memory_order_acquire) < threads - 1; spins++) {
            if (spins < SPINS) pause_a_little();
            else sched_yield();
        }
    }

    void forget() {  // in a forked child: the helpers live in the parent only
        new (this) Pool();
    }

private:
    void grow(int helpers) {
        while (count_ < helpers) {
            std::thread(&Pool::help, this, count_, generation_.load()).detach();
            count_++;
        }
    }

    void help(int number, unsigned seen) {
        for (;;) {
            for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < SPINS_BETWEEN; spins++)
                pause_a_little();
            const std::function<void(const Worker&)>* work = nullptr;
            Team* team = nullptr;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
                seen = generation_.load(std::memory_order_relaxed);
                if (number < wanted_) {
                    work = work_;
                    team = team_;
                }
            }
            if (work == nullptr) continue;
            (*work)(Worker{*team, number + 1});
            finished_.fetch_add(1, std::memory_order_release);
        }
    }

    std::mutex region_, mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> generation_{0};
    std::atomic<int> finished_{0};
    int wanted_ = 0;
    int count_ = 0;
    Team* team_ = nullptr;
    const std::function<void(const Worker&)>* work_ = nullptr;
};

Pool& pool() {
    static Pool* the_pool = [] {
        Pool* made = new Pool();  // never freed: helpers may outlive static destruction
        pthread_atfork(nullptr, nullptr, [] { pool().forget(); });
        return made;
    }();
    return *the_pool;
}

}  // namespace

void Team::barrier() {
    if (size == 1) {
        counter_.store(0, std::memory_order_relaxed);
        return;
    }
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        counter_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) {
        if (spins < SPINS) pause_a_little();
        else sched_yield();
    }
}

void run_parallel(int threads, const std::function<void(const Worker&)>& work) { pool().run(threads, work); }

}  // namespace millet
