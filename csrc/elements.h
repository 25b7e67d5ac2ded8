// Element types and index arithmetic that every kernel shares, on any device.

#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define PIX2GAN_SHARED __host__ __device__ inline
#else
#define PIX2GAN_SHARED inline
#endif

namespace pix2gan {

// 16-bit floats as memory holds them. Arithmetic is done in float.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// The integer at or below a / b, for b > 0.
PIX2GAN_SHARED int64_t floor_div(int64_t a, int64_t b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// One axis of upfirdn2d: out[o] = sum over k of f[k] * up(x)[o * down + k - pad], where
// up(x)[i * up] = x[i] and the rest is 0. Only every up-th tap meets a sample: those are
// f[first_tap + m * up] on x[first_sample + m], m in [0, count).
struct Taps {
    int64_t first_tap, first_sample, count;
};

PIX2GAN_SHARED Taps taps_at(int64_t out, int64_t up, int64_t down, int64_t pad, int64_t taps) {
    const int64_t position = out * down - pad;
    const int64_t sample = -floor_div(-position, up);  // rounded up
    const int64_t tap = sample * up - position;
    return {tap, sample, tap < taps ? (taps - tap + up - 1) / up : 0};
}

// The pixel of [0, size) that the padded position i - pad, i in [0, size + 2 pad), is copied from.
// Reflection requires pad < size.
PIX2GAN_SHARED int64_t reflect(int64_t position, int64_t size) {
    if (position < 0) position = -position;
    return position < size ? position : 2 * (size - 1) - position;
}

PIX2GAN_SHARED int64_t replicate(int64_t position, int64_t size) {
    return position < 0 ? 0 : position < size ? position : size - 1;
}

}  // namespace pix2gan
