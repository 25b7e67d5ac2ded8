// Fibers, barriers and shared memory: see cuda_runtime.h.

#include <cuda_runtime.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t stack_bytes = 128 * 1024;
constexpr size_t guard_bytes = 512;
constexpr unsigned char guard_value = 0xa5;
constexpr size_t most_shared = 227 * 1024;  // of a block on sm_90
constexpr int lanes = 32;

// Lives on from launch to launch. It is entered by setcontext once, and from then on by longjmp,
// which needs no system call.
struct Fiber {
    void* stack = nullptr;
    bool entered = false, done = false;
    ucontext_t entry;
    jmp_buf inside;
};

// Arrivals at a barrier; the last one lets all go on.
struct Barrier {
    int expected = 0, arrived = 0;
    int64_t generation = 0;
};

struct Block {
    std::deque<Fiber> fibers;
    jmp_buf scheduler;
    const std::function<void()>* body = nullptr;
    std::exception_ptr error;
    Barrier barrier;
    std::vector<Barrier> warps;
    std::vector<float> passed;  // [threads], what a lane passes to another
    std::vector<unsigned char> shared;
    int64_t events = 0;  // barriers opened and threads ended
    Fiber* current = nullptr;
} block;

std::mutex one_launch;
int64_t launches = 0;
std::map<const void*, int> allowed;

void yield() {
    if (_setjmp(block.current->inside) == 0) _longjmp(block.scheduler, 1);
}

void enter();

void resume(Fiber& f) {
    block.current = &f;
    if (_setjmp(block.scheduler) != 0) return;
    if (f.entered) _longjmp(f.inside, 1);
    f.entered = true;
    if (f.stack == nullptr)
        f.stack =
            mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&f.entry);
    f.entry.uc_stack.ss_sp = f.stack;
    f.entry.uc_stack.ss_size = stack_bytes;
    f.entry.uc_link = nullptr;
    makecontext(&f.entry, enter, 0);
    setcontext(&f.entry);
}

void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        barrier.generation++;
        block.events++;
        return;
    }
    for (const int64_t generation = barrier.generation; generation == barrier.generation;) yield();
}

Barrier& own_warp() { return block.warps[threadIdx.x / lanes]; }

// What a fiber does: a thread of one block after another.
void enter() {
    for (;;) {
        try {
            (*block.body)();
        } catch (...) {
            block.error = std::current_exception();
        }
        block.current->done = true;
        block.events++;
        yield();
    }
}

void prepare(const cudaLaunchConfig_t& config) {
    const unsigned threads = config.blockDim.x;
    while (block.fibers.size() < threads) block.fibers.emplace_back();
    block.barrier = Barrier{static_cast<int>(threads), 0, 0};
    block.warps.assign(threads / lanes, Barrier{lanes, 0, 0});
    block.passed.resize(threads);
    block.shared.assign(config.dynamicSmemBytes + 2 * guard_bytes + 16, guard_value);
    std::memset(dynamic_memory(), 0xff, config.dynamicSmemBytes);  // NaN in every type
    block.events = 0;
    for (unsigned t = 0; t < threads; t++) block.fibers[t].done = false;
}

// Behind an error, fibers wait in the midst of a kernel: they begin anew.
void abandon() {
    for (Fiber& f : block.fibers) f.entered = false;
}

void check_guards(size_t bytes) {
    const auto* memory = static_cast<const unsigned char*>(dynamic_memory());
    for (size_t i = 0; i < guard_bytes; i++)
        if (memory[bytes + i] != guard_value ||
            memory[-1 - static_cast<ptrdiff_t>(i)] != guard_value)
            throw std::runtime_error("a kernel wrote beside its shared memory");
}

void run_block(const cudaLaunchConfig_t& config, unsigned index, const std::vector<int>& order) {
    prepare(config);
    blockIdx = dim3(index, 0, 0), blockDim = config.blockDim, gridDim = config.gridDim;
    for (bool alive = true; alive;) {
        alive = false;
        const int64_t before = block.events;
        for (const int t : order) {
            Fiber& f = block.fibers[t];
            if (f.done) continue;
            alive = true;
            threadIdx = dim3(static_cast<unsigned>(t), 0, 0);
            resume(f);
            if (block.error) std::rethrow_exception(std::exchange(block.error, nullptr));
        }
        if (alive && block.events == before)
            throw std::runtime_error("threads wait for each other: not all reach a barrier");
    }
    check_guards(config.dynamicSmemBytes);
}

}  // namespace

void* dynamic_memory() {
    const auto address = reinterpret_cast<uintptr_t>(block.shared.data()) + guard_bytes;
    return reinterpret_cast<void*>((address + 15) / 16 * 16);
}

void check_aligned(const void* pointer, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0)
        throw std::runtime_error("a vector is not aligned");
}

void wait_for_block() { wait(block.barrier); }

float exchange(float value, int lane) {
    const unsigned own = threadIdx.x;
    block.passed[own] = value;
    wait(own_warp());
    const float got = block.passed[own / lanes * lanes + lane];
    wait(own_warp());  // before anybody passes the next value
    return got;
}

bool all(bool value) {
    const unsigned first = threadIdx.x / lanes * lanes;
    block.passed[threadIdx.x] = value ? 1.0f : 0.0f;
    wait(own_warp());
    bool every = true;
    for (int lane = 0; lane < lanes; lane++) every = every && block.passed[first + lane] != 0;
    wait(own_warp());
    return every;
}

// Few multiprocessors, and where the tests want it little shared memory: small tensors are split
// among blocks then as large ones are on a GPU.
cudaError_t attribute(int* value, cudaDeviceAttr attribute) {
    const char* shared = std::getenv("PIX2GAN_EMULATED_SHARED_MEMORY");
    if (attribute == cudaDevAttrMultiProcessorCount)
        *value = 3;
    else
        *value = shared != nullptr ? std::atoi(shared) : static_cast<int>(most_shared);
    return cudaSuccess;
}

cudaError_t allow_shared(const void* kernel, int bytes) {
    if (bytes > static_cast<int>(most_shared)) return cudaErrorInvalidValue;
    allowed[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& body) {
    const std::lock_guard<std::mutex> lock(one_launch);
    const unsigned threads = config.blockDim.x;
    const auto limit = static_cast<size_t>(std::max(48 * 1024, allowed[kernel]));
    if (threads == 0 || threads > 1024 || threads % lanes != 0 || config.gridDim.x == 0 ||
        config.dynamicSmemBytes > limit)
        return cudaErrorInvalidConfiguration;
    std::vector<int> order(threads);
    for (unsigned t = 0; t < threads; t++) order[t] = static_cast<int>(t);
    if (launches % 3 == 1) std::reverse(order.begin(), order.end());
    if (launches % 3 == 2) std::shuffle(order.begin(), order.end(), std::mt19937(launches));
    block.body = &body;
    try {
        for (unsigned i = 0; i < config.gridDim.x; i++)
            run_block(config, launches % 2 == 0 ? i : config.gridDim.x - 1 - i, order);
    } catch (...) {
        abandon();
        throw;
    }
    launches++;
    return cudaSuccess;
}

}  // namespace emulation

// What the binding asks torch for the stream by, where torch was built for CUDA.
extern "C" __attribute__((visibility("default"))) int32_t
aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
    *stream = nullptr;
    return 0;
}
