// Memory that ops need for a moment: grown when needed, kept for the next call.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace millet {

// A growing array of bytes at a multiple of 64. Contents do not survive growing.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    void reserve(size_t bytes) {
        if (bytes <= size_) return;
        std::free(data_);
        size_ = (bytes + 4095) / 4096 * 4096;
        data_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_));
        if (data_ == nullptr) {
            size_ = 0;
            throw std::bad_alloc();
        }
    }
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }

private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

// Rounds up to whole cache lines, so that parts of one buffer do not share any.
inline size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Hands out consecutive parts of a piece of memory.
class Carver {
public:
    explicit Carver(uint8_t* start) : start_(start) {}
    template <class T>
    T* take(size_t count) {
        T* part = reinterpret_cast<T*>(start_ + used);
        used += lines(count * sizeof(T));
        return part;
    }
    size_t used = 0;

private:
    uint8_t* start_;
};

struct Workspace {
    Buffer shared;   // one part for all threads
    Buffer local;    // one part for each thread
    size_t local_size = 0;
    uint8_t* of(int worker) const { return local.as<uint8_t>() + worker * local_size; }
};

}  // namespace millet
