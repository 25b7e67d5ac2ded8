// What instance normalisation and its gradient share: how planes and images are cut among blocks,
// and how the parts of a plane are put together again.
//
// Contiguous planes: where a plane fits into a block's shared memory, one block reads it once,
// computes its statistics there and writes the result. Larger planes are cut into chunks. Images in
// channels-last order are cut into chunks of pixels and groups of channels. Parts are merged in
// order, by shape alone: the result is the same each time.

#pragma once

#include "device.cuh"

namespace pix2gan::cuda {

constexpr int threads = 256;

// A plane is taken on chip up to so many bytes: two blocks and more still fit on a multiprocessor.
inline int64_t on_chip_bytes() {
    return smaller(64 * 1024, device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// Threads for a plane of so many elements, n by each: few where it is small.
inline int threads_for(int64_t elements, int n) {
    int count = warp;
    while (count < threads && count * n < elements) count *= 2;
    return count;
}

// ----------------------------------------------------------------------------------- planes

// Elements of a plane that are loaded or stored at once: rows and paddings of even sizes allow for
// four, if not for eight.
constexpr int plane_vector = 4;

// Elements of a plane that are a chunk of their own.
constexpr int64_t plane_chunk = 8192;

template <class T, class Struct>
PIX2GAN_INLINE const T* plane_of(const Struct& k, int64_t plane) {
    const int64_t image = plane / k.c;
    return static_cast<const T*>(k.x) + image * k.x_image + (plane - image * k.c) * k.x_plane;
}

// Whether planes can be read in vectors of `plane_vector`.
template <class Struct>
bool has_plane_vectors(const Struct& k) {
    const int64_t size = k.type == Type::float32 ? 4 : 2;
    return k.h * k.w % plane_vector == 0 && k.x_image % plane_vector == 0 &&
           k.x_plane % plane_vector == 0 && is_aligned(k.x, size * plane_vector);
}

// ----------------------------------------------------------------------------------- images

// How a block takes a channels-last image: `lanes` threads side by side, each with a vector of
// channels, and as many rows of them as there are threads left, each with a pixel at a time.
struct Cut {
    int lanes, rows;
    int64_t groups, chunks;  // of channels; of pixels
    int64_t pixels;          // a chunk

    int64_t blocks(int64_t images) const { return images * chunks * groups; }
};

// Pixels that a thread takes.
constexpr int pixels_each = 8;

inline Cut cut_image(int64_t channels, int64_t pixels, int n, int64_t element_bytes) {
    const int64_t vectors = ceil_div(channels, n);
    // a cache line side by side
    const int64_t most = smaller(warp, 128 / (n * element_bytes));
    Cut cut;
    cut.lanes = 1;
    while (cut.lanes < most && cut.lanes < vectors) cut.lanes *= 2;
    cut.rows = threads / cut.lanes;
    cut.groups = ceil_div(vectors, cut.lanes);
    cut.pixels = cut.rows * pixels_each;
    cut.chunks = ceil_div(pixels, cut.pixels);
    return cut;
}

// Where a thread is in that cut.
struct Place {
    int64_t image, chunk, channel;  // the first channel of its vector
    int lane, row;
    int64_t first, last;  // pixels of the chunk
};

PIX2GAN_INLINE Place place_in(const Cut& cut, int n, int64_t pixels) {
    Place p;
    p.lane = threadIdx.x % cut.lanes;
    p.row = threadIdx.x / cut.lanes;
    const int64_t chunk = quotient(blockIdx.x, cut.groups), group = blockIdx.x - chunk * cut.groups;
    p.image = quotient(chunk, cut.chunks);
    p.chunk = chunk - p.image * cut.chunks;
    p.channel = (group * cut.lanes + p.lane) * n;
    p.first = p.chunk * cut.pixels;
    p.last = smaller(p.first + cut.pixels, pixels);
    return p;
}

// The sums over all threads of a lane, for each of them. `memory` is shared, of `sums_bytes`, and
// may be used again behind it.
constexpr int sums_bytes = threads / warp * warp * 8 * sizeof(float);

template <int n>
PIX2GAN_INLINE void lane_sum(float (&v)[n], int lanes, float* memory) {
    for (int step = warp / 2; step >= lanes; step /= 2)
#pragma unroll
        for (int e = 0; e < n; e++) v[e] += __shfl_xor_sync(0xffffffffu, v[e], step);
    const int lane = threadIdx.x % warp, own = threadIdx.x / warp;
    if (lane < lanes)
#pragma unroll
        for (int e = 0; e < n; e++) memory[(own * lanes + lane) * n + e] = v[e];
    __syncthreads();
#pragma unroll
    for (int e = 0; e < n; e++) {
        v[e] = 0;
        for (int w = 0; w < threads / warp; w++) v[e] += memory[(w * lanes + lane % lanes) * n + e];
    }
    __syncthreads();
}

// Whether channels-last images can be read in vectors of n.
template <class T, class Struct>
bool has_channel_vectors(const Struct& k, int n) {
    return k.c % n == 0 && is_aligned(k.x, n * sizeof(T));
}

}  // namespace pix2gan::cuda
