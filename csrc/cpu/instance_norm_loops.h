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

template <class T>
struct SumBlock {
    const T* x;
    int64_t pixels, channels;
    float* sums;

    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c, int64_t) const {
        using V = Vectors<T, count>;
        const int64_t every = pixels >= 8 * sample_every ? sample_every : 1;
        const float share = 1.0f / static_cast<float>(ceil_div(pixels, every));
        V k = {}, total1 = {}, total2 = {};
        for (int64_t i = 0; i < pixels; i += every) {
            const V v = V::load_from(x + i * channels + c);
            for (int j = 0; j < count; j++) k.v[j] += v.v[j];
        }
        for (int j = 0; j < count; j++) k.v[j] *= share;
        for (int64_t i = 0; i < pixels;) {
            const int64_t stop = smaller(pixels, i + flush_every);
            V s1 = {}, s2 = {};
            for (; i < stop; i++) {
                const V v = V::load_from(x + i * channels + c);
                for (int j = 0; j < count; j++) {
                    const F d = v.v[j] - k.v[j];
                    s1.v[j] += d;
                    s2.v[j] += d * d;
                }
            }
            for (int j = 0; j < count; j++) total1.v[j] += s1.v[j], total2.v[j] += s2.v[j];
        }
        k.store_floats(sums + c);
        total1.store_floats(sums + channels + c);
        total2.store_floats(sums + 2 * channels + c);
    }
};

template <class T>
void sum_pixels(const void* x, int64_t pixels, int64_t channels, float* sums) {
    for_channels(channels, SumBlock<T>{static_cast<const T*>(x), pixels, channels, sums});
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

inline void finish_image(const InstanceNormAct& k, int64_t n, const double* mean, const double* m2,
                         float* affine) {
    const int64_t channels = k.c;
    const double each = 1 / static_cast<double>(k.h * k.w), eps = k.eps;
    const float* weight = k.weight != nullptr ? k.weight + n * k.weight_image : nullptr;
    const float* bias = k.bias != nullptr ? k.bias + n * k.bias_image : nullptr;
    float *means = k.mean + n * channels, *rstds = k.rstd + n * channels;
    float *scales = affine + channels, *shifts = affine + 2 * channels;
    if (k.given_mean == nullptr) {
        for (int64_t c = 0; c < channels; c++)
            rstds[c] = static_cast<float>(1 / __builtin_sqrt(m2[c] * each + eps));
    } else {
        for (int64_t c = 0; c < channels; c++) rstds[c] = k.given_rstd[n * channels + c];
    }
    for (int64_t c = 0; c < channels; c++) means[c] = affine[c] = static_cast<float>(mean[c]);
    for (int64_t c = 0; c < channels; c++)
        scales[c] = weight != nullptr ? rstds[c] * weight[c] : rstds[c];
    // What rounding the mean to a float leaves out goes into the shift.
    for (int64_t c = 0; c < channels; c++)
        shifts[c] = static_cast<float>((bias != nullptr ? bias[c] : 0.0f) -
                                       (mean[c] - affine[c]) * scales[c]);
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

template <Kind kind, bool with_residual, class T>
void normalise_image(const InstanceNormAct& k, const void* from, const void* added, void* to,
                     int64_t first, int64_t last, const float* affine) {
    const T *x = static_cast<const T*>(from), *residual = static_cast<const T*>(added);
    T* y = static_cast<T*>(to);
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
