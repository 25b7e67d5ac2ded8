// bias_act and its gradients: one pass over memory, in vectors of 16 bytes.
//
// A thread takes two vectors, loaded before either is used: with some forty registers that keeps
// enough bytes on their way to saturate memory. The activation is chosen once a vector.

#include "device.cuh"

namespace pix2gan::cuda {
namespace {

constexpr int threads = 256;
constexpr int vectors = 2;  // a thread

// The channels of n elements from i on, of a dense [outer, channels, inner].
template <class Index, int n>
PIX2GAN_INLINE void load_bias(const BiasAct& k, Index i, float (&b)[n]) {
    const Index inner = static_cast<Index>(k.inner), channels = static_cast<Index>(k.channels);
    const Index plane = i / inner;
    Index within = i - plane * inner, channel = plane % channels;
#pragma unroll
    for (int e = 0; e < n; e++) {
        b[e] = k.b[channel];
        if (++within == inner) {
            within = 0;
            if (++channel == channels) channel = 0;
        }
    }
}

template <int order, class T, int n>
struct Operands {
    float x[n], dy[n], ddx[n], b[n];
};

template <int order, class A, int n, class T>
PIX2GAN_INLINE void compute(const BiasAct& k, const Operands<order, T, n>& v, float (&out)[n]) {
#pragma unroll
    for (int e = 0; e < n; e++) {
        // order 1 of piecewise linear activations: x is y, whose sign is that of v
        const float at = order == 1 && A::from_y ? v.x[e] : v.x[e] + v.b[e];
        if (order == 0) {
            out[e] = clip(A::value(at, k.alpha) * k.gain, k.clamp);
            continue;
        }
        float g = v.dy[e] * k.gain;
        g = order == 1 ? A::times_slope(at, k.alpha, g) : g * v.ddx[e] * A::curvature(at, k.alpha);
        if (k.clamp >= 0) {
            const float y = order == 1 && A::from_y ? at : A::value(at, k.alpha) * k.gain;
            g = absolute(y) < k.clamp ? g : 0.0f;
        }
        out[e] = g;
    }
}

template <int order, class T, int n>
__global__ void __launch_bounds__(threads) elementwise(const BiasAct k, const int64_t total) {
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * vectors * threads + threadIdx.x) * n;
    const T* x = static_cast<const T*>(k.x != nullptr ? k.x : k.y);
    Operands<order, T, n> v[vectors];
#pragma unroll
    for (int u = 0; u < vectors; u++) {
        const int64_t i = first + u * threads * n, rest = total - i;
        if (rest <= 0) continue;
        load_first<n>(x + i, v[u].x, rest);
        if (order >= 1) load_first<n>(static_cast<const T*>(k.dy) + i, v[u].dy, rest);
        if (order == 2) load_first<n>(static_cast<const T*>(k.ddx) + i, v[u].ddx, rest);
    }
#pragma unroll
    for (int u = 0; u < vectors; u++) {
        const int64_t i = first + u * threads * n, rest = total - i;
        if (rest <= 0) continue;
        if (k.b == nullptr) {
#pragma unroll
            for (int e = 0; e < n; e++) v[u].b[e] = 0;
        } else if (total <= 0x7fffffff) {  // divisions of 32 bits take a quarter of the time
            load_bias<uint32_t>(k, static_cast<uint32_t>(i), v[u].b);
        } else {
            load_bias<int64_t>(k, i, v[u].b);
        }
        float out[n];
        with_activation(k.act, [&](auto a) { compute<order, decltype(a), n, T>(k, v[u], out); });
        store_first<n>(static_cast<T*>(k.out) + i, out, rest);
    }
}

template <int order, class T>
void run(const BiasAct& k, const Stream& stream) {
    const int64_t total = k.outer * k.channels * k.inner;
    bool aligned = is_aligned(k.out);
    for (const void* operand : {k.x, k.y, k.dy, k.ddx}) aligned = aligned && is_aligned(operand);
    const int n = aligned ? full<T> : 1;
    const int64_t blocks = ceil_div(total, int64_t{n} * vectors * threads);
    launch(stream, aligned ? elementwise<order, T, full<T>> : elementwise<order, T, 1>, blocks,
           threads, 0, k, total);
}

}  // namespace

void bias_act(const BiasAct& k, const Stream& stream) {
    with_type(k.type, [&](auto t) {
        using T = decltype(t);
        if (k.order == 0) return run<0, T>(k, stream);
        if (k.order == 1) return run<1, T>(k, stream);
        run<2, T>(k, stream);
    });
}

}  // namespace pix2gan::cuda
