// Threads and scratch memory for the kernels. Compiled once, for every instruction set.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "../elements.h"
#include "../kernels.h"

#define PIX2GAN_INLINE inline __attribute__((always_inline))
#define PIX2GAN_OUTLINE __attribute__((noinline))

namespace pix2gan::cpu {

// Calls task(begin, end) on ranges that cover [0, tasks) once.
template <class Task>
void run(const Workers& workers, int64_t tasks, const Task& task) {
    if (tasks <= 0) return;
    if (tasks == 1 || workers.count <= 1) return task(0, tasks);
    workers.run(
        tasks,
        [](int64_t begin, int64_t end, void* context) {
            (*static_cast<const Task*>(context))(begin, end);
        },
        const_cast<void*>(static_cast<const void*>(&task)));
}

// Memory that a thread keeps, and how much of it is in use. Small blocks are taken from its end and
// given back in reverse order, which costs nothing; malloc takes a microsecond for one that is
// aligned.
struct Kept {
    static constexpr int64_t size = 128 * 1024;
    alignas(64) char memory[size];
    int64_t used = 0;

    static Kept& of_this_thread() {
        static thread_local Kept kept;
        return kept;
    }
};

// Uninitialised memory for one call, aligned for any vector. For local variables only: it is given
// back by the thread that took it, in reverse order.
template <class T>
class Scratch {
  public:
    explicit Scratch(int64_t count)
        : bytes_(ceil_div((count > 0 ? count : 1) * static_cast<int64_t>(sizeof(T)), 64) * 64) {
        Kept& kept = Kept::of_this_thread();
        if (bytes_ <= Kept::size - kept.used) {
            data_ = reinterpret_cast<T*>(kept.memory + kept.used);
            kept.used += bytes_;
            return;
        }
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes_));
        if (data_ == nullptr) throw std::bad_alloc();
        bytes_ = 0;
    }
    ~Scratch() {
        if (bytes_ > 0)
            Kept::of_this_thread().used -= bytes_;
        else
            std::free(data_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    T* get() const { return data_; }
    T& operator[](int64_t i) const { return data_[i]; }

  private:
    int64_t bytes_;  // of those that the thread keeps; 0: from malloc
    T* data_;
};

// About as many elements as one task should take: long against the cost of handing it to a thread,
// short enough for its data to stay in a core's own cache.
constexpr int64_t task_elements = 65536;

}  // namespace pix2gan::cpu
