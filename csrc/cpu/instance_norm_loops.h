// Statistics and normalisation of planes and of channels-last images.
//
// Sums are taken of x - shift, the shift being the mean of an eighth of the elements. However x is
// distributed, that is within sqrt(7) deviations of the mean of all, so that at most a factor of 8
// of float's precision is lost, be the mean itself a million deviations from 0.

namespace instance_norm_loops {

using activation::Kind;

constexpr int64_t sample_every = 8;
constexpr int64_t flush_every = 32;  // sums of sums: long ones would gather rounding errors

// ------------------------------------------------------------------------------ contiguous planes

template <class T>
Moments moments(const void* from, int64_t elements) {
    const T* x = static_cast<const T*>(from);
    const int64_t whole = elements / lanes, rest = elements % lanes;
    const int64_t every = whole >= 8 * sample_every ? sample_every : 1;
    F sampled = {};
    int64_t samples = 0;
    for (int64_t i = 0; i < whole; i += every, samples += lanes) sampled += load(x + i * lanes);
    if (whole == 0) sampled = load_first(x, rest), samples = rest;
    const float shift = static_cast<float>(sum_lanes(sampled) / static_cast<double>(samples));

    F total1 = {}, total2 = {};
    const F k = splat(shift);
    int64_t i = 0;
    while (i < whole) {
        const int64_t stop = smaller(whole, i + 4 * flush_every);
        F s1[4] = {}, s2[4] = {};
        for (; i + 4 <= stop; i += 4) {
            for (int j = 0; j < 4; j += 2) {
                const Pair v = load_pair(x + (i + j) * lanes);
                const F d = v.a - k, e = v.b - k;
                s1[j] += d, s1[j + 1] += e;
                s2[j] += d * d, s2[j + 1] += e * e;
            }
        }
        for (; i < stop; i++) {
            const F d = load(x + i * lanes) - k;
            s1[0] += d;
            s2[0] += d * d;
        }
        total1 += (s1[0] + s1[1]) + (s1[2] + s1[3]);
        total2 += (s2[0] + s2[1]) + (s2[2] + s2[3]);
    }
    if (rest > 0) {
        F d = load_first(x + whole * lanes, rest) - k;
        for (int64_t j = rest; j < lanes; j++) d[j] = 0;
        total1 += d;
        total2 += d * d;
    }
    const double count = static_cast<double>(elements);
    const double s1 = sum_lanes(total1), m2 = sum_lanes(total2) - s1 * s1 / count;
    return {count, shift + s1 / count, m2 < 0 ? 0 : m2};
}

// What turns x into y, one value for a channel or a vector for as many.
struct Normalise {
    Act act;
    float alpha;
    F mean, scale, shift;

    template <Kind kind>
    PIX2GAN_INLINE F apply(F x) const {
        return activation::value<kind>(act, (x - mean) * scale + shift, alpha);
    }
};

template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE void normalise_vector(const Normalise& f, const T* x, const T* residual, T* y,
                                     int64_t i) {
    const F v = f.apply<kind>(load(x + i));
    store(y + i, with_residual ? v + load(residual + i) : v);
}

template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE void normalise_pair(const Normalise& f, const Normalise& g, const T* x,
                                   const T* residual, T* y, int64_t i) {
    const Pair v = load_pair(x + i);
    Pair out = {f.apply<kind>(v.a), g.apply<kind>(v.b)};
    if (with_residual) {
        const Pair r = load_pair(residual + i);
        out = {out.a + r.a, out.b + r.b};
    }
    store_pair(y + i, out);
}

template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE void normalise_span(const Normalise& f, const T* x, const T* residual, T* y,
                                   int64_t n) {
    int64_t i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes)
        normalise_pair<kind, with_residual>(f, f, x, residual, y, i);
    if (i + lanes <= n) {
        normalise_vector<kind, with_residual>(f, x, residual, y, i);
        i += lanes;
    }
    if (i == n) return;
    if (n >= lanes)  // the last vector overlaps the one before it
        return normalise_vector<kind, with_residual>(f, x, residual, y, n - lanes);
    const F v = f.apply<kind>(load_first(x, n));
    store_first(y, with_residual ? v + load_first(residual, n) : v, n);
}

// Fills the padding that depends on rows [first, last) of y, once their pixels (of `depth`
// elements) stand: the ends of the rows, and the rows above and below the image that are copies of
// them.
template <class T>
PIX2GAN_OUTLINE void pad_rows(const InstanceNormAct& k, T* y, int64_t first, int64_t last,
                              int64_t depth) {
    const int64_t pad = k.pad, padded_width = k.w + 2 * pad, row_elements = padded_width * depth;
    T *begin = y + (first + pad) * row_elements, *end = y + (last + pad) * row_elements;
    for (int64_t i = 0; i < 2 * pad; i++) {
        const int64_t to = i < pad ? i : k.w + i;
        const int64_t from = pad_source(k.pad_mode, to, pad, k.w) + pad;
        const bool zero = k.pad_mode == Pad::zeros;
        if (depth == 1) {
            for (T* row = begin; row < end; row += row_elements) row[to] = zero ? T{} : row[from];
        } else if (zero) {
            for (T* row = begin; row < end; row += row_elements)
                __builtin_memset(row + to * depth, 0, depth * sizeof(T));
        } else {
            for (T* row = begin; row < end; row += row_elements)
                __builtin_memcpy(row + to * depth, row + from * depth, depth * sizeof(T));
        }
    }
    for (int64_t i = 0; i < 2 * pad; i++) {
        const int64_t to = i < pad ? i : k.h + i;
        int64_t from = pad_source(k.pad_mode, to, pad, k.h);
        const bool zero = from < 0;
        if (zero) from = i < pad ? 0 : k.h - 1;  // whose chunk sees to it
        if (from < first || from >= last) continue;
        T* row = y + to * row_elements;
        if (zero)
            __builtin_memset(row, 0, row_elements * sizeof(T));
        else
            __builtin_memcpy(row, y + (from + pad) * row_elements, row_elements * sizeof(T));
    }
}

template <Kind kind, bool with_residual, class T>
void normalise_plane(const InstanceNormAct& k, const void* from, const void* added, void* to,
                     int64_t first, int64_t last, const Affine& affine) {
    const T *x = static_cast<const T*>(from), *residual = static_cast<const T*>(added);
    T* y = static_cast<T*>(to);
    const Normalise f = {k.act, k.alpha, splat(affine.mean), splat(affine.scale),
                         splat(affine.shift)};
    const int64_t w = k.w, pad = k.pad;
    // Without padding the rows are one span.
    const int64_t rows = pad == 0 ? last - first : 1, span = rows * w;
    for (int64_t h = first; h < last; h += rows) {
        normalise_span<kind, with_residual>(f, x + h * w,
                                            with_residual ? residual + h * w : nullptr,
                                            y + (h + pad) * (w + 2 * pad) + pad, span);
    }
    if (pad > 0) pad_rows(k, y, first, last, 1);
}

// ---------------------------------------------------------------------------------- channels-last

// Calls block.run<count>(c, slot) for `count` vectors of channels from c on, so that all of
// [0, channels) is covered. The last block may overlap the one before it; its slot is then
// `channels`, else c. There are at least as many channels as lanes.
template <class Block>
PIX2GAN_INLINE void for_channels(int64_t channels, const Block& block) {
    int64_t c = 0;
    for (; c + 4 * lanes <= channels; c += 4 * lanes) block.template run<4>(c, c);
    for (; c + 2 * lanes <= channels; c += 2 * lanes) block.template run<2>(c, c);
    if (c == channels) return;
    if (c > 0) return block.template run<2>(channels - 2 * lanes, channels);
    block.template run<1>(0, 0);
    if (channels > lanes) block.template run<1>(channels - lanes, channels);
}

// The channels of the overlapping block of for_channels.
PIX2GAN_INLINE int64_t overlapping_channels(int64_t channels) {
    if (channels >= 2 * lanes) return channels % (2 * lanes) == 0 ? 0 : 2 * lanes;
    return channels > lanes ? lanes : 0;
}

// Loads and stores of `count` vectors: pairs, or a single one.
template <class T, int count>
struct Vectors {
    F v[count];

    PIX2GAN_INLINE static Vectors load_from(const T* from) {
        Vectors out;
        if (count == 1) out.v[0] = load(from);
        for (int j = 0; j + 1 < count; j += 2) {
            const Pair p = load_pair(from + j * lanes);
            out.v[j] = p.a, out.v[j + 1] = p.b;
        }
        return out;
    }
    PIX2GAN_INLINE static Vectors load_floats(const float* from) {
        Vectors out;
        if (count == 1) out.v[0] = load(from);
        for (int j = 0; j + 1 < count; j += 2) {
            const Pair p = load_pair_as<T>(from + j * lanes);
            out.v[j] = p.a, out.v[j + 1] = p.b;
        }
        return out;
    }
    PIX2GAN_INLINE void store_floats(float* to) const {
        if (count == 1) store(to, v[0]);
        for (int j = 0; j + 1 < count; j += 2) store_pair_as<T>(to + j * lanes, {v[j], v[j + 1]});
    }
    PIX2GAN_INLINE void store_to(T* to) const {
        if (count == 1) store(to, v[0]);
        for (int j = 0; j + 1 < count; j += 2) store_pair(to + j * lanes, {v[j], v[j + 1]});
    }
};

// The sums of x - k and its square, k being the mean of a part.
template <class T, int count>
PIX2GAN_INLINE void shifted_sums(const T* x, int64_t pixels, int64_t stride, int64_t channels,
                                 float* sums) {
    using V = Vectors<T, count>;
    const int64_t every = pixels >= 8 * sample_every ? sample_every : 1;
    const float share = 1.0f / static_cast<float>(ceil_div(pixels, every));
    V k = {}, total1 = {}, total2 = {};
    for (int64_t i = 0; i < pixels; i += every) {
        const V v = V::load_from(x + i * stride);
        for (int j = 0; j < count; j++) k.v[j] += v.v[j];
    }
    for (int j = 0; j < count; j++) k.v[j] *= share;
    for (int64_t i = 0; i < pixels;) {
        const int64_t stop = smaller(pixels, i + flush_every);
        V s1 = {}, s2 = {};
        for (; i < stop; i++) {
            const V v = V::load_from(x + i * stride);
            for (int j = 0; j < count; j++) {
                const F d = v.v[j] - k.v[j];
                s1.v[j] += d;
                s2.v[j] += d * d;
            }
        }
        for (int j = 0; j < count; j++) total1.v[j] += s1.v[j], total2.v[j] += s2.v[j];
    }
    k.store_floats(sums);
    total1.store_floats(sums + channels);
    total2.store_floats(sums + 2 * channels);
}

#if PIX2GAN_LEVEL >= 3
// The same for bfloat16 without a shift, by an instruction that adds two products to each float:
// half as much work. The sums are short ones, of flush_every squares and four times as many x, and
// cancel nothing that counts. Significands of 8 bits have squares of 16, of which a float adds up
// 128 without rounding, and 2^15 x, where all |x| lie within a factor of 2 of each other: then the
// sums are exact, however small the deviation is. Where they do not, with M the largest |x|, the
// squares of deviations add up to M^2 / 8 or more, and rounding costs at most flush_every^2 / 2
// times 2^-24 M^2, 2^-12 of that; of the mean it costs 2^-13 deviations. Longer sums, and what is
// subtracted, are doubles (docs/ops.md).
//
// Vectors 2 j and 2 j + 1 hold channels 0-3, 8-11, 16-19, 24-27 and 4-7, 12-15, ... of 32.
template <int count>
struct SquareSums {
    __m512d sum1[2 * count], sum2[2 * count];

    PIX2GAN_INLINE SquareSums(const bfloat16* x, int64_t pixels, int64_t stride) {
        static const bfloat16 zeros[count * lanes] = {};
        const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
        for (int j = 0; j < 2 * count; j++) sum1[j] = sum2[j] = _mm512_setzero_pd();
        for (int64_t i = 0; i < pixels;) {
            const int64_t end = smaller(pixels, i + 4 * flush_every);
            __m512 s1[count];
            for (int j = 0; j < count; j++) s1[j] = _mm512_setzero_ps();
            while (i < end) {
                const int64_t stop = smaller(end, i + flush_every);
                __m512 s2[count];
                for (int j = 0; j < count; j++) s2[j] = _mm512_setzero_ps();
                for (; i < stop; i += 2) {
                    const bfloat16 *first = x + i * stride,
                                   *second = i + 1 < pixels ? first + stride : zeros;
                    for (int j = 0; j < count; j += 2) {
                        const __m512i a = _mm512_loadu_si512(first + j * lanes);
                        const __m512i b = _mm512_loadu_si512(second + j * lanes);
                        const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(a, b);
                        const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(a, b);
                        s1[j] = _mm512_dpbf16_ps(s1[j], low, ones);
                        s1[j + 1] = _mm512_dpbf16_ps(s1[j + 1], high, ones);
                        s2[j] = _mm512_dpbf16_ps(s2[j], low, low);
                        s2[j + 1] = _mm512_dpbf16_ps(s2[j + 1], high, high);
                    }
                }
                for (int j = 0; j < count; j++) add(s2[j], sum2 + 2 * j);
            }
            for (int j = 0; j < count; j++) add(s1[j], sum1 + 2 * j);
        }
    }

    PIX2GAN_INLINE static void add(__m512 v, __m512d* to) {
        to[0] = _mm512_add_pd(to[0], _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
        to[1] = _mm512_add_pd(to[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
    }

    // False, and nothing stored, where a square was infinite or not a number.
    PIX2GAN_INLINE bool store_shifted(int64_t pixels, int64_t channels, float* sums) const {
        const __m512d n = _mm512_set1_pd(static_cast<double>(pixels));
        const __m512d each = _mm512_set1_pd(1 / static_cast<double>(pixels));
        __m512 shift[count], shifted1[count], shifted2[count];
        __m512d total = _mm512_setzero_pd();
        for (int j = 0; j < count; j++) {
            __m256 part[3][2];
            for (int half = 0; half < 2; half++) {
                const __m512d s1 = sum1[2 * j + half], s2 = sum2[2 * j + half];
                const __m512d mean = _mm512_mul_pd(s1, each);
                part[0][half] = _mm512_cvtpd_ps(mean);
                // What is left of the sum of x, and m2 about the rounded mean.
                const __m512d left = _mm512_fnmadd_pd(_mm512_cvtps_pd(part[0][half]), n, s1);
                const __m512d m2 = _mm512_fmadd_pd(_mm512_mul_pd(left, left), each,
                                                   _mm512_fnmadd_pd(s1, mean, s2));
                part[1][half] = _mm512_cvtpd_ps(left), part[2][half] = _mm512_cvtpd_ps(m2);
                total = _mm512_add_pd(total, s2);
            }
            shift[j] = joined(part[0]), shifted1[j] = joined(part[1]);
            shifted2[j] = joined(part[2]);
        }
        if (!(_mm512_reduce_add_pd(total) < 1e300)) return false;
        store_in_order(shift, sums);
        store_in_order(shifted1, sums + channels);
        store_in_order(shifted2, sums + 2 * channels);
        return true;
    }

    PIX2GAN_INLINE static __m512 joined(const __m256* halves) {
        return _mm512_insertf32x8(_mm512_castps256_ps512(halves[0]), halves[1], 1);
    }

    PIX2GAN_INLINE static void store_in_order(const __m512* v, float* to) {
        const __m512i front =
            _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i back =
            _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
        for (int j = 0; j < count; j += 2) {
            _mm512_storeu_ps(to + j * lanes, _mm512_permutex2var_ps(v[j], front, v[j + 1]));
            _mm512_storeu_ps(to + (j + 1) * lanes, _mm512_permutex2var_ps(v[j], back, v[j + 1]));
        }
    }
};
#endif

template <int count, class T>
PIX2GAN_INLINE bool squares_summed(const T*, int64_t, int64_t, int64_t, float*) {
    return false;
}
#if PIX2GAN_LEVEL >= 3
template <int count>
PIX2GAN_INLINE bool squares_summed(const bfloat16* x, int64_t pixels, int64_t stride,
                                   int64_t channels, float* sums) {
    if (count % 2 != 0) return false;
    const SquareSums<count + count % 2> found(x, pixels, stride);
    return found.store_shifted(pixels, channels, sums);
}
#endif

template <class T>
struct SumBlock {
    const T* x;
    int64_t pixels, stride, channels;
    float* sums;

    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c, int64_t) const {
        if (squares_summed<count>(x + c, pixels, stride, channels, sums + c)) return;
        shifted_sums<T, count>(x + c, pixels, stride, channels, sums + c);
    }
};

template <class T>
void sum_pixels(const void* x, int64_t pixels, int64_t stride, int64_t channels, float* sums) {
    for_channels(channels, SumBlock<T>{static_cast<const T*>(x), pixels, stride, channels, sums});
}

inline void merge_sums(const float* sums, int64_t channels, double pixels, double count,
                       double* mean, double* m2) {
    const double share = pixels / (count + pixels), both = count * share, each = 1 / pixels;
    const float *shift = sums, *sum1 = sums + channels, *sum2 = sums + 2 * channels;
    for (int64_t c = 0; c < channels; c++) {
        const double s1 = sum1[c], own = sum2[c] - s1 * s1 * each;
        const double delta = shift[c] + s1 * each - mean[c];
        mean[c] += delta * share;
        m2[c] += (own < 0 ? 0 : own) + delta * delta * both;
    }
}

template <Kind kind, bool with_residual, class T>
struct NormaliseBlock {
    const InstanceNormAct& k;
    const T *x, *residual;
    T* y;
    const float* affine;

    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c, int64_t) const {
        using V = Vectors<T, count>;
        const int64_t pixels = k.w, channels = k.c;
        const Act act = k.act;
        const float alpha = k.alpha;
        const V mean = V::load_floats(affine + c), scale = V::load_floats(affine + channels + c),
                shift = V::load_floats(affine + 2 * channels + c);
        for (int64_t i = 0; i < pixels; i++) {
            V v = V::load_from(x + i * channels + c);
            for (int j = 0; j < count; j++) {
                const F affine = (v.v[j] - mean.v[j]) * scale.v[j] + shift.v[j];
                v.v[j] = activation::value<kind>(act, affine, alpha);
            }
            if (with_residual) {
                const V r = V::load_from(residual + i * channels + c);
                for (int j = 0; j < count; j++) v.v[j] += r.v[j];
            }
            v.store_to(y + i * channels + c);
        }
    }
};

inline void finish_channels(const InstanceNormAct& k, int64_t n, const double* mean,
                            const double* m2, float* affine) {
    const int64_t channels = k.c;
    const double each = 1 / static_cast<double>(k.h * k.w), eps = k.eps;
    const float* weight = k.weight != nullptr ? k.weight + n * k.weight_image : nullptr;
    const float* bias = k.bias != nullptr ? k.bias + n * k.bias_image : nullptr;
    float *means = affine, *scales = means + channels, *shifts = scales + channels;
    float* rstds = shifts + channels;
    if (k.given_mean == nullptr) {
        for (int64_t c = 0; c < channels; c++)
            rstds[c] = static_cast<float>(1 / __builtin_sqrt(m2[c] * each + eps));
    } else {
        for (int64_t c = 0; c < channels; c++) rstds[c] = k.given_rstd[n * channels + c];
    }
    for (int64_t c = 0; c < channels; c++) means[c] = static_cast<float>(mean[c]);
    for (int64_t c = 0; c < channels; c++)
        scales[c] = weight != nullptr ? rstds[c] * weight[c] : rstds[c];
    // What rounding the mean to a float leaves out goes into the shift.
    for (int64_t c = 0; c < channels; c++)
        shifts[c] = static_cast<float>((bias != nullptr ? bias[c] : 0.0f) -
                                       (mean[c] - means[c]) * scales[c]);
}

// Many channels: pixel by pixel, in the order of memory, which counts for more than to have the
// parameters in registers. `ordered` is affine [3, c] with its pairs in T's order; channels that no
// pair covers are left out.
template <Kind kind, bool with_residual, class T>
PIX2GAN_OUTLINE void normalise_pixels(const InstanceNormAct& k, const T* x, const T* residual, T* y,
                                      const float* ordered) {
    constexpr int64_t together = 2;
    const int64_t pixels = k.w, channels = k.c;
    const Act act = k.act;
    const float alpha = k.alpha;
    for (int64_t i = 0; i < pixels; i += together) {
        const int64_t n = smaller(together, pixels - i);
        for (int64_t c = 0; c + 2 * lanes <= channels; c += 2 * lanes) {
            const F* p = reinterpret_cast<const F*>(ordered + 3 * c);
            const Normalise f = {act, alpha, p[0], p[1], p[2]}, g = {act, alpha, p[3], p[4], p[5]};
            for (int64_t j = 0; j < n; j++)
                normalise_pair<kind, with_residual>(f, g, x, residual, y, (i + j) * channels + c);
        }
    }
}

template <class T>
PIX2GAN_OUTLINE void order_affine(const float* affine, int64_t channels, float* ordered) {
    for (int64_t c = 0; c + 2 * lanes <= channels; c += 2 * lanes) {
        for (int64_t row = 0; row < 3; row++) {
            const Pair v = load_pair_as<T>(affine + row * channels + c);
            store(ordered + 3 * c + row * lanes, v.a);
            store(ordered + 3 * c + (3 + row) * lanes, v.b);
        }
    }
}

// Whether there was a faster way, which was taken then.
template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE bool normalised_by_products(const InstanceNormAct&, const T*, const T*, T*, int64_t,
                                           int64_t, const float*) {
    return false;
}

#if PIX2GAN_LEVEL >= 3
// For bfloat16, by the instruction that adds two products to each float: x times a scale that is
// the sum of two bfloat16, exact to 2^-16 of it, and a shift that is that of the rounded scale, so
// that the mean still comes to 0. For two vectors of channels, from `first` on.
struct Products {
    __m512i scale[2];
    F shift[2];
    int64_t first;

    // False where the mean is so many deviations that x * scale would leave too few of float's
    // digits, and where something is not finite.
    PIX2GAN_INLINE bool prepare(const float* affine, int64_t channels, int64_t c) {
        first = c;
        I good[2];
        for (int j = 0; j < 2; j++) {
            const float* at = affine + c + j * lanes;
            const F mean = load(at), exact = load(at + channels);
            const U high = round_to_bfloat16(exact) & 0xffff0000u;
            const U low = round_to_bfloat16(exact - (F)high) & 0xffff0000u;
            const F offset = mean * ((F)high + (F)low);
            scale[j] = (__m512i)(high >> 16 | low);
            shift[j] = load(at + 2 * channels) - offset;
            good[j] = (absolute(exact) <= splat(1e15f)) & (absolute(shift[j]) <= splat(1e30f)) &
                      (absolute(offset) <= splat(256.0f));
        }
        return _mm512_movepi32_mask((__m512i)(good[0] & good[1])) == 0xffff;
    }
};

// `in_bits`: no y is a NaN, and the larger of its bits and 0, as integers, is its relu, for both
// vectors at once.
template <Kind kind, bool with_residual, bool in_bits>
PIX2GAN_OUTLINE void write_products(const InstanceNormAct& k, const Products* products,
                                    int64_t blocks, const bfloat16* x, const bfloat16* residual,
                                    bfloat16* y) {
    const U lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const __m512i front = (__m512i)(lane * 0x10001u);
    const __m512i back = (__m512i)(lane * 0x10001u + 0x100010u);
    const int64_t pixels = k.w, channels = k.c;
    const Act act = k.act;
    const float alpha = k.alpha;
    const auto write = [&](const Products& p, int64_t at) __attribute__((always_inline)) {
        // Each element twice, for the two parts of its scale.
        const __m512i v = _mm512_loadu_si512(x + at);
        F a = (F)_mm512_dpbf16_ps((__m512)p.shift[0], (__m512bh)_mm512_permutexvar_epi16(front, v),
                                  (__m512bh)p.scale[0]);
        F b = (F)_mm512_dpbf16_ps((__m512)p.shift[1], (__m512bh)_mm512_permutexvar_epi16(back, v),
                                  (__m512bh)p.scale[1]);
        if (!in_bits) {
            a = activation::value<kind>(act, a, alpha);
            b = activation::value<kind>(act, b, alpha);
        }
        if (with_residual) a += load(residual + at), b += load(residual + at + lanes);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
        if (in_bits) both = _mm512_max_epi16(both, _mm512_setzero_si512());
        _mm512_storeu_si512(y + at, both);
    };
    // A few pixels at a time, for which a block's parameters stay in registers: close to the order
    // of memory, in which a copy is fastest.
    constexpr int64_t together = 4;
    int64_t i = 0;
    for (; i + together <= pixels; i += together) {
        for (int64_t block = 0; block < blocks; block++) {
            const Products p = products[block];
#pragma GCC unroll 4
            for (int64_t j = 0; j < together; j++) write(p, (i + j) * channels + p.first);
        }
    }
    for (; i < pixels; i++) {
        for (int64_t block = 0; block < blocks; block++)
            write(products[block], i * channels + products[block].first);
    }
}

template <Kind kind, bool with_residual>
PIX2GAN_INLINE bool normalised_by_products(const InstanceNormAct& k, const bfloat16* x,
                                           const bfloat16* residual, bfloat16* y, int64_t first,
                                           int64_t last, const float* affine) {
    if (kind == activation::any || k.c < 2 * lanes) return false;
    const int64_t blocks = ceil_div(k.c, 2 * lanes);
    Scratch<Products> products(blocks);
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t c = smaller(block * 2 * lanes, k.c - 2 * lanes);
        if (!products[block].prepare(affine, k.c, c)) return false;
    }
    // With statistics of its own, x is finite where they are.
    const bool in_bits = kind == activation::relu && !with_residual && k.given_mean == nullptr;
    const auto write = in_bits ? write_products < kind, with_residual,
               kind == activation::relu && !with_residual >
        : write_products<kind, with_residual, false>;
    for (int64_t h = first; h < last; h++) {
        const int64_t at = h * k.w * k.c;
        write(k, products.get(), blocks, x + at, with_residual ? residual + at : nullptr,
              y + ((h + k.pad) * (k.w + 2 * k.pad) + k.pad) * k.c);
    }
    return true;
}
#endif

template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE void normalise_rows(const InstanceNormAct& k, const T* x, const T* residual, T* y,
                                   int64_t first, int64_t last, const float* affine) {
    const bool many = k.c > 4 * lanes;
    Scratch<float> ordered(many ? 3 * k.c : 0);
    if (many) order_affine<T>(affine, k.c, ordered.get());
    for (int64_t h = first; h < last; h++) {
        const int64_t at = h * k.w * k.c;
        const T *row = x + at, *row_residual = with_residual ? residual + at : nullptr;
        T* out = y + ((h + k.pad) * (k.w + 2 * k.pad) + k.pad) * k.c;
        const NormaliseBlock<kind, with_residual, T> block = {k, row, row_residual, out, affine};
        if (!many) {
            for_channels(k.c, block);
        } else {
            normalise_pixels<kind, with_residual>(k, row, row_residual, out, ordered.get());
            if (k.c % (2 * lanes) != 0) block.template run<2>(k.c - 2 * lanes, 0);
        }
    }
}

template <Kind kind, bool with_residual, class T>
void normalise_image(const InstanceNormAct& k, const void* from, const void* added, void* to,
                     int64_t first, int64_t last, const float* affine) {
    const T *x = static_cast<const T*>(from), *residual = static_cast<const T*>(added);
    T* y = static_cast<T*>(to);
    if (!normalised_by_products<kind, with_residual>(k, x, residual, y, first, last, affine))
        normalise_rows<kind, with_residual>(k, x, residual, y, first, last, affine);
    if (k.pad > 0) pad_rows(k, y, first, last, k.c);
}

// ------------------------------------------------------------------------------------------ tables

template <Kind kind, bool with_residual, class T>
InstanceNormLoops loops() {
    return {moments<T>, normalise_plane<kind, with_residual, T>, sum_pixels<T>,
            normalise_image<kind, with_residual, T>};
}

template <Kind kind, bool with_residual>
InstanceNormLoops for_type(Type type) {
    if (type == Type::float32) return loops<kind, with_residual, float>();
    if (type == Type::bfloat16) return loops<kind, with_residual, bfloat16>();
    return loops<kind, with_residual, float16>();
}

template <bool with_residual>
InstanceNormLoops for_act(Type type, Act act) {
    if (act == Act::linear) return for_type<activation::linear, with_residual>(type);
    if (act == Act::relu) return for_type<activation::relu, with_residual>(type);
    if (act == Act::lrelu) return for_type<activation::lrelu, with_residual>(type);
    return for_type<activation::any, with_residual>(type);
}

inline InstanceNormLoops find(Type type, Act act, bool with_residual) {
    return with_residual ? for_act<true>(type, act) : for_act<false>(type, act);
}

}  // namespace instance_norm_loops
