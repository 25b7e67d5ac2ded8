// instance_norm_stats and instance_norm_act.
//
// The statistics of what is on chip take two passes over it: the mean; then the deviations from it,
// whose own mean says what rounding the first one left out. So nothing cancels, wherever the data
// lie. Statistics of chunks are merged in double precision, a few numbers a plane.

#include "normalisation.cuh"

namespace pix2gan::cuda {
namespace {

// The mean of a chunk is mean + rest.
struct ChunkMoments {
    float mean, rest, m2;
};

// y = act((x - mean) * scale + shift)
struct Affine {
    float mean, scale, shift;
};

PIX2GAN_INLINE Affine affine_of(const InstanceNormAct& k, int64_t image, int64_t channel,
                                float mean, float rest, float rstd) {
    const float weight = k.weight != nullptr ? k.weight[image * k.weight_image + channel] : 1.0f;
    const float bias = k.bias != nullptr ? k.bias[image * k.bias_image + channel] : 0.0f;
    const float scale = weight * rstd;
    return {mean, scale, bias - rest * scale};
}

// ----------------------------------------------------------------------------------- planes

// Copies `count` elements to shared memory and computes their statistics.
template <class T, int n>
PIX2GAN_INLINE ChunkMoments chunk_moments(const T* x, T* tile, int count, float* memory) {
    float sum[1] = {0};
#pragma unroll 4
    for (int i = threadIdx.x * n; i < count; i += blockDim.x * n) {
        const Vector<T, n> raw = load_raw<n>(x + i);
        store_raw<n>(tile + i, raw);
#pragma unroll
        for (int e = 0; e < n; e++) sum[0] += widen(raw.element[e]);
    }
    block_sum(sum, memory);
    const float mean = sum[0] / count;
    float deviations[2] = {0, 0};  // from the mean, and squared
    for (int i = threadIdx.x * n; i < count; i += blockDim.x * n) {
        float v[n];
        load<n>(tile + i, v);
#pragma unroll
        for (int e = 0; e < n; e++) {
            const float d = v[e] - mean;
            deviations[0] += d;
            deviations[1] += d * d;
        }
    }
    block_sum(deviations, memory);
    const float rest = deviations[0] / count;
    return {mean, rest, maximum(deviations[1] - deviations[0] * rest, 0.0f)};
}

// Elements [first, last) of a padded plane, from x and residual (or null) of the plane itself.
template <class T, int n>
PIX2GAN_INLINE void write_padded(const InstanceNormAct& k, const Affine& a, const T* x,
                                 const T* residual, T* y, int64_t first, int64_t last) {
    const int pad = static_cast<int>(k.pad), h = static_cast<int>(k.h), w = static_cast<int>(k.w);
    const int padded_w = w + 2 * pad;
    for (int64_t i = first + threadIdx.x * n; i < last; i += blockDim.x * n) {
        float v[n], added[n];
        bool inside[n];
        if (pad == 0) {
            load<n>(x + i, v);
            if (residual != nullptr) load<n>(residual + i, added);
#pragma unroll
            for (int e = 0; e < n; e++) {
                inside[e] = true;
                if (residual == nullptr) added[e] = 0;
            }
        } else {
            int row = static_cast<int>(quotient(i, padded_w));
            int column = static_cast<int>(i - static_cast<int64_t>(row) * padded_w);
#pragma unroll
            for (int e = 0; e < n; e++) {
                const int from_row = pad_source(k.pad_mode, row, pad, h);
                const int from_column = pad_source(k.pad_mode, column, pad, w);
                inside[e] = from_row >= 0 && from_column >= 0;
                const int64_t from = static_cast<int64_t>(from_row) * w + from_column;
                v[e] = inside[e] ? widen(x[from]) : 0.0f;
                added[e] = inside[e] && residual != nullptr ? widen(residual[from]) : 0.0f;
                if (++column == padded_w) column = 0, row++;
            }
        }
        float out[n];
        with_activation(k.act, [&](auto act) {
#pragma unroll
            for (int e = 0; e < n; e++)
                out[e] = decltype(act)::value((v[e] - a.mean) * a.scale + a.shift, k.alpha);
        });
#pragma unroll
        for (int e = 0; e < n; e++) out[e] = inside[e] ? out[e] + added[e] : 0.0f;
        store<n>(y + i, out);
    }
}

template <class T>
struct PlaneTensors {
    const T* residual;  // or null
    T* y;
    int64_t padded;  // elements of a padded plane

    PIX2GAN_INLINE PlaneTensors(const InstanceNormAct& k, int64_t plane)
        : padded((k.h + 2 * k.pad) * (k.w + 2 * k.pad)) {
        residual =
            k.residual != nullptr ? static_cast<const T*>(k.residual) + plane * k.h * k.w : nullptr;
        y = static_cast<T*>(k.y) + plane * padded;
    }
};

// A block for a plane: read once, written once.
template <class T, int n>
__global__ void __launch_bounds__(threads) whole_plane(const InstanceNormAct k) {
    float* memory = dynamic_shared<float>();
    T* tile = reinterpret_cast<T*>(memory + 2 * warp);
    const int64_t plane = blockIdx.x, image = plane / k.c;
    const int count = static_cast<int>(k.h * k.w);
    const ChunkMoments m = chunk_moments<T, n>(plane_of<T>(k, plane), tile, count, memory);
    const float rstd = 1.0f / sqrtf(m.m2 / count + k.eps);
    if (threadIdx.x == 0) {
        k.mean[plane] = m.mean + m.rest;
        k.rstd[plane] = rstd;
    }
    const PlaneTensors<T> of(k, plane);
    write_padded<T, n>(k, affine_of(k, image, plane - image * k.c, m.mean, m.rest, rstd), tile,
                       of.residual, of.y, 0, of.padded);
}

// parts: [planes, chunks, 3]
template <class T, int n>
__global__ void __launch_bounds__(threads)
    plane_moments(const InstanceNormStats k, const int64_t chunks, float* parts) {
    float* memory = dynamic_shared<float>();
    T* tile = reinterpret_cast<T*>(memory + 2 * warp);
    const int64_t plane = quotient(blockIdx.x, chunks);
    const int64_t first = (blockIdx.x - plane * chunks) * plane_chunk;
    const int count = static_cast<int>(smaller(plane_chunk, k.h * k.w - first));
    const ChunkMoments m = chunk_moments<T, n>(plane_of<T>(k, plane) + first, tile, count, memory);
    if (threadIdx.x == 0) {
        float* part = parts + static_cast<int64_t>(blockIdx.x) * 3;
        part[0] = m.mean, part[1] = m.rest, part[2] = m.m2;
    }
}

// rest is null where mean and rstd were given.
template <class T, int n>
__global__ void __launch_bounds__(threads)
    write_planes(const InstanceNormAct k, const float* mean, const float* rstd, const float* rest,
                 const int64_t chunks) {
    const int64_t plane = quotient(blockIdx.x, chunks), image = plane / k.c;
    const PlaneTensors<T> of(k, plane);
    const int64_t first = (blockIdx.x - plane * chunks) * plane_chunk;
    if (rest == nullptr && first == 0 && threadIdx.x == 0) {
        k.mean[plane] = mean[plane];
        k.rstd[plane] = rstd[plane];
    }
    const Affine a = affine_of(k, image, plane - image * k.c, mean[plane],
                               rest != nullptr ? rest[plane] : 0.0f, rstd[plane]);
    write_padded<T, n>(k, a, plane_of<T>(k, plane), of.residual, of.y, first,
                       smaller(first + plane_chunk, of.padded));
}

// ----------------------------------------------------------------------------------- images

// parts: [images, chunks, channels, 3]
template <class T, int n>
__global__ void __launch_bounds__(threads)
    image_moments(const InstanceNormStats k, const Cut cut, float* parts) {
    float* memory = dynamic_shared<float>();
    const Place p = place_in(cut, n, k.h * k.w);
    const bool present = p.channel < k.c;
    const T* x = static_cast<const T*>(k.x) + p.image * k.h * k.w * k.c + p.channel;
    Vector<T, n> raw[pixels_each];
    float sum[n] = {}, squares[n] = {};
#pragma unroll
    for (int i = 0; i < pixels_each; i++) {
        const int64_t pixel = p.first + p.row + i * cut.rows;
        if (present && pixel < p.last) raw[i] = load_raw<n>(x + pixel * k.c);
    }
#pragma unroll
    for (int i = 0; i < pixels_each; i++)
        if (present && p.first + p.row + i * cut.rows < p.last)
#pragma unroll
            for (int e = 0; e < n; e++) sum[e] += widen(raw[i].element[e]);
    lane_sum<n>(sum, cut.lanes, memory);
    const float count = static_cast<float>(p.last - p.first);
    float mean[n];
#pragma unroll
    for (int e = 0; e < n; e++) {
        mean[e] = sum[e] / count;
        sum[e] = 0;
    }
#pragma unroll
    for (int i = 0; i < pixels_each; i++)
        if (present && p.first + p.row + i * cut.rows < p.last)
#pragma unroll
            for (int e = 0; e < n; e++) {
                const float d = widen(raw[i].element[e]) - mean[e];
                sum[e] += d;
                squares[e] += d * d;
            }
    lane_sum<n>(sum, cut.lanes, memory);
    lane_sum<n>(squares, cut.lanes, memory);
    if (p.row != 0) return;
    float* part = parts + ((p.image * cut.chunks + p.chunk) * k.c + p.channel) * 3;
#pragma unroll
    for (int e = 0; e < n; e++) {
        if (p.channel + e >= k.c) continue;
        const float rest = sum[e] / count;
        part[3 * e] = mean[e], part[3 * e + 1] = rest;
        part[3 * e + 2] = maximum(squares[e] - sum[e] * rest, 0.0f);
    }
}

// cut is one of the padded image.
template <class T, int n>
__global__ void __launch_bounds__(threads)
    write_images(const InstanceNormAct k, const float* mean, const float* rstd, const float* rest,
                 const Cut cut) {
    const int pad = static_cast<int>(k.pad), h = static_cast<int>(k.h), w = static_cast<int>(k.w);
    const int64_t padded_w = w + 2 * pad, padded = (h + 2 * pad) * padded_w;
    const Place p = place_in(cut, n, padded);
    if (p.channel >= k.c) return;
    Affine a[n];
#pragma unroll
    for (int e = 0; e < n; e++) {
        const int64_t channel = p.channel + e, plane = p.image * k.c + channel;
        a[e] = affine_of(k, p.image, channel, mean[plane], rest != nullptr ? rest[plane] : 0.0f,
                         rstd[plane]);
        if (rest == nullptr && p.chunk == 0 && p.row == 0) {
            k.mean[plane] = mean[plane];
            k.rstd[plane] = rstd[plane];
        }
    }
    const int64_t from_image = p.image * k.h * k.w * k.c + p.channel;
    const T* x = static_cast<const T*>(k.x) + from_image;
    const T* residual =
        k.residual != nullptr ? static_cast<const T*>(k.residual) + from_image : nullptr;
    T* y = static_cast<T*>(k.y) + p.image * padded * k.c + p.channel;
#pragma unroll 2
    for (int64_t pixel = p.first + p.row; pixel < p.last; pixel += cut.rows) {
        const int row = static_cast<int>(quotient(pixel, padded_w));
        const int column = static_cast<int>(pixel - row * padded_w);
        const int from_row = pad_source(k.pad_mode, row, pad, h);
        const int from_column = pad_source(k.pad_mode, column, pad, w);
        float out[n] = {};
        if (from_row >= 0 && from_column >= 0) {
            const int64_t from = (static_cast<int64_t>(from_row) * w + from_column) * k.c;
            float v[n], added[n] = {};
            load<n>(x + from, v);
            if (residual != nullptr) load<n>(residual + from, added);
            with_activation(k.act, [&](auto act) {
#pragma unroll
                for (int e = 0; e < n; e++)
                    out[e] = decltype(act)::value((v[e] - a[e].mean) * a[e].scale + a[e].shift,
                                                  k.alpha) +
                             added[e];
            });
        }
        store<n>(y + pixel * k.c, out);
    }
}

// ----------------------------------------------------------------------------- parts to planes

// Where the parts of a plane are, how many elements they stand for, and what becomes of them; m2
// or else rstd and rest.
struct Merge {
    int64_t n, c, chunks, chunk, count;
    int64_t image_stride, chunk_stride, channel_stride;  // in parts
    const float* parts;
    float *mean, *m2, *rstd, *rest;
    float eps;
};

// A warp for a plane. Each lane merges every 32nd part, the first lane what they have got.
__global__ void __launch_bounds__(threads) merge_parts(const Merge k) {
    Moments* memory = dynamic_shared<Moments>();
    const int lane = threadIdx.x % warp;
    const int64_t plane = static_cast<int64_t>(blockIdx.x) * (threads / warp) + threadIdx.x / warp;
    const bool present = plane < k.n * k.c;
    const int64_t image = plane / k.c;
    const float* parts =
        k.parts + (image * k.image_stride + (plane - image * k.c) * k.channel_stride) * 3;
    Moments own{};
    for (int64_t i = lane; present && i < k.chunks; i += warp) {
        const float* part = parts + i * k.chunk_stride * 3;
        Moments other{};
        other.count = static_cast<double>(smaller(k.chunk, k.count - i * k.chunk));
        other.mean = static_cast<double>(part[0]) + part[1];
        other.m2 = part[2];
        own.merge(other);
    }
    memory[threadIdx.x] = own;
    __syncthreads();
    if (lane != 0 || !present) return;
    for (int i = 1; i < warp && i < k.chunks; i++) own.merge(memory[threadIdx.x + i]);
    const float mean = static_cast<float>(own.mean);
    k.mean[plane] = mean;
    if (k.m2 != nullptr) {
        k.m2[plane] = static_cast<float>(own.m2);
        return;
    }
    k.rest[plane] = static_cast<float>(own.mean - mean);
    k.rstd[plane] = static_cast<float>(1 / sqrt(own.m2 / own.count + k.eps));
}

// Fills in mean and m2, or else rstd and rest.
template <class T>
void statistics(const InstanceNormStats& k, float* rstd, float* rest, float eps,
                const Stream& stream) {
    const int64_t pixels = k.h * k.w, planes = k.n * k.c;
    Merge m = {};
    m.n = k.n, m.c = k.c, m.count = pixels, m.eps = eps;
    m.mean = k.mean, m.m2 = rstd == nullptr ? k.m2 : nullptr, m.rstd = rstd, m.rest = rest;
    if (k.channels_last) {
        const bool vectors = has_channel_vectors<T>(k, full<T>);
        const Cut cut = cut_image(k.c, pixels, vectors ? full<T> : 1, sizeof(T));
        m.chunks = cut.chunks, m.chunk = cut.pixels;
        m.image_stride = cut.chunks * k.c, m.chunk_stride = k.c, m.channel_stride = 1;
        auto* parts = static_cast<float*>(
            stream.scratch(planes * cut.chunks * 3 * sizeof(float), stream.context));
        m.parts = parts;
        launch(stream, vectors ? image_moments<T, full<T>> : image_moments<T, 1>, cut.blocks(k.n),
               threads, sums_bytes, k, cut, parts);
    } else {
        m.chunks = ceil_div(pixels, plane_chunk), m.chunk = plane_chunk;
        m.image_stride = k.c * m.chunks, m.chunk_stride = 1, m.channel_stride = m.chunks;
        auto* parts = static_cast<float*>(
            stream.scratch(planes * m.chunks * 3 * sizeof(float), stream.context));
        m.parts = parts;
        const bool vectors = has_plane_vectors(k);
        const int64_t tile = smaller(pixels, plane_chunk) * sizeof(T);
        launch(stream, vectors ? plane_moments<T, plane_vector> : plane_moments<T, 1>,
               planes * m.chunks, threads_for(smaller(pixels, plane_chunk), plane_vector),
               2 * warp * sizeof(float) + tile, k, m.chunks, parts);
    }
    launch(stream, merge_parts, ceil_div(planes, threads / warp), threads,
           threads * sizeof(Moments), m);
}

template <class T>
void normalise(const InstanceNormAct& k, const Stream& stream) {
    const int64_t pixels = k.h * k.w, planes = k.n * k.c;
    const int64_t padded = (k.h + 2 * k.pad) * (k.w + 2 * k.pad);
    const bool given = k.given_mean != nullptr;
    const bool plane_vectors = has_plane_vectors(k) && padded % plane_vector == 0 &&
                               is_aligned(k.y, sizeof(T) * plane_vector) &&
                               is_aligned(k.residual, sizeof(T) * plane_vector);
    const int64_t on_chip = 2 * warp * sizeof(float) + pixels * sizeof(T);
    if (!k.channels_last && !given && on_chip <= on_chip_bytes()) {
        launch(stream, plane_vectors ? whole_plane<T, plane_vector> : whole_plane<T, 1>, planes,
               threads_for(pixels, plane_vector), on_chip, k);
        return;
    }
    const float *mean = k.given_mean, *rstd = k.given_rstd;
    float* rest = nullptr;
    if (!given) {
        rest = static_cast<float*>(stream.scratch(planes * sizeof(float), stream.context));
        InstanceNormStats s = {};
        s.type = k.type, s.channels_last = k.channels_last;
        s.n = k.n, s.c = k.c, s.h = k.h, s.w = k.w;
        s.x_image = k.x_image, s.x_plane = k.x_plane, s.x = k.x, s.mean = k.mean;
        statistics<T>(s, k.rstd, rest, k.eps, stream);
        mean = k.mean, rstd = k.rstd;
    }
    if (k.channels_last) {
        const bool vectors =
            has_channel_vectors<T>(k, full<T>) && is_aligned(k.y) && is_aligned(k.residual);
        const Cut cut = cut_image(k.c, padded, vectors ? full<T> : 1, sizeof(T));
        launch(stream, vectors ? write_images<T, full<T>> : write_images<T, 1>, cut.blocks(k.n),
               threads, 0, k, mean, rstd, rest, cut);
    } else {
        const int64_t chunks = ceil_div(padded, plane_chunk);
        launch(stream, plane_vectors ? write_planes<T, plane_vector> : write_planes<T, 1>,
               planes * chunks, threads_for(smaller(padded, plane_chunk), plane_vector), 0, k, mean,
               rstd, rest, chunks);
    }
}

}  // namespace

void instance_norm_stats(const InstanceNormStats& k, const Stream& stream) {
    if (k.n * k.c * k.h * k.w == 0) return;
    with_type(k.type, [&](auto t) { statistics<decltype(t)>(k, nullptr, nullptr, 0.0f, stream); });
}

void instance_norm_act(const InstanceNormAct& k, const Stream& stream) {
    if (k.n * k.c * k.h * k.w == 0) return;
    with_type(k.type, [&](auto t) { normalise<decltype(t)>(k, stream); });
}

}  // namespace pix2gan::cuda
