// Rows and columns of upfirdn2d.

namespace upfirdn2d_loops {

using instance_norm_loops::Vectors;

// A sum of products: of rows of the image, or of places in a buffer.
template <class T>
class Sum {
  public:
    explicit Sum(int64_t capacity)
        : many_places_(capacity > few ? capacity : 0),
          many_weights_(capacity > few ? capacity : 0),
          place(capacity > few ? many_places_.get() : few_places_),
          weight(capacity > few ? many_weights_.get() : few_weights_) {}

    PIX2GAN_INLINE void add(const T* at, float by) {
        place[count] = at;
        weight[count++] = by;
    }

  private:
    static constexpr int64_t few = 16;
    const T* few_places_[few];
    float few_weights_[few];
    Scratch<const T*> many_places_;
    Scratch<float> many_weights_;

  public:
    const T** const place;
    float* const weight;
    int64_t count = 0;
};

// The first `count` weights as vectors, where that is known to the compiler.
template <int count>
struct Weights {
    F v[count > 0 ? count : 1];

    template <class T>
    PIX2GAN_INLINE explicit Weights(const Sum<T>& sum) {
        for (int j = 0; j < count; j++) v[j] = splat(sum.weight[j]);
    }
};

// Element i of the sum and those behind it; `count` is 0 where it is not known to the compiler.
template <int count, class T, class Load>
PIX2GAN_INLINE F add_up(const Sum<T>& sum, const Weights<count>& weights, Load load_at) {
    if (count > 0) {
        F total = weights.v[0] * load_at(sum.place[0]);
        for (int j = 1; j < count; j++) total += weights.v[j] * load_at(sum.place[j]);
        return total;
    }
    F total = sum.weight[0] * load_at(sum.place[0]);
    for (int64_t j = 1; j < sum.count; j++) total += sum.weight[j] * load_at(sum.place[j]);
    return total;
}

struct LoadAt {
    int64_t i;
    template <class T>
    PIX2GAN_INLINE F operator()(const T* from) const {
        return load(from + i);
    }
};

struct LoadFirst {
    int64_t i, n;
    template <class T>
    PIX2GAN_INLINE F operator()(const T* from) const {
        return load_first(from + i, n);
    }
};

// Equal sums over rows: of the buffer, `from` apart, into rows of the output, `to` apart.
struct Rows {
    int64_t count = 1, from = 0, to = 0;
};

// out[i] = the sum of weight * place[i], i < n. `slack`: the places may be read beyond n.
template <int count, bool slack, class T, class Out>
PIX2GAN_INLINE void combine_counted(const Sum<T>& sum, Out* out, int64_t n, const Rows& rows) {
    const Weights<count> weights(sum);
    for (int64_t row = 0; row < rows.count; row++, out += rows.to) {
        const int64_t at = row * rows.from;
        int64_t i = 0;
        for (; i + lanes <= n; i += lanes)
            store(out + i, add_up<count>(sum, weights, LoadAt{at + i}));
        if (i == n) continue;
        if (n >= lanes)  // the last vector overlaps the one before it
            store(out + n - lanes, add_up<count>(sum, weights, LoadAt{at + n - lanes}));
        else if (slack)
            store_first(out, add_up<count>(sum, weights, LoadAt{at}), n);
        else
            store_first(out, add_up<count>(sum, weights, LoadFirst{at, n}), n);
    }
}

template <bool slack, class T, class Out>
PIX2GAN_OUTLINE void combine(const Sum<T>& sum, Out* out, int64_t n, const Rows& rows = {}) {
    switch (sum.count) {
        case 1:
            return combine_counted<1, slack>(sum, out, n, rows);
        case 2:
            return combine_counted<2, slack>(sum, out, n, rows);
        case 3:
            return combine_counted<3, slack>(sum, out, n, rows);
        case 4:
            return combine_counted<4, slack>(sum, out, n, rows);
        default:
            return combine_counted<0, slack>(sum, out, n, rows);
    }
}

// The same into even and odd elements. Pairs of bfloat16 come apart as they are loaded; others are
// taken apart once, when they have been added up.
template <int count, class T>
PIX2GAN_INLINE void combine_split_counted(const Sum<T>& sum, float* even, float* odd, int64_t n,
                                          const Rows& rows) {
    const Weights<count> weights(sum);
    for (int64_t row = 0; row < rows.count; row++, even += rows.to, odd += rows.to) {
        const int64_t at = row * rows.from;
        int64_t i = 0;
        for (; i + 2 * lanes <= n; i += 2 * lanes) {
            Pair total = {};
            for (int64_t j = 0; j < (count > 0 ? count : sum.count); j++) {
                const Pair v = load_pair(sum.place[j] + at + i);
                const F weight = count > 0 ? weights.v[j] : splat(sum.weight[j]);
                total.a += weight * v.a, total.b += weight * v.b;
            }
            total = even_and_odd(T{}, total);
            store(even + i / 2, total.a), store(odd + i / 2, total.b);
        }
        if (i == n) continue;
        float rest[2 * lanes];
        for (int64_t first = i; first < n; first += lanes)
            store(rest + first - i, add_up<0>(sum, Weights<0>(sum),
                                              LoadFirst{at + first, smaller(lanes, n - first)}));
        for (int64_t j = i; j < n; j++) (j % 2 == 0 ? even : odd)[j / 2] = rest[j - i];
    }
}

template <class T>
PIX2GAN_OUTLINE void combine_split(const Sum<T>& sum, float* even, float* odd, int64_t n,
                                   const Rows& rows) {
    if (sum.count == 4) return combine_split_counted<4>(sum, even, odd, n, rows);
    if (sum.count == 3) return combine_split_counted<3>(sum, even, odd, n, rows);
    combine_split_counted<0>(sum, even, odd, n, rows);
}

// out[2 i] from one sum and out[2 i + 1] from another. Places may be read beyond n.
template <class Sums, class T>
PIX2GAN_INLINE void write_pairs(const Sums& sums, T* out, int64_t n, const Rows& rows) {
    for (int64_t row = 0; row < rows.count; row++, out += rows.to) {
        const int64_t at = row * rows.from;
        int64_t i = 0;
        for (; 2 * (i + lanes) <= n; i += lanes) {
            const Pair v = sums(at + i);
            store_interleaved(out + 2 * i, v.a, v.b);
        }
        if (2 * i == n) continue;
        float rest[2 * lanes];
        const Pair v = sums(at + i);
        store_interleaved(rest, v.a, v.b);
        const int64_t left = n - 2 * i;
        store_first(out + 2 * i, load(rest), smaller(left, lanes));
        if (left > lanes) store_first(out + 2 * i + lanes, load(rest + lanes), left - lanes);
    }
}

template <int count>
struct AnyPairs {
    const Sum<float>&even, &odd;
    const Weights<count> a, b;

    PIX2GAN_INLINE Pair operator()(int64_t i) const {
        return {add_up<count>(even, a, LoadAt{i}), add_up<count>(odd, b, LoadAt{i})};
    }
};

// Two taps each, of two or (shift 1) three neighbours.
template <int shift>
struct NeighbourPairs {
    const float* from;
    const Weights<2> a, b;

    PIX2GAN_INLINE Pair operator()(int64_t i) const {
        const F left = load(from + i), middle = load(from + i + 1);
        const F right = shift == 1 ? load(from + i + 2) : middle;
        return {a.v[0] * left + a.v[1] * middle,
                b.v[0] * (shift == 1 ? middle : left) + b.v[1] * right};
    }
};

template <class T>
PIX2GAN_OUTLINE void combine_pairs(Sum<float>& even, Sum<float>& odd, T* out, int64_t n,
                                   const Rows& rows = {}) {
    while (even.count < odd.count) even.add(odd.place[even.count], 0);
    while (odd.count < even.count) odd.add(even.place[odd.count], 0);
    const float* from = even.place[0];
    if (even.count == 2 && even.place[1] == from + 1) {
        const Weights<2> a(even), b(odd);
        if (odd.place[0] == from && odd.place[1] == from + 1)
            return write_pairs(NeighbourPairs<0>{from, a, b}, out, n, rows);
        if (odd.place[0] == from + 1 && odd.place[1] == from + 2)
            return write_pairs(NeighbourPairs<1>{from, a, b}, out, n, rows);
    }
    write_pairs(AnyPairs<0>{even, odd, Weights<0>(even), Weights<0>(odd)}, out, n, rows);
}

// The rows of x that output row `y` needs for one term.
template <class T>
PIX2GAN_INLINE void rows_of(const Upfirdn2dPlan& p, int64_t term, int64_t y, const T* x,
                            int64_t row_elements, Sum<T>& sum) {
    const Taps& taps = p.rows[y];
    sum.count = 0;
    for (int64_t m = 0; m < taps.count; m++) {
        const float weight = p.fy[term * p.k.filter_h + taps.first_tap + m * p.k.up_y];
        if (weight != 0) sum.add(x + (taps.first_sample + m) * row_elements, weight);
    }
}

// ------------------------------------------------------------------------------ contiguous planes

// Adds the taps on the columns of one term's buffer to what output column `first` is made of;
// `step` is how far the buffer advances from one sample to the next.
PIX2GAN_INLINE void columns_of(const Upfirdn2dPlan& p, int64_t term, const float* buffer,
                               int64_t first, Sum<float>& sum) {
    const Taps taps = taps_at(first, p.k.up_x, p.k.down_x, p.k.pad_x, p.k.filter_w);
    for (int64_t m = 0; m < taps.count; m++) {
        const int64_t at = p.margin + taps.first_sample + m;
        const float weight = p.fx[term * p.k.filter_w + taps.first_tap + m * p.k.up_x];
        if (!p.halves())
            sum.add(buffer + at, weight);
        else
            sum.add(buffer + at / 2 + (at % 2 == 0 ? 0 : p.half), weight);
    }
}

// Any other ratio: one by one.
template <class T>
PIX2GAN_OUTLINE void combine_columns(const Upfirdn2dPlan& p, const int64_t* terms, int64_t count,
                                     const float* buffer, T* out) {
    float values[lanes];
    for (int64_t first = 0; first < p.k.out_w; first += lanes) {
        const int64_t n = smaller(lanes, p.k.out_w - first);
        for (int64_t i = 0; i < n; i++) {
            const Taps& taps = p.columns[first + i];
            float total = 0;
            for (int64_t j = 0; j < count; j++) {
                const float* from = buffer + terms[j] * p.stride + p.margin + taps.first_sample;
                const float* f = p.fx + terms[j] * p.k.filter_w + taps.first_tap;
                for (int64_t m = 0; m < taps.count; m++) total += f[m * p.k.up_x] * from[m];
            }
            values[i] = total;
        }
        store_first(out + first, load_first(values, n), n);
    }
}

// The rows of one term's buffer, and the columns that will be made of it.
template <class T>
PIX2GAN_INLINE void combine_rows(const Upfirdn2dPlan& p, const Sum<T>& sum, float* row,
                                 const Rows& rows = {}) {
    if (p.halves())
        combine_split(sum, row + p.margin / 2, row + p.half + p.margin / 2, p.k.w, rows);
    else
        combine<false>(sum, row + p.margin, p.k.w, rows);
}

// Halving with the padding that centres three or four taps: out[o] is made of the pixels 2 o - 1 to
// 2 o + 2 of combined rows, which never leave registers. A vector of results takes the even and odd
// pixels of two vectors, of the vector before the last odd one, of the one behind the first even
// one. `count`: rows, 0 where it is not known to the compiler.
template <int count, class T>
struct HalvedRows {
    const Sum<T>& rows;
    const Weights<count> weights;
    const int64_t width;

    // The even and odd ones of pixels [at, at + 2 lanes); zeros beyond the image.
    PIX2GAN_INLINE Pair operator()(int64_t at) const {
        Pair total = {};
        if (at + 2 * lanes <= width) {
            for (int64_t j = 0; j < (count > 0 ? count : rows.count); j++) {
                const Pair v = load_pair(rows.place[j] + at);
                const F weight = count > 0 ? weights.v[j] : splat(rows.weight[j]);
                total.a += weight * v.a, total.b += weight * v.b;
            }
            return even_and_odd(T{}, total);
        }
        const int64_t left = width - at;
        if (left > 0) total.a = add_up<count>(rows, weights, LoadFirst{at, smaller(lanes, left)});
        if (left > lanes)
            total.b = add_up<count>(rows, weights, LoadFirst{at + lanes, left - lanes});
        return deinterleaved(total);
    }
};

template <int count, int taps, class T>
PIX2GAN_OUTLINE void halve_counted(const Sum<T>& sum, const float* fx, int64_t width, T* out,
                                   int64_t n) {
    const HalvedRows<count, T> rows = {sum, Weights<count>(sum), width};
    const F f0 = splat(fx[0]), f1 = splat(fx[1]), f2 = splat(fx[2]), f3 = splat(fx[taps - 1]);
    F before = {};
    Pair now = rows(0);
    for (int64_t o = 0; o < n; o += lanes) {
        const Pair next = rows(2 * (o + lanes));
        F total = f0 * moved_up(before, now.b) + f1 * now.a + f2 * now.b;
        if (taps == 4) total += f3 * moved_down(now.a, next.a);
        if (o + lanes <= n)
            store(out + o, total);
        else
            store_first(out + o, total, n - o);
        before = now.b, now = next;
    }
}

template <int taps, class T>
void halve_rows(const Upfirdn2dPlan& p, const T* x, T* out, int64_t first, int64_t last) {
    const Upfirdn2d& k = p.k;
    Sum<T> rows(k.filter_h);
    for (int64_t y = first; y < last; y++) {
        rows_of(p, 0, y, x, k.w, rows);
        T* to = out + y * k.out_w;
        if (rows.count == 4)
            halve_counted<4, taps>(rows, p.fx, k.w, to, k.out_w);
        else if (rows.count == 3)
            halve_counted<3, taps>(rows, p.fx, k.w, to, k.out_w);
        else if (rows.count > 0)
            halve_counted<0, taps>(rows, p.fx, k.w, to, k.out_w);
        else
            __builtin_memset(to, 0, k.out_w * sizeof(T));
    }
}

// One term, many rows: first all rows are combined, then all columns. Those of a row that was
// stored a moment ago would wait for the stores, as they load across them.
template <class T>
void filter_plane_in_groups(const Upfirdn2dPlan& p, const T* x, T* out, int64_t first, int64_t last,
                            float* buffer) {
    const Upfirdn2d& k = p.k;
    if (p.halves() && k.pad_x == 1 && k.filter_w == 4) return halve_rows<4>(p, x, out, first, last);
    if (p.halves() && k.pad_x == 1 && k.filter_w == 3) return halve_rows<3>(p, x, out, first, last);
    Sum<T> rows(k.filter_h);
    Sum<float> even(k.filter_w + 1), odd(k.filter_w + 1);
    columns_of(p, 0, buffer, 0, even);
    if (p.doubles()) columns_of(p, 0, buffer, 1, odd);
    for (int64_t y = first; y < last; y += p.group) {
        const int64_t n = smaller(p.group, last - y);
        // Rows whose taps all lie within the image: every up-th one takes the same taps of the rows
        // further down.
        const int64_t inner = smaller(larger(y, p.inner_first), y + n);
        const int64_t end = larger(smaller(y + n, p.inner_last), inner);
        for (int64_t i = inner; i < smaller(inner + k.up_y, end); i++) {
            const int64_t count = ceil_div(end - i, k.up_y);
            rows_of(p, 0, i, x, k.w, rows);
            float* row = buffer + (i - y) * p.stride;
            if (rows.count > 0)
                combine_rows(p, rows, row, {count, k.down_y * k.w, k.up_y * p.stride});
            else
                for (int64_t m = 0; m < count; m++, row += k.up_y * p.stride)
                    __builtin_memset(row, 0, p.stride * sizeof(float));
        }
        for (int64_t i = y; i < y + n; i++) {
            if (i == inner && inner < end) i = end;
            if (i == y + n) break;
            rows_of(p, 0, i, x, k.w, rows);
            float* row = buffer + (i - y) * p.stride;
            if (rows.count > 0)
                combine_rows(p, rows, row);
            else
                __builtin_memset(row, 0, p.stride * sizeof(float));
        }
        T* to = out + y * k.out_w;
        if (p.doubles())
            combine_pairs(even, odd, to, k.out_w, {n, p.stride, k.out_w});
        else
            combine<true>(even, to, k.out_w, {n, p.stride, k.out_w});
    }
}

template <class T>
void filter_plane(const Upfirdn2dPlan& p, const void* from, void* to, int64_t first, int64_t last,
                  float* buffer) {
    const Upfirdn2d& k = p.k;
    const T* x = static_cast<const T*>(from);
    T* out = static_cast<T*>(to);
    if (p.group > 0) return filter_plane_in_groups(p, x, out, first, last, buffer);
    Sum<T> rows(k.filter_h);
    Sum<float> even(p.terms * k.filter_w + 1), odd(p.terms * k.filter_w + 1);
    Scratch<int64_t> terms(p.terms);
    for (int64_t y = first; y < last; y++) {
        int64_t count = 0;  // of terms that reach into the image
        even.count = odd.count = 0;
        for (int64_t term = 0; term < p.terms; term++) {
            rows_of(p, term, y, x, k.w, rows);
            if (rows.count == 0) continue;
            terms[count++] = term;
            float* row = buffer + term * p.stride;
            combine_rows(p, rows, row);
            if (p.direct()) columns_of(p, term, row, 0, even);
            if (p.doubles()) columns_of(p, term, row, 1, odd);
        }
        T* row = out + y * k.out_w;
        if (count == 0)
            __builtin_memset(row, 0, k.out_w * sizeof(T));
        else if (p.doubles())
            combine_pairs(even, odd, row, k.out_w);
        else if (p.direct())
            combine<true>(even, row, k.out_w);
        else
            combine_columns(p, terms.get(), count, buffer, row);
    }
}

// ---------------------------------------------------------------------------------- channels-last

template <class T>
void filter_image(const Upfirdn2dPlan& p, const void* from, void* to, int64_t first, int64_t last,
                  float* buffer) {
    const Upfirdn2d& k = p.k;
    const T* x = static_cast<const T*>(from);
    T* out = static_cast<T*>(to);
    Sum<T> rows(k.filter_h);
    Sum<float> columns(p.terms * k.filter_w);
    Scratch<int64_t> terms(p.terms);
    for (int64_t y = first; y < last; y++) {
        for (int64_t begin = 0; begin < k.out_w; begin += p.tile) {
            const int64_t end = smaller(begin + p.tile, k.out_w);
            // The samples that these columns need.
            int64_t left = k.w, right = 0;
            for (int64_t o = begin; o < end; o++) {
                const Taps& taps = p.columns[o];
                if (taps.count == 0) continue;
                left = smaller(left, taps.first_sample);
                right = larger(right, taps.first_sample + taps.count);
            }
            int64_t count = 0;
            for (int64_t term = 0; term < p.terms && left < right; term++) {
                rows_of(p, term, y, x + left * k.c, k.w * k.c, rows);
                if (rows.count == 0) continue;
                terms[count++] = term;
                combine<false>(rows, buffer + term * p.stride, (right - left) * k.c);
            }
            for (int64_t o = begin; o < end; o++) {
                const Taps& taps = p.columns[o];
                T* pixel = out + (y * k.out_w + o) * k.c;
                columns.count = 0;
                for (int64_t j = 0; j < count; j++)
                    for (int64_t m = 0; m < taps.count; m++)
                        columns.add(
                            buffer + terms[j] * p.stride + (taps.first_sample - left + m) * k.c,
                            p.fx[terms[j] * k.filter_w + taps.first_tap + m * k.up_x]);
                if (columns.count == 0)
                    __builtin_memset(pixel, 0, k.c * sizeof(T));
                else
                    combine<true>(columns, pixel, k.c);
            }
        }
    }
}

// The usual filters, of three or four taps and one term. A window of columns, rows combined, moves
// along the row in registers, for a few vectors of channels at a time: nothing is stored in
// between.
//
// How the window makes output pixels: `window` columns wide, it moves by `step` columns.
template <int taps, int stride, int outs>
struct Direct {  // one pixel of all columns, in `outs` output rows, which share rows of x
    static constexpr int window = taps, step = stride, rows = taps;
    static constexpr int out_rows = outs, row_step = stride, all_rows = taps + (outs - 1) * stride;
    static constexpr int even_begin = 0, even_count = taps, odd_begin = 0, odd_count = 0;
    // Vectors of channels at a time: as many as leave the window in registers.
    static constexpr int vectors = PIX2GAN_LANES >= 16 && outs == 1 ? 4 : 2;
};
template <int even, int odd_first, int odd>
struct Doubled {  // one pixel of the first `even` columns, one of `odd` columns from odd_first on
    static constexpr int window = even > odd_first + odd ? even : odd_first + odd, step = 1,
                         rows = 2;
    static constexpr int out_rows = 1, row_step = 0, all_rows = 2;
    static constexpr int even_begin = 0, even_count = even, odd_begin = odd_first, odd_count = odd;
    static constexpr int vectors = PIX2GAN_LANES >= 16 ? 4 : 2;
};

// How the rows of a column are combined, and in which order vectors hold its channels.
template <class Shape, class T>
struct SingleRows {
    F y[Shape::rows];

    PIX2GAN_INLINE explicit SingleRows(const float* fy) {
        for (int r = 0; r < Shape::rows; r++) y[r] = splat(fy[r]);
    }

    // Adds the column at `at` elements, for each output row.
    template <int count>
    PIX2GAN_INLINE void add(const T* const* row, int64_t at, F (*sum)[count]) const {
        for (int r = 0; r < Shape::all_rows; r++) {
            const Vectors<T, count> v = Vectors<T, count>::load_from(row[r] + at);
            for (int o = 0; o < Shape::out_rows; o++) {
                const int tap = r - o * Shape::row_step;
                if (tap < 0 || tap >= Shape::rows) continue;
                for (int j = 0; j < count; j++) sum[o][j] += y[tap] * v.v[j];
            }
        }
    }

    template <int count>
    PIX2GAN_INLINE static void store_to(T* to, const F* v) {
        Vectors<T, count> out;
        for (int j = 0; j < count; j++) out.v[j] = v[j];
        out.store_to(to);
    }
};

// Whether the rows of all output rows can be taken two by two.
template <class Shape>
constexpr bool has_pairs = Shape::rows % 2 == 0 && Shape::all_rows % 2 == 0 &&
                           (Shape::out_rows == 1 || Shape::row_step % 2 == 0);

// Whether taps are bfloat16 without rounding, as 1, 3, 3, 1 and most filters for images are.
inline bool fit_bfloat16(const float* taps, int count) {
    for (int i = 0; i < count; i++)
        if (widened(narrowed<bfloat16>(taps[i])) != taps[i]) return false;
    return true;
}

#if PIX2GAN_LEVEL >= 3
// Two rows at once, by the instruction that adds two products of bfloat16 to each float.
// Vectors 2 j and 2 j + 1 hold channels 0-3, 8-11, 16-19, 24-27 and 4-7, 12-15, ... of 32.
template <class Shape>
struct PairedRows {
    __m512bh y[Shape::rows / 2];

    PIX2GAN_INLINE explicit PairedRows(const float* fy) {
        for (int r = 0; r < Shape::rows; r += 2)
            y[r / 2] = (__m512bh)((U)splat(fy[r]) >> 16 | (U)splat(fy[r + 1]));
    }

    template <int count>
    PIX2GAN_INLINE void add(const bfloat16* const* row, int64_t at, F (*sum)[count]) const {
#pragma GCC unroll 8
        for (int r = 0; r < Shape::all_rows; r += 2) {
#pragma GCC unroll 8
            for (int j = 0; j < count; j += 2) {
                const __m512i a = _mm512_loadu_si512(row[r] + at + j * lanes);
                const __m512i b = _mm512_loadu_si512(row[r + 1] + at + j * lanes);
                const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(a, b);
                const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 8
                for (int o = 0; o < Shape::out_rows; o++) {
                    const int tap = r - o * Shape::row_step;
                    if (tap < 0 || tap >= Shape::rows) continue;
                    F* to = sum[o] + j;
                    to[0] = (F)_mm512_dpbf16_ps((__m512)to[0], low, y[tap / 2]);
                    to[1] = (F)_mm512_dpbf16_ps((__m512)to[1], high, y[tap / 2]);
                }
            }
        }
    }

    template <int count>
    PIX2GAN_INLINE static void store_to(bfloat16* to, const F* v) {
        const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        for (int j = 0; j < count; j += 2) {
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[j + 1], (__m512)v[j]);
            _mm512_storeu_si512(to + j * lanes, _mm512_permutexvar_epi64(order, both));
        }
    }
};
#endif

template <class Shape, class T, class RowSums>
struct WindowBlock {
    const T* const* rows;  // those of all `out_rows` output rows
    const float *fy, *even, *odd;
    T* out;
    int64_t channels, width, out_width, first;  // first: the column where the window starts

    // Everything by value: what is in registers cannot be suspected to change with every store.
    template <int count>
    PIX2GAN_OUTLINE void run(int64_t c) const {
        constexpr int keep = Shape::window - Shape::step, all = Shape::all_rows;
        const int64_t stride = channels, columns = width, pixels = out_width;
        const T* row[all];
        const RowSums sums(fy);
        F even_x[4], odd_x[4];
        for (int r = 0; r < all; r++) row[r] = rows[r] + c;
        for (int m = 0; m < 4; m++) even_x[m] = splat(even[m]), odd_x[m] = splat(odd[m]);
        T* to = out + c;
        F window[Shape::window][Shape::out_rows][count];
        int64_t i = first;
        for (int m = 0; m < keep; m++, i++) column(sums, row, i, columns, stride, window[m]);
        for (int64_t o = 0; o < pixels;) {
            for (int m = keep; m < Shape::window; m++, i++)
                column(sums, row, i, columns, stride, window[m]);
            write<Shape::even_begin, Shape::even_count, count>(window, even_x, to + o * stride,
                                                               pixels * stride);
            o++;
            if (Shape::odd_count > 0 && o < pixels) {
                write<Shape::odd_begin, Shape::odd_count, count>(window, odd_x, to + o * stride,
                                                                 pixels * stride);
                o++;
            }
            for (int m = 0; m < keep; m++)
                for (int r = 0; r < Shape::out_rows; r++)
                    for (int j = 0; j < count; j++) window[m][r][j] = window[m + Shape::step][r][j];
        }
    }

    // Column i, the rows combined for each output row; zeros beyond the image.
    template <int count>
    PIX2GAN_INLINE static void column(const RowSums& sums, const T* const* row, int64_t i,
                                      int64_t columns, int64_t stride, F (*sum)[count]) {
        for (int o = 0; o < Shape::out_rows; o++)
            for (int j = 0; j < count; j++) sum[o][j] = F{};
        if (i >= 0 && i < columns) sums.template add<count>(row, i * stride, sum);
    }

    // The sum over columns [begin, begin + taps) of the window.
    template <int begin, int taps, int count>
    PIX2GAN_INLINE static void write(const F (*window)[Shape::out_rows][count], const F* weights,
                                     T* to, int64_t row_elements) {
        for (int r = 0; r < Shape::out_rows; r++, to += row_elements) {
            F sum[count];
            for (int j = 0; j < count; j++) {
                sum[j] = weights[0] * window[begin][r][j];
                for (int m = 1; m < taps; m++) sum[j] += weights[m] * window[begin + m][r][j];
            }
            RowSums::template store_to<count>(to, sum);
        }
    }
};

template <class Block, int vectors>
PIX2GAN_INLINE void for_vectors(const Block& block) {
    int64_t c = 0;
    for (; c + vectors * lanes <= block.channels; c += vectors * lanes)
        block.template run<vectors>(c);
    for (; c + 2 * lanes <= block.channels; c += 2 * lanes) block.template run<2>(c);
    if (c < block.channels) block.template run<2>(block.channels - 2 * lanes);  // overlaps
}

template <class Shape, class T>
void filter_window_rows(const Upfirdn2dPlan& p, const T* x, T* out, int64_t y, const T* zeros) {
    const Upfirdn2d& k = p.k;
    const int64_t row_elements = k.w * k.c;
    const Taps at[2] = {taps_at(0, k.up_x, k.down_x, k.pad_x, k.filter_w),
                        taps_at(1, k.up_x, k.down_x, k.pad_x, k.filter_w)};
    float even[4] = {}, odd[4] = {}, fy[4] = {};
    for (int64_t m = 0; m < at[0].count; m++) even[m] = p.fx[at[0].first_tap + m * k.up_x];
    for (int64_t m = 0; m < at[1].count; m++) odd[m] = p.fx[at[1].first_tap + m * k.up_x];
    const Taps taps = taps_at(y, k.up_y, k.down_y, k.pad_y, k.filter_h);
    const T* rows[Shape::all_rows];
    for (int64_t m = 0; m < taps.count; m++) fy[m] = p.fy[taps.first_tap + m * k.up_y];
    for (int64_t m = 0; m < Shape::all_rows; m++) {
        const int64_t row = taps.first_sample + m;
        const bool needed = Shape::out_rows > 1 || m < taps.count;
        rows[m] = needed && row >= 0 && row < k.h ? x + row * row_elements : zeros;
    }
    T* to = out + y * k.out_w * k.c;
#if PIX2GAN_LEVEL >= 3
    if constexpr (std::is_same_v<T, bfloat16> && has_pairs<Shape>) {
        if (fit_bfloat16(fy, Shape::rows)) {
            const WindowBlock<Shape, T, PairedRows<Shape>> block = {
                rows, fy, even, odd, to, k.c, k.w, k.out_w, at[0].first_sample};
            return for_vectors<WindowBlock<Shape, T, PairedRows<Shape>>, Shape::vectors>(block);
        }
    }
#endif
    const WindowBlock<Shape, T, SingleRows<Shape, T>> block = {
        rows, fy, even, odd, to, k.c, k.w, k.out_w, at[0].first_sample};
    for_vectors<WindowBlock<Shape, T, SingleRows<Shape, T>>, Shape::vectors>(block);
}

template <class Two, class One, class T>
void filter_windows(const Upfirdn2dPlan& p, const void* from, void* to, int64_t first, int64_t last,
                    float* buffer) {
    const T* x = static_cast<const T*>(from);
    T* out = static_cast<T*>(to);
    // Rows beyond the image are zeros, for which the buffer serves.
    const T* zeros = reinterpret_cast<const T*>(buffer);
    int64_t y = first;
    for (; y + Two::out_rows <= last; y += Two::out_rows)
        filter_window_rows<Two>(p, x, out, y, zeros);
    for (; y < last; y++) filter_window_rows<One>(p, x, out, y, zeros);
}

template <int taps, int stride, class T>
Upfirdn2dImageLoop direct() {
    return filter_windows<Direct<taps, stride, 2>, Direct<taps, stride, 1>, T>;
}
template <int even, int odd_first, int odd, class T>
Upfirdn2dImageLoop doubled() {
    using Shape = Doubled<even, odd_first, odd>;
    return filter_windows<Shape, Shape, T>;
}

// The loop for this filter if there is one.
template <class T>
Upfirdn2dImageLoop find_windows(const Upfirdn2d& k) {
    const int64_t taps = k.filter_w;
    const bool square = k.filter_h == taps || k.separable;
    if (!square || taps < 3 || taps > 4 || k.up_x != k.up_y || k.down_x != k.down_y) return nullptr;
    if (k.up_x == 1 && k.down_x == 1) return taps == 3 ? direct<3, 1, T>() : direct<4, 1, T>();
    if (k.up_x == 1 && k.down_x == 2) return taps == 3 ? direct<3, 2, T>() : direct<4, 2, T>();
    if (k.up_x != 2 || k.down_x != 1) return nullptr;
    // Which taps the first output pixel meets depends on the parity of the padding.
    const bool even = floor_div(k.pad_x, 2) * 2 == k.pad_x;
    if (taps == 4) return even ? doubled<2, 1, 2, T>() : doubled<2, 0, 2, T>();
    return even ? doubled<2, 1, 1, T>() : doubled<1, 0, 2, T>();
}

template <class T>
Upfirdn2dLoops loops(const Upfirdn2d& k, bool one_term, bool fast) {
    Upfirdn2dImageLoop windows = nullptr;
    if (one_term && fast) windows = find_windows<T>(k);
    return {filter_plane<T>, windows != nullptr ? windows : filter_image<T>, windows != nullptr};
}

inline Upfirdn2dLoops find(const Upfirdn2d& k, bool one_term) {
    const bool fast = k.c >= 2 * lanes;
    if (k.type == Type::float32) return loops<float>(k, one_term, fast);
    if (k.type == Type::bfloat16) return loops<bfloat16>(k, one_term, fast);
    return {filter_plane<float16>, filter_image<float16>, false};
}

}  // namespace upfirdn2d_loops
