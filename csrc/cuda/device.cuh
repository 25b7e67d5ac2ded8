// What every CUDA kernel uses: elements in vectors, activations, sums over a block, launches.
//
// nvcc compiles the kernels; so does a host compiler, with an emulation of CUDA's runtime in the
// place of <cuda_runtime.h>, so that they are tested on machines without a GPU. Hence no syntax
// here that only nvcc knows (launches go through cudaLaunchKernelEx), and PTX only where it is
// compiled for a GPU.

#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../elements.h"
#include "../kernels.h"

#define PIX2GAN_INLINE __device__ __forceinline__
// Inlined as well: a call would put registers on the stack.
#define PIX2GAN_OUTLINE __device__ __forceinline__

namespace pix2gan::cuda {

// ------------------------------------------------------------------------------- elements

PIX2GAN_INLINE float widen(float v) { return v; }

PIX2GAN_INLINE float widen(bfloat16 v) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(static_cast<uint32_t>(v.bits) << 16);
#else
    return widened(v);
#endif
}

PIX2GAN_INLINE float widen(float16 v) {
#if defined(__CUDA_ARCH__)
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(v.bits));
    return out;
#else
    return widened(v);
#endif
}

// Rounded to nearest, ties to even.
PIX2GAN_INLINE void narrow(float v, float& out) { out = v; }

PIX2GAN_INLINE void narrow(float v, bfloat16& out) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
#else
    out = narrowed<bfloat16>(v);
#endif
}

PIX2GAN_INLINE void narrow(float v, float16& out) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
#else
    out = narrowed<float16>(v);
#endif
}

// n elements, aligned as a whole: what one instruction loads or stores, 16 bytes at most.
template <class T, int n>
struct alignas(sizeof(T) * n) Vector {
    T element[n];
};

// Elements in 16 bytes.
template <class T>
constexpr int full = 16 / sizeof(T);

template <int n, class T>
PIX2GAN_INLINE Vector<T, n> load_raw(const T* from) {
#if !defined(__CUDACC__)
    emulation::check_aligned(from, sizeof(T) * n);
#endif
    return *reinterpret_cast<const Vector<T, n>*>(from);
}

template <int n, class T>
PIX2GAN_INLINE void store_raw(T* to, const Vector<T, n>& v) {
#if !defined(__CUDACC__)
    emulation::check_aligned(to, sizeof(T) * n);
#endif
    *reinterpret_cast<Vector<T, n>*>(to) = v;
}

template <int n, class T>
PIX2GAN_INLINE void load(const T* from, float (&to)[n]) {
    const Vector<T, n> v = load_raw<n>(from);
#pragma unroll
    for (int i = 0; i < n; i++) to[i] = widen(v.element[i]);
}

template <int n, class T>
PIX2GAN_INLINE void store(T* to, const float (&from)[n]) {
    Vector<T, n> v;
#pragma unroll
    for (int i = 0; i < n; i++) narrow(from[i], v.element[i]);
    store_raw<n>(to, v);
}

// The first `count` of n elements; the others are 0.
template <int n, class T>
PIX2GAN_INLINE void load_first(const T* from, float (&to)[n], int64_t count) {
    if (count >= n) return load<n>(from, to);
#pragma unroll
    for (int i = 0; i < n; i++) to[i] = i < count ? widen(from[i]) : 0.0f;
}

template <int n, class T>
PIX2GAN_INLINE void store_first(T* to, const float (&from)[n], int64_t count) {
    if (count >= n) return store<n>(to, from);
#pragma unroll
    for (int i = 0; i < n; i++)
        if (i < count) narrow(from[i], to[i]);
}

// a / b for numbers that are not negative: by 32 bits where they have no more, which takes a
// quarter of the time.
PIX2GAN_INLINE int64_t quotient(int64_t a, int64_t b) {
    return ((a | b) >> 32) == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}

// ----------------------------------------------------------------------------- activations

PIX2GAN_INLINE float select(bool condition, float a, float b) { return condition ? a : b; }
// b where one of them is not a number
PIX2GAN_INLINE float maximum(float a, float b) { return a > b ? a : b; }
PIX2GAN_INLINE float minimum(float a, float b) { return a < b ? a : b; }
PIX2GAN_INLINE float absolute(float v) { return fabsf(v); }
PIX2GAN_INLINE float exp_negative(float v) { return expf(v); }
PIX2GAN_INLINE float expm1_negative(float v) { return expm1f(v); }
PIX2GAN_INLINE float log1p(float v) { return log1pf(v); }

#include "../activation.h"

// An activation that is known when the kernel is compiled.
template <Act act>
struct Activation {
    static constexpr activation::Kind kind = act == Act::linear  ? activation::linear
                                             : act == Act::relu  ? activation::relu
                                             : act == Act::lrelu ? activation::lrelu
                                                                 : activation::any;
    static constexpr bool from_y = kind != activation::any;

    PIX2GAN_INLINE static float value(float v, float alpha) {
        return activation::value<kind>(act, v, alpha);
    }
    PIX2GAN_INLINE static float times_slope(float v, float alpha, float g) {
        return activation::times_slope<kind>(act, v, alpha, g);
    }
    PIX2GAN_INLINE static float curvature(float v, float alpha) {
        return activation::curvature(act, v, alpha);
    }
};

// Calls `work` with the activation: chosen once for many elements, rather than by a kernel of its
// own for each, of which there would be hundreds.
template <class Work>
PIX2GAN_INLINE void with_activation(Act act, const Work& work) {
    switch (act) {
        case Act::linear:
            return work(Activation<Act::linear>());
        case Act::relu:
            return work(Activation<Act::relu>());
        case Act::lrelu:
            return work(Activation<Act::lrelu>());
        case Act::tanh:
            return work(Activation<Act::tanh>());
        case Act::sigmoid:
            return work(Activation<Act::sigmoid>());
        case Act::elu:
            return work(Activation<Act::elu>());
        case Act::selu:
            return work(Activation<Act::selu>());
        case Act::softplus:
            return work(Activation<Act::softplus>());
        case Act::swish:
            return work(Activation<Act::swish>());
    }
}

// clip(v, +-limit); a negative limit clips nothing, and what is not a number stays so.
PIX2GAN_INLINE float clip(float v, float limit) {
    return limit < 0 ? v : minimum(limit, maximum(-limit, v));
}

// ----------------------------------------------------------------------------------- blocks

constexpr int warp = 32;

// The memory that a launch asked for, aligned for any vector.
template <class T>
PIX2GAN_INLINE T* dynamic_shared() {
#if defined(__CUDACC__)
    extern __shared__ __align__(16) unsigned char dynamic_memory[];
    return reinterpret_cast<T*>(dynamic_memory);
#else
    return reinterpret_cast<T*>(emulation::dynamic_memory());
#endif
}

// The sums of `count` floats over all threads of a block, of whole warps, for each of them; always
// added in the same order. `memory` is shared, [warps, count], and may be used again behind it.
template <int count>
PIX2GAN_INLINE void block_sum(float (&v)[count], float* memory) {
#pragma unroll
    for (int i = 0; i < count; i++)
#pragma unroll
        for (int step = warp / 2; step > 0; step /= 2)
            v[i] += __shfl_xor_sync(0xffffffffu, v[i], step);
    const int lane = threadIdx.x % warp, own = threadIdx.x / warp, warps = blockDim.x / warp;
    if (lane == 0)
        for (int i = 0; i < count; i++) memory[own * count + i] = v[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < count; i++) {
        v[i] = 0;
        for (int w = 0; w < warps; w++) v[i] += memory[w * count + i];
    }
    __syncthreads();
}

// --------------------------------------------------------------------------------- launches

inline void check(cudaError_t error) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device));
    check(cudaDeviceGetAttribute(&value, attribute, device));
    return value;
}

// Queues a kernel on [blocks] blocks of so many threads, with `shared` bytes of dynamic memory.
template <class... Parameters, class... Arguments>
void launch(const Stream& stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
            int64_t shared, Arguments... arguments) {
    if (blocks <= 0) return;
    if (blocks > 0x7fffffff) throw std::runtime_error("CUDA: the tensor is too large");
    constexpr int64_t without_asking = 48 * 1024;
    if (shared > without_asking)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = static_cast<cudaStream_t>(stream.handle);
    check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Calls `work` with a value of the element type.
template <class Work>
void with_type(Type type, const Work& work) {
    if (type == Type::float32) return work(float());
    if (type == Type::bfloat16) return work(bfloat16());
    return work(float16());
}

// Whether a pointer, where it is not null, may be loaded from in vectors of so many bytes.
inline bool is_aligned(const void* pointer, int64_t bytes = 16) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace pix2gan::cuda
