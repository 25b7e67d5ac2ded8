// What stands before and behind the vendor's convolution in scaled_conv2d: styles, demodulation,
// noise, bias and activation, each of the two in one pass; and the layout that the convolution is
// fastest in, on the way.
//
// Where the layout stays, elements go in vectors of 16 bytes. Where it changes, tiles of 32
// channels by 32 pixels are turned in shared memory, so that both sides are read and written along
// the order of memory.

#include "device.cuh"

namespace pix2gan::cuda {
namespace {

constexpr int threads = 256;

template <int n>
struct Terms {
    float x[n], scale[n], added[n];  // added: noise and bias
};

template <int n>
PIX2GAN_INLINE void compute(const ScaleAct& k, const Terms<n>& v, float (&out)[n]) {
    with_activation(k.act, [&](auto act) {
#pragma unroll
        for (int e = 0; e < n; e++)
            out[e] = clip(decltype(act)::value(v.x[e] * v.scale[e] + v.added[e], k.alpha) * k.gain,
                          k.clamp);
    });
}

PIX2GAN_INLINE float noise_at(const ScaleAct& k, int64_t image, int64_t pixel) {
    return k.noise != nullptr ? k.noise[image * k.noise_image + pixel] : 0.0f;
}

PIX2GAN_INLINE float scale_at(const ScaleAct& k, int64_t image, int64_t channel) {
    return k.scale != nullptr ? k.scale[image * k.c + channel] : 1.0f;
}

PIX2GAN_INLINE float bias_at(const ScaleAct& k, int64_t channel) {
    return k.b != nullptr ? k.b[channel] : 0.0f;
}

// ------------------------------------------------------------------------------- same layout

// n pixels of a plane.
template <class T, int n>
__global__ void __launch_bounds__(threads) scale_planes(const ScaleAct k, const int64_t vectors) {
    const int64_t vector = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (vector >= vectors) return;
    const int64_t i = vector * n, pixels = k.h * k.w, plane = quotient(i, pixels);
    const int64_t pixel = i - plane * pixels, image = quotient(plane, k.c);
    const int64_t channel = plane - image * k.c;
    const T* x = static_cast<const T*>(k.x) + image * k.x_image + channel * k.x_plane;
    Terms<n> v;
    load<n>(x + pixel, v.x);
    const float scale = scale_at(k, image, channel), bias = bias_at(k, channel);
#pragma unroll
    for (int e = 0; e < n; e++) {
        v.scale[e] = scale;
        v.added[e] = noise_at(k, image, pixel + e) + bias;
    }
    float out[n];
    compute<n>(k, v, out);
    store<n>(static_cast<T*>(k.out) + i, out);
}

// n channels of a pixel.
template <class T, int n>
__global__ void __launch_bounds__(threads) scale_images(const ScaleAct k, const int64_t vectors) {
    const int64_t vector = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (vector >= vectors) return;
    const int64_t i = vector * n, pixels = k.h * k.w, pixel_of_all = quotient(i, k.c);
    const int64_t channel = i - pixel_of_all * k.c, image = quotient(pixel_of_all, pixels);
    const float noise = noise_at(k, image, pixel_of_all - image * pixels);
    Terms<n> v;
    load<n>(static_cast<const T*>(k.x) + i, v.x);
#pragma unroll
    for (int e = 0; e < n; e++) {
        v.scale[e] = scale_at(k, image, channel + e);
        v.added[e] = noise + bias_at(k, channel + e);
    }
    float out[n];
    compute<n>(k, v, out);
    store<n>(static_cast<T*>(k.out) + i, out);
}

// ------------------------------------------------------------------------------ other layout

constexpr int side = 32;  // of a tile

template <class T, bool to_channels_last>
__global__ void __launch_bounds__(threads)
    turn(const ScaleAct k, const int64_t across, const int64_t along) {
    float* tile = dynamic_shared<float>();  // [channels, pixels], a column more than there are
    const int64_t pixels = k.h * k.w;
    const int64_t row = quotient(blockIdx.x, across), image = quotient(row, along);
    const int64_t first_pixel = (blockIdx.x - row * across) * side;
    const int64_t first_channel = (row - image * along) * side;
    const int lane = threadIdx.x % side, own = threadIdx.x / side;
    for (int i = own; i < side; i += threads / side) {
        const int c = to_channels_last ? i : lane, p = to_channels_last ? lane : i;
        const int64_t channel = first_channel + c, pixel = first_pixel + p;
        if (channel >= k.c || pixel >= pixels) continue;
        const T* x =
            static_cast<const T*>(k.x) + image * (to_channels_last ? k.x_image : pixels * k.c);
        x += to_channels_last ? channel * k.x_plane + pixel : pixel * k.c + channel;
        Terms<1> v;
        v.x[0] = widen(*x);
        v.scale[0] = scale_at(k, image, channel);
        v.added[0] = noise_at(k, image, pixel) + bias_at(k, channel);
        float out[1];
        compute<1>(k, v, out);
        tile[c * (side + 1) + p] = out[0];
    }
    __syncthreads();
    T* out = static_cast<T*>(k.out) + image * k.c * pixels;
    for (int i = own; i < side; i += threads / side) {
        const int c = to_channels_last ? lane : i, p = to_channels_last ? i : lane;
        const int64_t channel = first_channel + c, pixel = first_pixel + p;
        if (channel >= k.c || pixel >= pixels) continue;
        narrow(tile[c * (side + 1) + p],
               out[to_channels_last ? pixel * k.c + channel : channel * pixels + pixel]);
    }
}

template <class T>
void run(const ScaleAct& k, const Stream& stream) {
    const int64_t pixels = k.h * k.w, total = k.n * k.c * pixels;
    if (total == 0) return;
    if (k.from_channels_last != k.to_channels_last) {
        const int64_t across = ceil_div(pixels, side), along = ceil_div(k.c, side);
        launch(stream, k.to_channels_last ? turn<T, true> : turn<T, false>, across * along * k.n,
               threads, side * (side + 1) * sizeof(float), k, across, along);
        return;
    }
    constexpr int n = full<T>;
    bool vectors = is_aligned(k.x) && is_aligned(k.out);
    if (k.to_channels_last) {
        vectors = vectors && k.c % n == 0;
        const int64_t count = vectors ? total / n : total;
        launch(stream, vectors ? scale_images<T, n> : scale_images<T, 1>, ceil_div(count, threads),
               threads, 0, k, count);
    } else {
        vectors = vectors && pixels % n == 0 && k.x_plane % n == 0 && k.x_image % n == 0;
        const int64_t count = vectors ? total / n : total;
        launch(stream, vectors ? scale_planes<T, n> : scale_planes<T, 1>, ceil_div(count, threads),
               threads, 0, k, count);
    }
}

// ----------------------------------------------------------------------------------- weights

// An element for a thread, in the order of out's memory: weights are small.
template <class T>
__global__ void __launch_bounds__(threads) scale_weights(const ScaleWeight k, const int64_t total) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= total) return;
    const int64_t order[4] = {0, k.channels_last ? 2 : 1, k.channels_last ? 3 : 2,
                              k.channels_last ? 1 : 3};
    int64_t rest = i, from = 0, first = 0, second = 0;
#pragma unroll
    for (int axis = 3; axis >= 0; axis--) {
        const bool inner = order[axis] == 1;
        const int64_t size = order[axis] == 0   ? k.size[0]
                             : inner            ? k.size[1]
                             : order[axis] == 2 ? k.size[2]
                                                : k.size[3];
        const int64_t stride = order[axis] == 0   ? k.strides[0]
                               : inner            ? k.strides[1]
                               : order[axis] == 2 ? k.strides[2]
                                                  : k.strides[3];
        const int64_t before = quotient(rest, size), at = rest - before * size;
        from += at * stride;
        if (axis == 0) first = at;
        if (inner) second = at;
        rest = before;
    }
    float v = widen(static_cast<const T*>(k.w)[from]);
    if (k.first != nullptr) v *= k.first[first];
    if (k.second != nullptr) v *= k.second[second];
    narrow(v, static_cast<T*>(k.out)[i]);
}

// cuDNN convolves in every type: nothing is converted.
void require_one_type(Type from, Type to) {
    if (from != to) throw std::runtime_error("CUDA: scaling does not convert between types");
}

}  // namespace

bool convolves(Type) { return true; }

void scale_act(const ScaleAct& k, const Stream& stream) {
    require_one_type(k.from, k.to);
    with_type(k.from, [&](auto t) { run<decltype(t)>(k, stream); });
}

void scale_weight(const ScaleWeight& k, const Stream& stream) {
    require_one_type(k.from, k.to);
    const int64_t total = k.size[0] * k.size[1] * k.size[2] * k.size[3];
    with_type(k.from, [&](auto t) {
        launch(stream, scale_weights<decltype(t)>, ceil_div(total, threads), threads, 0, k, total);
    });
}

}  // namespace pix2gan::cuda
