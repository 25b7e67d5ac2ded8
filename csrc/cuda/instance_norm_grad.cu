// instance_norm_act_grad: sums over each plane of g = act'(z) * (dy without its padding) and of
// g * xhat, then dx. On chip g is computed once; otherwise twice, which is cheaper than to store
// it.

#include "normalisation.cuh"

namespace pix2gan::cuda {
namespace {

// How many blocks a multiprocessor is to hold: left alone, the compiler aims for one more and puts
// registers on the stack.
constexpr int plane_blocks = 4, image_blocks = 3;

// Of one channel: xhat = (x - mean) * rstd, z = weight * xhat + bias.
struct Channel {
    float mean, rstd, weight, bias;
};

PIX2GAN_INLINE Channel channel_of(const InstanceNormActGrad& k, int64_t image, int64_t channel) {
    const int64_t plane = image * k.c + channel;
    return {k.mean[plane], k.rstd[plane],
            k.weight != nullptr ? k.weight[image * k.weight_image + channel] : 1.0f,
            k.bias != nullptr ? k.bias[image * k.bias_image + channel] : 0.0f};
}

PIX2GAN_INLINE float normalised(const Channel& c, float x) { return (x - c.mean) * c.rstd; }

// p becomes g.
template <int n>
PIX2GAN_INLINE void times_slope(const InstanceNormActGrad& k, const Channel& c, const float (&x)[n],
                                float (&p)[n]) {
    with_activation(k.act, [&](auto act) {
#pragma unroll
        for (int e = 0; e < n; e++)
            p[e] =
                decltype(act)::times_slope(c.weight * normalised(c, x[e]) + c.bias, k.alpha, p[e]);
    });
}

// What is subtracted from g: its components along 1 and xhat, nothing where mean and rstd were
// given.
struct Components {
    float along_one, along_xhat;
};

PIX2GAN_INLINE Components components_of(const InstanceNormActGrad& k, float dbias, float dweight) {
    const float count = static_cast<float>(k.h * k.w);
    if (k.frozen) return {0, 0};
    return {dbias / count, dweight / count};
}

// The differences are rounded as they stand: fused with the product that g is, an equal one in
// along_one would not cancel.
PIX2GAN_INLINE float dx_of(const Channel& c, const Components& of, float x, float g) {
    return c.weight * c.rstd * (__fsub_rn(g, of.along_one) - normalised(c, x) * of.along_xhat);
}

// ----------------------------------------------------------------------------------- planes

// The sum over all copies of a pixel, in a padded plane.
template <class T>
PIX2GAN_INLINE float unpadded(const T* dy, const Copies<int>& rows, const Copies<int>& columns,
                              int64_t padded_w) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < count_of(rows); i++) {
        const int row = copy_at(rows, i);
        if (row < 0) continue;
        const T* from = dy + row * padded_w;
#pragma unroll 1
        for (int j = 0; j < count_of(columns); j++) {
            const int column = copy_at(columns, j);
            if (column >= 0) sum += widen(from[column]);
        }
    }
    return sum;
}

template <class T>
struct GradPlane {
    const T *x, *dy;
    T* dx;
    int64_t plane, image;
    Channel channel;

    PIX2GAN_INLINE GradPlane(const InstanceNormActGrad& k, int64_t plane)
        : plane(plane), image(plane / k.c) {
        x = plane_of<T>(k, plane);
        dy = static_cast<const T*>(k.dy) + plane * (k.h + 2 * k.pad) * (k.w + 2 * k.pad);
        dx = static_cast<T*>(k.dx) + plane * k.h * k.w;
        channel = channel_of(k, image, plane - image * k.c);
    }

    // x and g of n pixels from i on
    template <int n>
    PIX2GAN_INLINE void load_pixels(const InstanceNormActGrad& k, int64_t i, float (&to_x)[n],
                                    float (&g)[n]) const {
        load<n>(x + i, to_x);
        const int pad = static_cast<int>(k.pad);
        if (pad == 0) {
            load<n>(dy + i, g);
        } else {
            const int h = static_cast<int>(k.h), w = static_cast<int>(k.w);
            int row = static_cast<int>(quotient(i, w));
            int column = static_cast<int>(i - static_cast<int64_t>(row) * w);
            Copies<int> rows = copies_of(k.pad_mode, row, pad, h);
#pragma unroll
            for (int e = 0; e < n; e++) {
                g[e] = unpadded(dy, rows, copies_of(k.pad_mode, column, pad, w), w + 2 * pad);
                if (++column == w) column = 0, rows = copies_of(k.pad_mode, ++row, pad, h);
            }
        }
        times_slope<n>(k, channel, to_x, g);
    }

    template <int n>
    PIX2GAN_INLINE void store_pixels(const Components& of, int64_t i, const float (&from_x)[n],
                                     const float (&g)[n]) const {
        float out[n];
#pragma unroll
        for (int e = 0; e < n; e++) out[e] = dx_of(channel, of, from_x[e], g[e]);
        store<n>(dx + i, out);
    }
};

// A block for a plane, with g on chip.
template <class T, int n>
__global__ void __launch_bounds__(threads, plane_blocks)
    whole_plane_grad(const InstanceNormActGrad k) {
    float* memory = dynamic_shared<float>();
    float* tile = memory + 2 * warp;
    const GradPlane<T> of(k, blockIdx.x);
    const int count = static_cast<int>(k.h * k.w);
    float sums[2] = {0, 0};
    for (int i = threadIdx.x * n; i < count; i += blockDim.x * n) {
        float x[n], g[n];
        of.template load_pixels<n>(k, i, x, g);
        store<n>(tile + i, g);
#pragma unroll
        for (int e = 0; e < n; e++) {
            sums[0] += g[e];
            sums[1] += g[e] * normalised(of.channel, x[e]);
        }
    }
    block_sum(sums, memory);
    if (threadIdx.x == 0) {
        k.dbias[of.plane] = sums[0];
        k.dweight[of.plane] = sums[1];
    }
    const Components components = components_of(k, sums[0], sums[1]);
    for (int i = threadIdx.x * n; i < count; i += blockDim.x * n) {
        float x[n], g[n];
        load<n>(of.x + i, x);
        load<n>(tile + i, g);
        of.template store_pixels<n>(components, i, x, g);
    }
}

// parts: [planes, chunks, 2]
template <class T, int n>
__global__ void __launch_bounds__(threads, plane_blocks)
    sum_planes(const InstanceNormActGrad k, const int64_t chunks, float* parts) {
    float* memory = dynamic_shared<float>();
    const int64_t plane = quotient(blockIdx.x, chunks);
    const int64_t first = (blockIdx.x - plane * chunks) * plane_chunk;
    const int64_t last = smaller(first + plane_chunk, k.h * k.w);
    const GradPlane<T> of(k, plane);
    float sums[2] = {0, 0};
    for (int64_t i = first + threadIdx.x * n; i < last; i += blockDim.x * n) {
        float x[n], g[n];
        of.template load_pixels<n>(k, i, x, g);
#pragma unroll
        for (int e = 0; e < n; e++) {
            sums[0] += g[e];
            sums[1] += g[e] * normalised(of.channel, x[e]);
        }
    }
    block_sum(sums, memory);
    if (threadIdx.x < 2)
        parts[static_cast<int64_t>(blockIdx.x) * 2 + threadIdx.x] =
            threadIdx.x == 0 ? sums[0] : sums[1];
}

template <class T, int n>
__global__ void __launch_bounds__(threads, plane_blocks)
    write_planes_grad(const InstanceNormActGrad k, const int64_t chunks) {
    const int64_t plane = quotient(blockIdx.x, chunks);
    const int64_t first = (blockIdx.x - plane * chunks) * plane_chunk;
    const int64_t last = smaller(first + plane_chunk, k.h * k.w);
    const GradPlane<T> of(k, plane);
    const Components components = components_of(k, k.dbias[plane], k.dweight[plane]);
    for (int64_t i = first + threadIdx.x * n; i < last; i += blockDim.x * n) {
        float x[n], g[n];
        of.template load_pixels<n>(k, i, x, g);
        of.template store_pixels<n>(components, i, x, g);
    }
}

// ----------------------------------------------------------------------------------- images

template <class T, int n>
struct GradImage {
    const T *x, *dy;
    T* dx;
    Channel channel[n];

    PIX2GAN_INLINE GradImage(const InstanceNormActGrad& k, const Place& p) {
        const int64_t image = k.h * k.w * k.c;
        x = static_cast<const T*>(k.x) + p.image * image + p.channel;
        dy = static_cast<const T*>(k.dy) + p.image * (k.h + 2 * k.pad) * (k.w + 2 * k.pad) * k.c +
             p.channel;
        dx = static_cast<T*>(k.dx) + p.image * image + p.channel;
#pragma unroll
        for (int e = 0; e < n; e++)
            channel[e] = p.channel + e < k.c ? channel_of(k, p.image, p.channel + e) : Channel{};
    }

    PIX2GAN_INLINE void load_pixel(const InstanceNormActGrad& k, int64_t pixel, float (&to_x)[n],
                                   float (&g)[n]) const {
        load<n>(x + pixel * k.c, to_x);
        const int pad = static_cast<int>(k.pad);
        if (pad == 0) {
            load<n>(dy + pixel * k.c, g);
        } else {
            const int h = static_cast<int>(k.h), w = static_cast<int>(k.w);
            const int row = static_cast<int>(quotient(pixel, w));
            const int column = static_cast<int>(pixel - static_cast<int64_t>(row) * w);
            const Copies<int> rows = copies_of(k.pad_mode, row, pad, h);
            const Copies<int> columns = copies_of(k.pad_mode, column, pad, w);
#pragma unroll
            for (int e = 0; e < n; e++) g[e] = 0;
#pragma unroll 1
            for (int i = 0; i < count_of(rows); i++) {
                const int from_row = copy_at(rows, i);
                if (from_row < 0) continue;
                const T* from = dy + static_cast<int64_t>(from_row) * (w + 2 * pad) * k.c;
#pragma unroll 1
                for (int j = 0; j < count_of(columns); j++) {
                    const int from_column = copy_at(columns, j);
                    if (from_column < 0) continue;
                    float v[n];
                    load<n>(from + from_column * k.c, v);
#pragma unroll
                    for (int e = 0; e < n; e++) g[e] += v[e];
                }
            }
        }
        with_activation(k.act, [&](auto act) {
#pragma unroll
            for (int e = 0; e < n; e++) {
                const Channel& c = channel[e];
                g[e] = decltype(act)::times_slope(c.weight * normalised(c, to_x[e]) + c.bias,
                                                  k.alpha, g[e]);
            }
        });
    }
};

// parts: [images, chunks, channels, 2]
template <class T, int n>
__global__ void __launch_bounds__(threads, image_blocks)
    sum_images(const InstanceNormActGrad k, const Cut cut, float* parts) {
    float* memory = dynamic_shared<float>();
    const Place p = place_in(cut, n, k.h * k.w);
    const GradImage<T, n> of(k, p);
    float s1[n] = {}, s2[n] = {};
    if (p.channel < k.c)
        for (int64_t pixel = p.first + p.row; pixel < p.last; pixel += cut.rows) {
            float x[n], g[n];
            of.load_pixel(k, pixel, x, g);
#pragma unroll
            for (int e = 0; e < n; e++) {
                s1[e] += g[e];
                s2[e] += g[e] * normalised(of.channel[e], x[e]);
            }
        }
    lane_sum<n>(s1, cut.lanes, memory);
    lane_sum<n>(s2, cut.lanes, memory);
    if (p.row != 0) return;
    float* part = parts + ((p.image * cut.chunks + p.chunk) * k.c + p.channel) * 2;
#pragma unroll
    for (int e = 0; e < n; e++)
        if (p.channel + e < k.c) part[2 * e] = s1[e], part[2 * e + 1] = s2[e];
}

template <class T, int n>
__global__ void __launch_bounds__(threads, image_blocks)
    write_images_grad(const InstanceNormActGrad k, const Cut cut) {
    const Place p = place_in(cut, n, k.h * k.w);
    if (p.channel >= k.c) return;
    const GradImage<T, n> of(k, p);
    Components components[n];
#pragma unroll
    for (int e = 0; e < n; e++) {
        const int64_t plane = p.image * k.c + p.channel + e;
        components[e] = components_of(k, k.dbias[plane], k.dweight[plane]);
    }
    for (int64_t pixel = p.first + p.row; pixel < p.last; pixel += cut.rows) {
        float x[n], g[n], out[n];
        of.load_pixel(k, pixel, x, g);
#pragma unroll
        for (int e = 0; e < n; e++) out[e] = dx_of(of.channel[e], components[e], x[e], g[e]);
        store<n>(of.dx + pixel * k.c, out);
    }
}

// ----------------------------------------------------------------------------- parts to planes

struct MergeSums {
    int64_t n, c, chunks;
    int64_t image_stride, chunk_stride, channel_stride;  // in parts
    const float* parts;
    float *dbias, *dweight;
};

// A warp for a plane, as in the forward pass.
__global__ void __launch_bounds__(threads) merge_sums(const MergeSums k) {
    double* memory = dynamic_shared<double>();
    const int lane = threadIdx.x % warp;
    const int64_t plane = static_cast<int64_t>(blockIdx.x) * (threads / warp) + threadIdx.x / warp;
    const bool present = plane < k.n * k.c;
    const int64_t image = plane / k.c;
    const float* parts =
        k.parts + (image * k.image_stride + (plane - image * k.c) * k.channel_stride) * 2;
    double s1 = 0, s2 = 0;
    for (int64_t i = lane; present && i < k.chunks; i += warp) {
        s1 += parts[i * k.chunk_stride * 2];
        s2 += parts[i * k.chunk_stride * 2 + 1];
    }
    memory[2 * threadIdx.x] = s1, memory[2 * threadIdx.x + 1] = s2;
    __syncthreads();
    if (lane != 0 || !present) return;
    for (int i = 1; i < warp; i++) {
        s1 += memory[2 * (threadIdx.x + i)];
        s2 += memory[2 * (threadIdx.x + i) + 1];
    }
    k.dbias[plane] = static_cast<float>(s1);
    k.dweight[plane] = static_cast<float>(s2);
}

template <class T>
void gradient(const InstanceNormActGrad& k, const Stream& stream) {
    const int64_t pixels = k.h * k.w, planes = k.n * k.c;
    const int64_t bytes = sizeof(T) * plane_vector;
    const bool plane_vectors =
        has_plane_vectors(k) && is_aligned(k.dx, bytes) && (k.pad != 0 || is_aligned(k.dy, bytes));
    const int64_t on_chip = (2 * warp + pixels) * sizeof(float);
    if (!k.channels_last && on_chip <= on_chip_bytes()) {
        launch(stream, plane_vectors ? whole_plane_grad<T, plane_vector> : whole_plane_grad<T, 1>,
               planes, threads_for(pixels, plane_vector), on_chip, k);
        return;
    }
    MergeSums m = {};
    m.n = k.n, m.c = k.c, m.dbias = k.dbias, m.dweight = k.dweight;
    const auto merge = [&](auto sum, int64_t blocks, int block_threads, int shared, auto cut) {
        auto* parts = static_cast<float*>(
            stream.scratch(planes * m.chunks * 2 * sizeof(float), stream.context));
        m.parts = parts;
        launch(stream, sum, blocks, block_threads, shared, k, cut, parts);
        launch(stream, merge_sums, ceil_div(planes, threads / warp), threads,
               2 * threads * sizeof(double), m);
    };
    if (k.channels_last) {
        // More at a time would need more registers than there are.
        constexpr int n = 4;
        const bool vectors = has_channel_vectors<T>(k, n) && is_aligned(k.dy, n * sizeof(T)) &&
                             is_aligned(k.dx, n * sizeof(T));
        const Cut cut = cut_image(k.c, pixels, vectors ? n : 1, sizeof(T));
        m.chunks = cut.chunks;
        m.image_stride = cut.chunks * k.c, m.chunk_stride = k.c, m.channel_stride = 1;
        merge(vectors ? sum_images<T, n> : sum_images<T, 1>, cut.blocks(k.n), threads, sums_bytes,
              cut);
        launch(stream, vectors ? write_images_grad<T, n> : write_images_grad<T, 1>, cut.blocks(k.n),
               threads, 0, k, cut);
    } else {
        m.chunks = ceil_div(pixels, plane_chunk);
        m.image_stride = k.c * m.chunks, m.chunk_stride = 1, m.channel_stride = m.chunks;
        const int block_threads = threads_for(smaller(pixels, plane_chunk), plane_vector);
        merge(plane_vectors ? sum_planes<T, plane_vector> : sum_planes<T, 1>, planes * m.chunks,
              block_threads, 2 * warp * sizeof(float), m.chunks);
        launch(stream, plane_vectors ? write_planes_grad<T, plane_vector> : write_planes_grad<T, 1>,
               planes * m.chunks, block_threads, 0, k, m.chunks);
    }
}

}  // namespace

void instance_norm_act_grad(const InstanceNormActGrad& k, const Stream& stream) {
    if (k.n * k.c * k.h * k.w == 0) return;
    with_type(k.type, [&](auto t) { gradient<decltype(t)>(k, stream); });
}

}  // namespace pix2gan::cuda
