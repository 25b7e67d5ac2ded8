// upfirdn2d: fast paths for up 2, down 2 and plain filtering with at most four taps along each
// axis; and a general path.
//
// The fast paths read a sample once from memory and combine it in registers. Filters that are of
// rank one, as the outer products are that resampling uses, are applied along one axis after the
// other: a block takes the filter apart itself, while it waits for its first samples. Contiguous
// planes go through tiles in shared memory, in which a thread computes four columns; in
// channels-last order a thread has a vector of channels, and its neighbours' samples are in the
// cache. Both go down the rows with a window of filtered rows.

#include "device.cuh"

namespace pix2gan::cuda {
namespace {

constexpr int threads = 256;
constexpr int most_taps = 4;  // of the fast paths, along each axis

// ------------------------------------------------------------------------------- the filter

// In shared memory: to correlate with, gain included.
struct alignas(16) Filter {
    float full[most_taps * most_taps];
    float fy[most_taps], fx[most_taps];  // full = fy (x) fx, where it is separable
    int separable;
};

// The first warp fills it in, a lane for a tap; all must call it.
PIX2GAN_INLINE void prepare(const Upfirdn2d& k, Filter* f) {
    if (threadIdx.x < warp) {
        const unsigned every = 0xffffffffu;
        const int lane = threadIdx.x, y = lane / most_taps, x = lane % most_taps;
        const int taps_x = static_cast<int>(k.filter_w);
        const int taps_y = k.separable ? taps_x : static_cast<int>(k.filter_h);
        float v = 0;
        if (y < taps_y && x < taps_x) {
            const int from_y = k.correlate ? y : taps_y - 1 - y;
            const int from_x = k.correlate ? x : taps_x - 1 - x;
            v = k.separable ? k.f[from_y] * k.f[from_x] : k.f[from_y * taps_x + from_x];
        }
        float largest = absolute(v);
        for (int step = warp / 2; step > 0; step /= 2)
            largest = maximum(largest, __shfl_xor_sync(every, largest, step));
        float found = absolute(v) == largest ? lane : warp;
        for (int step = warp / 2; step > 0; step /= 2)
            found = minimum(found, __shfl_xor_sync(every, found, step));
        const int peak = found < warp ? static_cast<int>(found) : 0;
        // Through the largest tap: v = column / top * row, if to a rounding error.
        const float top = __shfl_sync(every, v, peak);
        const float row = __shfl_sync(every, v, peak / most_taps * most_taps + x);
        const float column = __shfl_sync(every, v, y * most_taps + peak % most_taps);
        const float share = column / top;
        const int separable = __all_sync(every, absolute(v - share * row) <= 1e-7f * absolute(top));
        if (y < most_taps) f->full[lane] = v * k.gain;
        if (y == 0) f->fx[x] = row;
        if (x == 0 && y < most_taps) f->fy[y] = share * k.gain;
        if (lane == 0) f->separable = separable;
    }
    __syncthreads();
}

// How output rows or columns relate to samples, along one axis, from an output on whose position is
// `phase` behind the sample `first` (0, or 1 where up is 2).
struct Start {
    int first, phase;
};

template <int up, int down>
PIX2GAN_INLINE Start start_at(int64_t out, int64_t pad) {
    const int64_t position = out * down - pad, first = floor_div(position, int64_t{up});
    return {static_cast<int>(first), static_cast<int>(position - first * up)};
}

// ----------------------------------------------------------------------------- down the rows

// Computes `rows` output rows of n elements and hands them to `write`. `row(i, f, out)` filters
// input row i along x with the taps f. Taps that the filter does not have are not multiplied: 0
// times a sample that is not a number would be none.
template <int up, int down, int rows, int n, class Row, class Write>
PIX2GAN_INLINE void march(const Filter& f, int phase, int taps, const Row& row,
                          const Write& write) {
    float out[n];
    if (!f.separable) {
#pragma unroll 1
        for (int j = 0; j < rows; j++) {
            const int at = up == 2 ? j + phase : 0, first = up == 2 ? (at + 1) / 2 : j * down;
#pragma unroll
            for (int e = 0; e < n; e++) out[e] = 0;
#pragma unroll 1
            for (int m = 0; m < most_taps / up; m++) {
                const int tap = up == 2 ? at % 2 + 2 * m : m;
                if (tap >= taps) continue;
                float part[n];
                row(first + m, f.full + tap * most_taps, part);
#pragma unroll
                for (int e = 0; e < n; e++) out[e] += part[e];
            }
            write(j, out);
        }
        return;
    }
    float fx[most_taps], fy[most_taps];
#pragma unroll
    for (int i = 0; i < most_taps; i++) fx[i] = f.fx[i], fy[i] = f.fy[i];
    float window[most_taps][n];
    if (up == 2) {
        row(0, fx, window[0]);
        row(1, fx, window[1]);
#pragma unroll 1
        for (int j = 0; j < rows; j += 2) {
            row(j / 2 + 2, fx, window[2]);
            // An output at an even position meets the even taps, and begins at the sample there.
            const auto even = [&](int j, const float (&a)[n], const float (&b)[n]) {
#pragma unroll
                for (int e = 0; e < n; e++)
                    out[e] = fy[0] * a[e] + (taps > 2 ? fy[2] * b[e] : 0.0f);
                write(j, out);
            };
            const auto odd = [&](int j) {
#pragma unroll
                for (int e = 0; e < n; e++)
                    out[e] = (taps > 1 ? fy[1] * window[1][e] : 0.0f) +
                             (taps > 3 ? fy[3] * window[2][e] : 0.0f);
                write(j, out);
            };
            if (phase == 0) {
                even(j, window[0], window[1]);
                odd(j + 1);
            } else {
                odd(j);
                even(j + 1, window[1], window[2]);
            }
#pragma unroll
            for (int e = 0; e < n; e++) window[0][e] = window[1][e], window[1][e] = window[2][e];
        }
        return;
    }
    constexpr int kept = most_taps - down;
#pragma unroll
    for (int i = 0; i < kept; i++) row(i, fx, window[i + down]);
#pragma unroll 1
    for (int j = 0; j < rows; j++) {
#pragma unroll
        for (int i = 0; i < kept; i++)
#pragma unroll
            for (int e = 0; e < n; e++) window[i][e] = window[i + down][e];
#pragma unroll
        for (int i = kept; i < most_taps; i++) row(j * down + i, fx, window[i]);
#pragma unroll
        for (int e = 0; e < n; e++) out[e] = fy[0] * window[0][e];
#pragma unroll
        for (int m = 1; m < most_taps; m++)
            if (m < taps)
#pragma unroll
                for (int e = 0; e < n; e++) out[e] += fy[m] * window[m][e];
        write(j, out);
    }
}

// --------------------------------------------------------------------------------- planes

constexpr int columns = 4;  // of a thread

template <int up, int down>
constexpr int rows_each = up == 2     ? 8
                          : down == 2 ? 2
                                      : 4;

// Threads of a block: `across` and `along` for a tile of a plane, and that for so many planes.
struct Tiling {
    int across, along, planes;
    int height, pitch;  // of the samples of a tile
    int64_t tiles_x, tiles_y;
    int vectors_in, vectors_out;  // whether samples and outputs go in vectors of four
};

// Four consecutive outputs from the samples of a tile's row.
template <int up, int down>
PIX2GAN_INLINE void filter_row(const float* from, int phase, int taps, const float* f,
                               float (&out)[columns]) {
    if (up == 2) {
        float a[2], b[2];
        load<2>(from, a);
        load<2>(from + 2, b);
        const float s[4] = {a[0], a[1], b[0], b[1]};
        // Chosen without an index at run time, which would put them into memory.
        const bool ahead = phase != 0;
        const float f0[2] = {ahead ? f[1] : f[0], ahead ? f[0] : f[1]};
        const float f1[2] = {ahead ? f[3] : f[2], ahead ? f[2] : f[3]};
#pragma unroll
        for (int j = 0; j < columns; j++) {
            const float s0 = ahead ? s[j / 2 + 1] : s[(j + 1) / 2];
            const float s1 = ahead ? s[j / 2 + 2 < 4 ? j / 2 + 2 : 3] : s[(j + 1) / 2 + 1];
            const int tap = (j + phase) % 2;
            out[j] = tap < taps ? f0[j % 2] * s0 : 0.0f;
            if (tap + 2 < taps) out[j] += f1[j % 2] * s1;
        }
        return;
    }
    constexpr int loads = down == 2 ? 3 : 2;
    float s[loads * 4];
#pragma unroll
    for (int i = 0; i < loads; i++) {
        float v[4];
        load<4>(from + 4 * i, v);
#pragma unroll
        for (int e = 0; e < 4; e++) s[4 * i + e] = v[e];
    }
#pragma unroll
    for (int j = 0; j < columns; j++) {
        out[j] = f[0] * s[j * down];
#pragma unroll
        for (int m = 1; m < most_taps; m++)
            if (m < taps) out[j] += f[m] * s[j * down + m];
    }
}

// Fills the tiles of all planes of a block, with zeros outside of the image. A warp takes a row.
template <class T>
PIX2GAN_INLINE void load_tiles(const Upfirdn2d& k, const Tiling& g, int64_t plane, int first_row,
                               int first_column, float* tiles) {
    const int lane = threadIdx.x % warp, warps = blockDim.x / warp;
    const int h = static_cast<int>(k.h), w = static_cast<int>(k.w);
    for (int i = threadIdx.x / warp; i < g.planes * g.height; i += warps) {
        const int z = i / g.height, row = first_row + i - z * g.height;
        const bool present = row >= 0 && row < h && plane + z < k.n * k.c;
        const int64_t image = quotient(plane + z, k.c), channel = plane + z - image * k.c;
        const T* x = static_cast<const T*>(k.x) + image * k.x_image + channel * k.x_plane +
                     static_cast<int64_t>(row) * w;
        float* tile = tiles + i * g.pitch;
        if (!g.vectors_in) {
            for (int c = lane; c < g.pitch; c += warp) {
                const int column = first_column + c;
                tile[c] = present && column >= 0 && column < w ? widen(x[column]) : 0.0f;
            }
            continue;
        }
        // Vectors of four lie askew to the tile. Eight lanes at a time begin with another element,
        // so that the banks of shared memory do not collide.
        const int skew = first_column & 3;
        for (int c = 4 * lane - skew; c < g.pitch; c += 4 * warp) {
            const int column = first_column + c;
            float v[4] = {0, 0, 0, 0};
            if (present && column >= 0 && column < w) load<4>(x + column, v);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int e = (j + lane / 8) % 4;
                const float value = e == 0 ? v[0] : e == 1 ? v[1] : e == 2 ? v[2] : v[3];
                if (c + e >= 0 && c + e < g.pitch) tile[c + e] = value;
            }
        }
    }
}

template <class T, int up, int down>
__global__ void __launch_bounds__(threads) filter_planes(const Upfirdn2d k, const Tiling g) {
    Filter* f = dynamic_shared<Filter>();
    float* tiles = reinterpret_cast<float*>(f + 1);
    constexpr int rows = rows_each<up, down>;
    const int64_t row_of_tiles = quotient(blockIdx.x, g.tiles_x);
    const int64_t tile_x = blockIdx.x - row_of_tiles * g.tiles_x;
    const int64_t group = quotient(row_of_tiles, g.tiles_y);
    const int64_t tile_y = row_of_tiles - group * g.tiles_y;
    const int64_t first_x = tile_x * g.across * columns, first_y = tile_y * g.along * rows;
    const Start x = start_at<up, down>(first_x, k.pad_x), y = start_at<up, down>(first_y, k.pad_y);
    load_tiles<T>(k, g, group * g.planes, y.first, x.first, tiles);
    prepare(k, f);  // which waits for the tiles as well

    const int across = threadIdx.x % g.across, rest = threadIdx.x / g.across;
    const int along = rest % g.along, z = rest / g.along;
    const int64_t plane = group * g.planes + z, column = first_x + across * columns;
    if (plane >= k.n * k.c || column >= k.out_w) return;
    const float* tile =
        tiles + (z * g.height + along * rows * down / up) * g.pitch + across * columns * down / up;
    const int taps_x = static_cast<int>(k.filter_w);
    const int taps_y = k.separable ? taps_x : static_cast<int>(k.filter_h);
    const int64_t out_row = first_y + along * rows;
    T* out = static_cast<T*>(k.out) + (plane * k.out_h + out_row) * k.out_w + column;
    march<up, down, rows, columns>(
        *f, y.phase, taps_y,
        [&](int i, const float* taps, float (&to)[columns]) {
            filter_row<up, down>(tile + i * g.pitch, x.phase, taps_x, taps, to);
        },
        [&](int j, const float (&v)[columns]) {
            if (out_row + j >= k.out_h) return;
            if (g.vectors_out) return store<columns>(out + j * k.out_w, v);
#pragma unroll
            for (int e = 0; e < columns; e++)
                if (column + e < k.out_w) narrow(v[e], out[j * k.out_w + e]);
        });
}

template <class T, int up, int down>
void run_planes(const Upfirdn2d& k, const Stream& stream) {
    constexpr int rows = rows_each<up, down>;
    const int most_across = down == 2 ? 16 : 32;
    Tiling g = {1, 1, 1};
    while (g.across < most_across && g.across * columns < k.out_w) g.across *= 2;
    while (g.along < threads / g.across && g.along * rows < k.out_h) g.along *= 2;
    g.height = g.along * rows * down / up + (up == 2 ? 2 : most_taps - down);
    g.pitch = static_cast<int>(ceil_div(g.across * columns * down / up + 4, 4) * 4);
    const int64_t tile = g.height * g.pitch * sizeof(float), limit = 40 * 1024;
    while (g.across * g.along * g.planes < threads && 2 * g.planes * tile <= limit) g.planes *= 2;
    g.tiles_x = ceil_div(k.out_w, g.across * columns);
    g.tiles_y = ceil_div(k.out_h, g.along * rows);
    const int64_t bytes = 4 * sizeof(T);
    g.vectors_in =
        k.w % 4 == 0 && k.x_plane % 4 == 0 && k.x_image % 4 == 0 && is_aligned(k.x, bytes);
    g.vectors_out = k.out_w % 4 == 0 && is_aligned(k.out, bytes);
    const int block = static_cast<int>(larger(warp, g.across * g.along * g.planes));
    const int64_t blocks = g.tiles_x * g.tiles_y * ceil_div(k.n * k.c, g.planes);
    launch(stream, filter_planes<T, up, down>, blocks, block, sizeof(Filter) + g.planes * tile, k,
           g);
}

// --------------------------------------------------------------------------------- images

// A thread has n channels of a column, and goes down `image_rows` rows of it.
constexpr int image_rows = 8;

template <class T, int up, int down, int n>
__global__ void __launch_bounds__(threads) filter_images(const Upfirdn2d k, const int64_t tasks) {
    Filter* f = dynamic_shared<Filter>();
    prepare(k, f);
    const int64_t task = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (task >= tasks) return;
    const int64_t vectors = k.c / n, pixel = quotient(task, vectors);
    const int64_t channel = (task - pixel * vectors) * n;
    const int64_t strip = quotient(pixel, k.out_w), column = pixel - strip * k.out_w;
    const int64_t strips = ceil_div(k.out_h, image_rows), image = quotient(strip, strips);
    const int64_t out_row = (strip - image * strips) * image_rows;
    const Start y = start_at<up, down>(out_row, k.pad_y);
    const Start before = start_at<up, down>(column, k.pad_x);
    // Behind an odd position the next sample is the first.
    const int first = before.first + before.phase, first_tap = before.phase;
    const int h = static_cast<int>(k.h), w = static_cast<int>(k.w);
    const int taps_x = static_cast<int>(k.filter_w);
    const int taps_y = k.separable ? taps_x : static_cast<int>(k.filter_h);
    const T* x = static_cast<const T*>(k.x) + image * k.h * k.w * k.c + channel;
    T* out =
        static_cast<T*>(k.out) + ((image * k.out_h + out_row) * k.out_w + column) * k.c + channel;
    march<up, down, image_rows, n>(
        *f, y.phase, taps_y,
        [&](int i, const float* taps, float (&to)[n]) {
#pragma unroll
            for (int e = 0; e < n; e++) to[e] = 0;
            const int row = y.first + i;
            if (row < 0 || row >= h) return;
            const T* from = x + (static_cast<int64_t>(row) * w + first) * k.c;
#pragma unroll
            for (int m = 0; m < most_taps / up; m++) {
                const int tap = up == 2 ? first_tap + 2 * m : m;
                if (tap >= taps_x || first + m < 0 || first + m >= w) continue;
                const float factor =
                    up == 2 ? (first_tap == 0 ? taps[2 * m] : taps[2 * m + 1]) : taps[m];
                float v[n];
                load<n>(from + m * k.c, v);
#pragma unroll
                for (int e = 0; e < n; e++) to[e] += factor * v[e];
            }
        },
        [&](int j, const float (&v)[n]) {
            if (out_row + j < k.out_h) store<n>(out + j * k.out_w * k.c, v);
        });
}

template <class T, int up, int down>
void run_images(const Upfirdn2d& k, const Stream& stream) {
    const bool vectors = k.c % full<T> == 0 && is_aligned(k.x) && is_aligned(k.out);
    const int64_t tasks =
        k.n * ceil_div(k.out_h, image_rows) * k.out_w * (vectors ? k.c / full<T> : k.c);
    launch(stream, vectors ? filter_images<T, up, down, full<T>> : filter_images<T, up, down, 1>,
           ceil_div(tasks, threads), threads, sizeof(Filter), k, tasks);
}

// ---------------------------------------------------------------------------- general path

// An output for a thread, in the order of memory; taps and samples by taps_at, which the CPU's
// kernels use as well.
template <class From, class To>
__global__ void __launch_bounds__(threads) direct(const Upfirdn2d k, const int64_t total) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= total) return;
    const int64_t inner = k.channels_last ? k.c : 1, pixel = quotient(i, inner);
    const int64_t row_of_all = quotient(pixel, k.out_w), column = pixel - row_of_all * k.out_w;
    const int64_t plane = quotient(row_of_all, k.out_h), row = row_of_all - plane * k.out_h;
    const int64_t image = k.channels_last ? plane : quotient(plane, k.c);
    const int64_t channel = k.channels_last ? i - pixel * inner : plane - image * k.c;
    const From* x = static_cast<const From*>(k.x);
    x += k.channels_last ? image * k.h * k.w * k.c + channel
                         : image * k.x_image + channel * k.x_plane;
    const int64_t taps_x = k.filter_w, taps_y = k.separable ? k.filter_w : k.filter_h;
    const Taps rows = clipped(taps_at(row, k.up_y, k.down_y, k.pad_y, taps_y), k.up_y, k.h);
    const Taps cols = clipped(taps_at(column, k.up_x, k.down_x, k.pad_x, taps_x), k.up_x, k.w);
    float sum = 0;
    for (int64_t m = 0; m < rows.count; m++) {
        const int64_t tap = rows.first_tap + m * k.up_y;
        const int64_t ky = k.correlate ? tap : taps_y - 1 - tap;
        const From* from = x + ((rows.first_sample + m) * k.w + cols.first_sample) * inner;
        const float* f = k.separable ? k.f : k.f + ky * taps_x;
        float part = 0;
        for (int64_t j = 0; j < cols.count; j++) {
            const int64_t across = cols.first_tap + j * k.up_x;
            part += f[k.correlate ? across : taps_x - 1 - across] * widen(from[j * inner]);
        }
        sum += k.separable ? k.f[ky] * part : part;
    }
    narrow(sum * k.gain, static_cast<To*>(k.out)[i]);
}

template <class From, class To>
void run_direct(const Upfirdn2d& k, const Stream& stream) {
    const int64_t total = k.n * k.c * k.out_h * k.out_w;
    launch(stream, direct<From, To>, ceil_div(total, threads), threads, 0, k, total);
}

// Long separable filters: along x into floats, then along y.
template <class T>
void run_two_passes(const Upfirdn2d& k, const Stream& stream) {
    Upfirdn2d across = k, along = k;
    across.separable = along.separable = false;
    across.filter_h = along.filter_w = 1;
    along.filter_h = k.filter_w;
    across.up_y = across.down_y = along.up_x = along.down_x = 1;
    across.pad_y = along.pad_x = 0;
    across.out_h = k.h;
    across.gain = 1;
    across.out = stream.scratch(k.n * k.c * k.h * k.out_w * sizeof(float), stream.context);
    along.x = across.out;
    along.w = k.out_w;
    along.x_plane = k.h * k.out_w, along.x_image = k.c * along.x_plane;
    run_direct<T, float>(across, stream);
    run_direct<float, T>(along, stream);
}

template <class T>
void run(const Upfirdn2d& k, const Stream& stream) {
    const int64_t taps_y = k.separable ? k.filter_w : k.filter_h;
    const bool few = k.filter_w <= most_taps && taps_y <= most_taps;
    // The fast paths count samples by 32 bits.
    const bool counted = k.h < (1 << 29) && k.w < (1 << 29) && k.out_h < (1 << 29) &&
                         k.out_w < (1 << 29) && k.c <= 0x7fffffff;
    const auto resamples = [&](int64_t up, int64_t down) {
        return few && counted && k.up_x == up && k.up_y == up && k.down_x == down &&
               k.down_y == down;
    };
    if (resamples(1, 1))
        k.channels_last ? run_images<T, 1, 1>(k, stream) : run_planes<T, 1, 1>(k, stream);
    else if (resamples(2, 1))
        k.channels_last ? run_images<T, 2, 1>(k, stream) : run_planes<T, 2, 1>(k, stream);
    else if (resamples(1, 2))
        k.channels_last ? run_images<T, 1, 2>(k, stream) : run_planes<T, 1, 2>(k, stream);
    else if (k.separable && k.filter_w > most_taps)
        run_two_passes<T>(k, stream);
    else
        run_direct<T, T>(k, stream);
}

}  // namespace

void upfirdn2d(const Upfirdn2d& k, const Stream& stream) {
    if (k.n * k.c * k.out_h * k.out_w == 0) return;
    with_type(k.type, [&](auto t) { run<decltype(t)>(k, stream); });
}

}  // namespace pix2gan::cuda
