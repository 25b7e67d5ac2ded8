// Element types and index arithmetic that every kernel shares, on any device.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define PIX2GAN_SHARED __host__ __device__ inline
#else
#define PIX2GAN_SHARED inline __attribute__((always_inline))
#endif

#include "kernels.h"

namespace pix2gan {

// 16-bit floats as memory holds them. Arithmetic is done in float.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// To float and back, rounded to nearest, ties to even: where the hardware has no instruction for
// it. cpu/vector.h does the same to vectors.
inline float widened(float v) { return v; }

inline float widened(bfloat16 v) {
    const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline float widened(float16 v) {
    // Exponent and mantissa move to their new places, a product corrects the exponent's bias and
    // normalises subnormals; infinity and NaN get their exponent by hand.
    const uint32_t magnitude = (v.bits & 0x7fffu) << 13, sign = (v.bits & 0x8000u) << 16;
    float scaled;
    std::memcpy(&scaled, &magnitude, sizeof scaled);
    scaled *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &scaled, sizeof bits);
    bits = (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits) | sign;
    std::memcpy(&scaled, &bits, sizeof bits);
    return scaled;
}

template <class T>
T narrowed(float v);

template <>
inline float narrowed<float>(float v) {
    return v;
}

template <>
inline bfloat16 narrowed<bfloat16>(float v) {
    uint32_t u;
    std::memcpy(&u, &v, sizeof u);
    if (v != v) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

template <>
inline float16 narrowed<float16>(float v) {
    uint32_t u;
    std::memcpy(&u, &v, sizeof u);
    const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    uint32_t bits;
    if (magnitude >= 0x47800000u) {
        bits = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    } else if (magnitude < 0x38800000u) {
        // Below 2^-14 the result is subnormal: adding 0.5 lets the addition round at 2^-24.
        float shifted;
        std::memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits -= 0x3f000000u;
    } else {
        bits = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return {static_cast<uint16_t>(bits | sign)};
}

PIX2GAN_SHARED int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
PIX2GAN_SHARED int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PIX2GAN_SHARED int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

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

// Those of them that lie on one of `size` samples.
PIX2GAN_SHARED Taps clipped(Taps t, int64_t up, int64_t size) {
    const int64_t before = larger(0, -t.first_sample);
    return {t.first_tap + before * up, t.first_sample + before,
            larger(0, smaller(t.count - before, size - t.first_sample - before))};
}

// The pixel of [0, size) that the padded position i - pad, i in [0, size + 2 pad), is copied from.
// Reflection requires pad < size.
template <class Index>
PIX2GAN_SHARED Index reflect(Index position, Index size) {
    if (position < 0) position = -position;
    return position < size ? position : 2 * (size - 1) - position;
}

template <class Index>
PIX2GAN_SHARED Index replicate(Index position, Index size) {
    return position < 0 ? 0 : position < size ? position : size - 1;
}

// The pixel that padded position `to` is copied from; -1: a zero.
template <class Index>
PIX2GAN_SHARED Index pad_source(Pad mode, Index to, Index pad, Index size) {
    const Index position = to - pad;
    if (mode == Pad::reflect) return reflect(position, size);
    if (mode == Pad::replicate) return replicate(position, size);
    return position >= 0 && position < size ? position : -1;
}

// The padded positions that are copies of a pixel, along one axis: [begin, end) and, where they are
// not negative, two mirrored ones.
template <class Index>
struct Copies {
    Index begin, end, before, behind;
};

template <class Index>
PIX2GAN_SHARED Copies<Index> copies_of(Pad mode, Index pixel, Index pad, Index size) {
    Copies<Index> c = {pixel + pad, pixel + pad + 1, -1, -1};
    if (mode == Pad::replicate) {
        if (pixel == 0) c.begin = 0;
        if (pixel == size - 1) c.end = size + 2 * pad;
    } else if (mode == Pad::reflect) {
        if (pixel > 0 && pixel <= pad) c.before = pad - pixel;
        if (pixel < size - 1 && pixel >= size - 1 - pad) c.behind = pad + 2 * (size - 1) - pixel;
    }
    return c;
}

// To go through them: i in [0, count_of), a negative position being none.
template <class Index>
PIX2GAN_SHARED Index count_of(const Copies<Index>& c) {
    return c.end - c.begin + (c.before >= 0 || c.behind >= 0 ? 2 : 0);
}

template <class Index>
PIX2GAN_SHARED Index copy_at(const Copies<Index>& c, Index i) {
    const Index range = c.end - c.begin;
    return i < range ? c.begin + i : i == range ? c.before : c.behind;
}

// Statistics of a set of numbers: their count, mean and sum of squared deviations from the mean.
struct Moments {
    double count = 0, mean = 0, m2 = 0;

    // Those of both sets together (Chan, Golub, LeVeque 1979).
    PIX2GAN_SHARED void merge(const Moments& other) {
        const double total = count + other.count, delta = other.mean - mean;
        mean += delta * (other.count / total);
        m2 += other.m2 + delta * delta * (count * other.count / total);
        count = total;
    }
};

}  // namespace pix2gan
