#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <climits>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace millet {
namespace {

// Waiting is active at first, since most waits are shorter than going to sleep and waking up. It must not last: where
// another program has taken a core, a thread that we wait for sits behind it, and is moved to ours only once we sleep.
constexpr auto SPIN_AT_BARRIER = std::chrono::microseconds(30);
constexpr auto SPIN_BETWEEN = std::chrono::microseconds(400);  // for the next region: what comes between two tokens

inline void pause_a_little() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Whether `done` came true before the time was up.
template <class Done>
bool spin(std::chrono::microseconds time, const Done& done) {
    for (int i = 0; i < 64; i++) {
        if (done()) return true;
        pause_a_little();
    }
    const auto until = std::chrono::steady_clock::now() + time;
    do {
        for (int i = 0; i < 16; i++) {
            if (done()) return true;
            pause_a_little();
        }
    } while (std::chrono::steady_clock::now() < until);
    return false;
}

// Sleeps while `value` is `seen`, or for no reason at all.
void sleep_while(std::atomic<int>& value, int seen) {
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<int*>(&value), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
    if (value.load() == seen) sched_yield();
#endif
}

void wake_sleepers(std::atomic<int>& value) {
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<int*>(&value), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
    (void)value;
#endif
}

class Pool {
public:
    void run(int threads, const std::function<void(const Worker&)>& work) {
        if (threads <= 1) {
            Team team(1);
            work(Worker{team, 0});
            return;
        }
        std::lock_guard<std::mutex> one_at_a_time(region_);
        grow(threads - 1);
        Team team(threads);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            team_ = &team;
            work_ = &work;
            unfinished_.store(threads - 1);
            wanted_ = threads - 1;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        work(Worker{team, 0});
        if (spin(SPIN_AT_BARRIER, [&] { return unfinished_.load(std::memory_order_acquire) == 0; })) return;
        for (int left = unfinished_.load(); left != 0; left = unfinished_.load()) sleep_while(unfinished_, left);
    }

private:
    void grow(int helpers) {
        for (; count_ < helpers; count_++) std::thread(&Pool::help, this, count_, generation_.load()).detach();
    }

    void help(int number, unsigned seen) {
        for (;;) {
            spin(SPIN_BETWEEN, [&] { return generation_.load(std::memory_order_acquire) != seen; });
            const std::function<void(const Worker&)>* work = nullptr;
            Team* team = nullptr;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
                seen = generation_.load();
                if (number < wanted_) {
                    work = work_;
                    team = team_;
                }
            }
            if (work == nullptr) continue;
            (*work)(Worker{*team, number + 1});
            if (unfinished_.fetch_sub(1) == 1) wake_sleepers(unfinished_);
        }
    }

    std::mutex region_, mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> generation_{0};
    std::atomic<int> unfinished_{0};
    int wanted_ = 0;
    int count_ = 0;
    Team* team_ = nullptr;
    const std::function<void(const Worker&)>* work_ = nullptr;
};

// Never freed: helpers may outlive static destruction. A forked child, where only the forking thread lives on, gets one
// of its own.
Pool* the_pool = nullptr;

Pool& pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        the_pool = new Pool();
        pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool(); });
    });
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
        round_.store(round + 1);  // before looking for sleepers, as they count themselves before looking at it
        if (sleepers_.load() > 0) wake_sleepers(round_);
        return;
    }
    if (spin(SPIN_AT_BARRIER, [&] { return round_.load(std::memory_order_acquire) != round; })) return;
    sleepers_.fetch_add(1);
    while (round_.load() == round) sleep_while(round_, round);
    sleepers_.fetch_sub(1);
}

void run_parallel(int threads, const std::function<void(const Worker&)>& work) { pool().run(threads, work); }

}  // namespace millet
