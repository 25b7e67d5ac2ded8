// The gradient of instance_norm_act, in two passes: sums over a plane, then dx.
//
// With d = x - mean, v = d * scale + bias, scale = weight * rstd, gv = g * act'(v), where g is dy
// with every padded element added to the pixel that it was copied from:
//   pass one: s1 = sum gv, s2 = sum gv * d
//   pass two: dx = (gv - offset - d * slope) * scale, slope and offset being made of s1 and s2
// v is recomputed, so that the forward pass has nothing to keep but x.

namespace instance_norm_grad_loops {

using activation::Kind;
using instance_norm_loops::for_channels;
using instance_norm_loops::Vectors;

// Sums of sums, as in the forward pass. Shorter ones: what is summed here often cancels.
constexpr int64_t flush_every = 16;

// ------------------------------------------------------------------------------ contiguous planes

// g = row, or g += row, for w elements.
template <bool add, class T>
PIX2GAN_INLINE void add_row(const T* row, int64_t w, float* g) {
    int64_t i = 0;
    for (; i + lanes <= w; i += lanes)
        store(g + i, add ? load(g + i) + load(row + i) : load(row + i));
    if (i == w) return;
    const F rest = load_first(row + i, w - i);
    store_first(g + i, add ? load_first(g + i, w - i) + rest : rest, w - i);
}

template <class T>
PIX2GAN_INLINE float to_float(T value) {
    return load_first(&value, 1)[0];
}
template <>
PIX2GAN_INLINE float to_float<float>(float value) {
    return value;
}
template <>
PIX2GAN_INLINE float to_float<bfloat16>(bfloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

// g for rows [first, last), dense [rows, w], from a padded plane of dy.
template <class T>
PIX2GAN_OUTLINE void gather_rows(const InstanceNormActGrad& k, const Copies& rows, const T* dy,
                                 int64_t first, int64_t last, float* g) {
    const int64_t w = k.w, pad = k.pad, padded_width = w + 2 * pad;
    for (int64_t h = first; h < last; h++) {
        float* row = g + (h - first) * w;
        int64_t i = rows.start[h];
        add_row<false>(dy + rows.position[i] * padded_width + pad, w, row);
        while (++i < rows.start[h + 1])
            add_row<true>(dy + rows.position[i] * padded_width + pad, w, row);
    }
    if (k.pad_mode == Pad::zeros) return;
    for (int64_t i = 0; i < 2 * pad; i++) {
        const int64_t column = i < pad ? i : w + i;
        float* to = g + pad_source(k.pad_mode, column, pad, w);
        for (int64_t h = first; h < last; h++, to += w)
            for (int64_t j = rows.start[h]; j < rows.start[h + 1]; j++)
                *to += to_float(dy[rows.position[j] * padded_width + column]);
    }
}

// gv, and d, of one vector.
template <Kind kind>
PIX2GAN_INLINE F times_slope(Act act, float alpha, F d, F scale, F bias, F g) {
    return activation::times_slope<kind>(act, d * scale + bias, alpha, g);
}

struct SumPair {
    F s1, s2;
};

template <Kind kind, class T, class G>
PIX2GAN_INLINE void sum_span(const InstanceNormActGrad& k, const T* x, const G* g, int64_t n,
                             const GradAffine& p, SumPair& total) {
    const Act act = k.act;
    const float alpha = k.alpha;
    const F mean = splat(p.mean), scale = splat(p.scale), bias = splat(p.bias);
    F s1 = {}, s2 = {};
    int64_t i = 0;
    while (i + 2 * lanes <= n) {
        const int64_t stop = smaller(n, i + 2 * lanes * flush_every);
        F a1 = {}, a2 = {}, b1 = {}, b2 = {};
        for (; i + 2 * lanes <= stop; i += 2 * lanes) {
            const F d = load(x + i) - mean, e = load(x + i + lanes) - mean;
            const F a = times_slope<kind>(act, alpha, d, scale, bias, load(g + i));
            const F b = times_slope<kind>(act, alpha, e, scale, bias, load(g + i + lanes));
            a1 += a, a2 += a * d;
            b1 += b, b2 += b * e;
        }
        s1 += a1 + b1, s2 += a2 + b2;
    }
    for (; i < n; i += lanes) {
        // Beyond the end x is 0 and so is g, but 0 * slope may not be: d is cleared too.
        const int64_t count = smaller(lanes, n - i);
        F d = load_first(x + i, count) - mean;
        for (int64_t j = count; j < lanes; j++) d[j] = 0;
        const F a = times_slope<kind>(act, alpha, d, scale, bias, load_first(g + i, count));
        s1 += a, s2 += a * d;
    }
    total.s1 += s1;
    total.s2 += s2;
}

template <Kind kind, class T, class G>
PIX2GAN_INLINE void write_span(const InstanceNormActGrad& k, const T* x, const G* g, T* dx,
                               int64_t n, const GradAffine& p) {
    const Act act = k.act;
    const float alpha = k.alpha;
    const F mean = splat(p.mean), scale = splat(p.scale), bias = splat(p.bias);
    const F slope = splat(p.slope), offset = splat(p.offset);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const F d = load(x + i) - mean;
        const F gv = times_slope<kind>(act, alpha, d, scale, bias, load(g + i));
        store(dx + i, ((gv - offset) - d * slope) * scale);
    }
    if (i < n) {
        const F d = load_first(x + i, n - i) - mean;
        const F gv = times_slope<kind>(act, alpha, d, scale, bias, load_first(g + i, n - i));
        store_first(dx + i, ((gv - offset) - d * slope) * scale, n - i);
    }
}

// How many rows are gathered at a time: as many as leave x and g in the innermost cache.
inline int64_t group_rows(int64_t w) { return larger(1, grad_group_elements / w); }

template <Kind kind, class T>
GradSums sum_plane(const InstanceNormActGrad& k, const Copies& rows, const void* from,
                   const void* gradient, int64_t first, int64_t last, const GradAffine& p,
                   float* buffer) {
    const T *x = static_cast<const T*>(from), *dy = static_cast<const T*>(gradient);
    SumPair total = {};
    const int64_t group = group_rows(k.w);
    for (int64_t h = first; h < last; h += group) {
        const int64_t stop = smaller(last, h + group), n = (stop - h) * k.w;
        if (k.pad == 0) {
            sum_span<kind>(k, x + h * k.w, dy + h * k.w, n, p, total);
        } else {
            gather_rows(k, rows, dy, h, stop, buffer);
            sum_span<kind>(k, x + h * k.w, buffer, n, p, total);
        }
    }
    return {sum_lanes(total.s1), sum_lanes(total.s2)};
}

template <Kind kind, class T>
void write_plane(const InstanceNormActGrad& k, const Copies& rows, const void* from,
                 const void* gradient, void* to, int64_t first, int64_t last, const GradAffine& p,
                 float* buffer) {
    const T *x = static_cast<const T*>(from), *dy = static_cast<const T*>(gradient);
    T* dx = static_cast<T*>(to);
    const int64_t group = group_rows(k.w);
    for (int64_t h = first; h < last; h += group) {
        const int64_t stop = smaller(last, h + group), n = (stop - h) * k.w;
        if (k.pad == 0) {
            write_span<kind>(k, x + h * k.w, dy + h * k.w, dx + h * k.w, n, p);
        } else {
            gather_rows(k, rows, dy, h, stop, buffer);
            write_span<kind>(k, x + h * k.w, buffer, dx + h * k.w, n, p);
        }
    }
}

// ---------------------------------------------------------------------------------- channels-last

// g for pixels [first, last) of row h, dense [pixels, c], from a padded image of dy.
template <class T>
PIX2GAN_OUTLINE void gather_pixels(const InstanceNormActGrad& k, const Copies& rows,
                                   const Copies& columns, const T* dy, int64_t h, int64_t first,
                                   int64_t last, float* g) {
    const int64_t channels = k.c, padded_width = k.w + 2 * k.pad;
    for (int64_t w = first; w < last; w++, g += channels) {
        for (int64_t i = 0; i < channels; i += lanes) {
            const int64_t c = smaller(i, channels - lanes);  // the last may overlap the one before
            F sum = {};
            for (int64_t y = rows.start[h]; y < rows.start[h + 1]; y++)
                for (int64_t x = columns.start[w]; x < columns.start[w + 1]; x++)
                    sum += load(dy +
                                (rows.position[y] * padded_width + columns.position[x]) * channels +
                                c);
            store(g + c, sum);
        }
    }
}

// Sums over `pixels` pixels, added to sums[2][c], where `slot` is the channel or, for the block
// that overlaps the one before it, a place of its own behind the last channel.
template <Kind kind, class T>
struct SumGradBlock {
    const InstanceNormActGrad& k;
    const T* x;
    const T* dy;            // [pixels, c]
    const float* gathered;  // the same where it is not null
    int64_t pixels;
    const float* affine;  // [3, c]: mean, scale, bias
    float* sums;          // [2, c + grad_extra]

    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c, int64_t slot) const {
        using V = Vectors<T, count>;
        const int64_t channels = k.c, stride = channels + grad_extra;
        const Act act = k.act;
        const float alpha = k.alpha;
        const V mean = V::load_floats(affine + c), scale = V::load_floats(affine + channels + c),
                bias = V::load_floats(affine + 2 * channels + c);
        V total1 = V::load_floats(sums + slot), total2 = V::load_floats(sums + stride + slot);
        for (int64_t i = 0; i < pixels;) {
            const int64_t stop = smaller(pixels, i + flush_every);
            V s1 = {}, s2 = {};
            for (; i < stop; i++) {
                const int64_t at = i * channels + c;
                const V v = V::load_from(x + at);
                const V g =
                    gathered != nullptr ? V::load_floats(gathered + at) : V::load_from(dy + at);
                for (int j = 0; j < count; j++) {
                    const F d = v.v[j] - mean.v[j];
                    const F gv = times_slope<kind>(act, alpha, d, scale.v[j], bias.v[j], g.v[j]);
                    s1.v[j] += gv;
                    s2.v[j] += gv * d;
                }
            }
            for (int j = 0; j < count; j++) total1.v[j] += s1.v[j], total2.v[j] += s2.v[j];
        }
        total1.store_floats(sums + slot);
        total2.store_floats(sums + stride + slot);
    }
};

template <Kind kind, class T>
struct WriteGradBlock {
    const InstanceNormActGrad& k;
    const T* x;
    const T* dy;
    const float* gathered;
    T* dx;
    int64_t pixels;
    const float* affine;  // [5, c]: mean, scale, bias, slope, offset

    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c, int64_t) const {
        using V = Vectors<T, count>;
        const int64_t channels = k.c;
        const Act act = k.act;
        const float alpha = k.alpha;
        const V mean = V::load_floats(affine + c), scale = V::load_floats(affine + channels + c),
                bias = V::load_floats(affine + 2 * channels + c),
                slope = V::load_floats(affine + 3 * channels + c),
                offset = V::load_floats(affine + 4 * channels + c);
        for (int64_t i = 0; i < pixels; i++) {
            V v = V::load_from(x + i * channels + c);
            const int64_t at = i * channels + c;
            const V g = gathered != nullptr ? V::load_floats(gathered + at) : V::load_from(dy + at);
            for (int j = 0; j < count; j++) {
                const F d = v.v[j] - mean.v[j];
                const F gv = times_slope<kind>(act, alpha, d, scale.v[j], bias.v[j], g.v[j]);
                v.v[j] = ((gv - offset.v[j]) - d * slope.v[j]) * scale.v[j];
            }
            v.store_to(dx + i * channels + c);
        }
    }
};

// Calls pixels.run(h, first, last, dy, gathered) for runs of pixels of rows [first, last): most
// take their gradient straight from dy, those that padding has copied from take it from the buffer.
template <class T, class Pixels>
PIX2GAN_INLINE void for_runs(const InstanceNormActGrad& k, const Copies& rows,
                             const Copies& columns, const T* dy, int64_t first, int64_t last,
                             float* buffer, const Pixels& pixels) {
    const int64_t w = k.w, pad = k.pad, padded_width = w + 2 * pad;
    // Columns at either end that are copied: 1 to pad by reflection (0 goes along), 0 by
    // replication.
    const int64_t copied = pad == 0 || k.pad_mode == Pad::zeros ? 0
                           : k.pad_mode == Pad::reflect         ? pad + 1
                                                                : 1;
    for (int64_t h = first; h < last; h++) {
        const bool whole = rows.start[h + 1] - rows.start[h] > 1 || 2 * copied >= w;
        // Runs [0, left) and [right, w) are gathered, what lies between is not.
        const int64_t left = whole ? w : copied, right = whole ? w : w - copied;
        const int64_t ends[] = {0, left, right, w};
        for (int64_t i = 0; i < 3; i++) {
            const int64_t from = ends[i], to = ends[i + 1];
            if (from == to) continue;
            const bool gathered = i != 1;
            if (gathered) gather_pixels(k, rows, columns, dy, h, from, to, buffer);
            pixels.run(h, from, to, dy + ((h + pad) * padded_width + pad + from) * k.c,
                       gathered ? buffer : nullptr);
        }
    }
}

template <Kind kind, class T>
struct SumRuns {
    const InstanceNormActGrad& k;
    const T* x;
    const float* affine;
    float* sums;

    PIX2GAN_INLINE void run(int64_t h, int64_t first, int64_t last, const T* dy,
                            const float* gathered) const {
        for_channels(k.c, SumGradBlock<kind, T>{k, x + (h * k.w + first) * k.c, dy, gathered,
                                                last - first, affine, sums});
    }
};

template <Kind kind, class T>
struct WriteRuns {
    const InstanceNormActGrad& k;
    const T* x;
    T* dx;
    const float* affine;

    PIX2GAN_INLINE void run(int64_t h, int64_t first, int64_t last, const T* dy,
                            const float* gathered) const {
        const int64_t at = (h * k.w + first) * k.c;
        for_channels(
            k.c, WriteGradBlock<kind, T>{k, x + at, dy, gathered, dx + at, last - first, affine});
    }
};

template <Kind kind, class T>
void sum_image(const InstanceNormActGrad& k, const Copies& rows, const Copies& columns,
               const void* from, const void* gradient, int64_t first, int64_t last,
               const float* affine, float* sums, float* buffer) {
    const int64_t stride = k.c + grad_extra;
    for (int64_t i = 0; i < 2 * stride; i++) sums[i] = 0;
    for_runs(k, rows, columns, static_cast<const T*>(gradient), first, last, buffer,
             SumRuns<kind, T>{k, static_cast<const T*>(from), affine, sums});
    const int64_t overlap = instance_norm_loops::overlapping_channels(k.c);
    for (int64_t row = 0; row < 2; row++)
        for (int64_t i = 0; i < overlap; i++)
            sums[row * stride + k.c - overlap + i] = sums[row * stride + k.c + i];
}

template <Kind kind, class T>
void write_image(const InstanceNormActGrad& k, const Copies& rows, const Copies& columns,
                 const void* from, const void* gradient, void* to, int64_t first, int64_t last,
                 const float* affine, float* buffer) {
    for_runs(k, rows, columns, static_cast<const T*>(gradient), first, last, buffer,
             WriteRuns<kind, T>{k, static_cast<const T*>(from), static_cast<T*>(to), affine});
}

// ------------------------------------------------------------------------------------------ tables

template <Kind kind, class T>
InstanceNormGradLoops loops() {
    return {sum_plane<kind, T>, write_plane<kind, T>, sum_image<kind, T>, write_image<kind, T>};
}

template <Kind kind>
InstanceNormGradLoops for_type(Type type) {
    if (type == Type::float32) return loops<kind, float>();
    if (type == Type::bfloat16) return loops<kind, bfloat16>();
    return loops<kind, float16>();
}

inline InstanceNormGradLoops find(Type type, Act act) {
    if (act == Act::linear) return for_type<activation::linear>(type);
    if (act == Act::relu) return for_type<activation::relu>(type);
    if (act == Act::lrelu) return for_type<activation::lrelu>(type);
    return for_type<activation::any>(type);
}

}  // namespace instance_norm_grad_loops
