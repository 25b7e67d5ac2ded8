// As much of CUDA's runtime as the kernels of csrc/cuda use, on a CPU, for their tests.
//
// A host compiler finds this file in the place of CUDA's own. Each thread of a block is a fiber;
// blocks run one after the other, their threads in an order that changes from launch to launch
// (ascending, descending, shuffled), each until it waits for others. So a barrier that is missing
// shows as a result that differs between two runs. Also found: barriers that not all threads reach,
// vectors that are not aligned, writes beside the shared memory that a launch asked for, and shared
// memory that is read before it is written (it is filled with NaN before each block).

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

namespace emulation {

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& body);
void* dynamic_memory();
void check_aligned(const void* pointer, size_t bytes);
void wait_for_block();
// The value that another lane of the warp passes.
float exchange(float value, int lane);
bool all(bool value);
cudaError_t attribute(int* value, cudaDeviceAttr attribute);
cudaError_t allow_shared(const void* kernel, int bytes);

}  // namespace emulation

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

// Of the thread that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulation::wait_for_block(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
    return emulation::exchange(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
inline float __shfl_sync(unsigned, float value, int lane) {
    return emulation::exchange(value, lane);
}
inline int __all_sync(unsigned, int value) { return emulation::all(value != 0); }

inline float __fsub_rn(float a, float b) { return a - b; }

inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidConfiguration ? "invalid configuration" : "invalid value";
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    return emulation::attribute(value, attribute);
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
    return emulation::allow_shared(kernel, value);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    const std::tuple<Parameters...> copies(arguments...);
    return emulation::run(*config, reinterpret_cast<const void*>(kernel),
                          [&] { std::apply(kernel, copies); });
}
