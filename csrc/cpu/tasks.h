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

// Uninitialised memory for one call, aligned for any vector.
template <class T>
class Scratch {
  public:
    explicit Scratch(int64_t count) {
        const size_t bytes = (count > 0 ? count : 1) * sizeof(T);
        data_ = static_cast<T*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
        if (data_ == nullptr) throw std::bad_alloc();
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    T* get() const { return data_; }
    T& operator[](int64_t i) const { return data_[i]; }

  private:
    T* data_;
};

// About as many elements as one task should take: long against the cost of handing it to a thread,
// short enough for its data to stay in a core's own cache.
constexpr int64_t task_elements = 65536;

}  // namespace pix2gan::cpu
