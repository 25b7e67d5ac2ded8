// Products of a few rows with a large matrix, in bfloat16. The matrix is read (or written) once, in
// the order in which it lies, two elements in each 32-bit lane.

namespace thin_product_loops {

constexpr int64_t pair_lanes = 2 * lanes;  // elements in a vector
constexpr int64_t block = thin_product_block;

PIX2GAN_INLINE const bfloat16* elements(const void* from, int64_t offset) {
    return static_cast<const bfloat16*>(from) + offset;
}

PIX2GAN_INLINE U every_lane(uint32_t pair) { return U{} + pair; }

PIX2GAN_INLINE uint32_t pair_of(bfloat16 low, bfloat16 high) {
    return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

// Of two rows a and b: the pairs (a0, b0), (a2, b2) ... and (a1, b1), (a3, b3) ...
struct Columns {
    U even, odd;
};
PIX2GAN_INLINE Columns columns_of(U a, U b) {
    return {(a & 0xffffu) | (b << 16), (a >> 16) | (b & 0xffff0000u)};
}

// ------------------------------------------------------------------------------- a times b's rows

// out[first + p, row + r] for p < rows and r < block.
template <int rows>
void dots(const ThinProduct& k, int64_t row, int64_t first) {
    const bfloat16 *b = elements(k.b, row * k.k), *a = elements(k.a, first * k.k);
    F sum[block][rows] = {};
    for (int64_t i = 0; i < k.k; i += pair_lanes) {
        U w[block];
        for (int64_t r = 0; r < block; r++) {
            w[r] = load_bits<U>(b + r * k.k + i);
            __builtin_prefetch(b + (r + block) * k.k + i);
        }
        for (int p = 0; p < rows; p++) {
            const U x = load_bits<U>(a + p * k.k + i);
            for (int64_t r = 0; r < block; r++) sum[r][p] = add_products(sum[r][p], w[r], x);
        }
    }
    bfloat16* out = static_cast<bfloat16*>(k.out) + first * k.n + row;
    for (int64_t r = 0; r < block; r++)
        for (int p = 0; p < rows; p++)
            out[p * k.n + r] = narrowed<bfloat16>(static_cast<float>(sum_lanes(sum[r][p])));
}

// Blocks [begin, end) of the rows of b.
inline void times_transposed(const ThinProduct& k, int64_t begin, int64_t end) {
    for (int64_t row = begin * block; row < end * block; row += block) {
        int64_t p = 0;
        for (; p + 4 <= k.p; p += 4) dots<4>(k, row, p);
        for (; p < k.p; p++) dots<1>(k, row, p);
    }
}

// ---------------------------------------------------------------------------------- a times b

// Adds the products of rows [n, n + depth) of b, in pairs, to the sums [rows, 2] of one vector's
// columns. x: [depth / 2, k.p], pairs of a's elements.
template <int rows>
PIX2GAN_INLINE void accumulate(const ThinProduct& k, const bfloat16* b, int64_t depth,
                               const uint32_t* x, F* sums) {
    F even[rows], odd[rows];
    for (int p = 0; p < rows; p++) even[p] = sums[2 * p], odd[p] = sums[2 * p + 1];
    for (int64_t i = 0; i < depth; i += 2, b += 2 * k.k, x += k.p) {
        const Columns w = columns_of(load_bits<U>(b), load_bits<U>(b + k.k));
        for (int p = 0; p < rows; p++) {
            even[p] = add_products(even[p], w.even, every_lane(x[p]));
            odd[p] = add_products(odd[p], w.odd, every_lane(x[p]));
        }
    }
    for (int p = 0; p < rows; p++) sums[2 * p] = even[p], sums[2 * p + 1] = odd[p];
}

// Columns [first, last), for which sums has place: a tile that stays in a core's cache. Some rows
// of b at a time, so that the sums are not loaded and stored for each of them.
inline void tile(const ThinProduct& k, int64_t first, int64_t last, const uint32_t* x, F* sums) {
    constexpr int64_t most = 16;
    const int64_t vectors = (last - first) / pair_lanes;
    for (int64_t i = 0; i < vectors * k.p * 2; i++) sums[i] = F{};
    for (int64_t n = 0; n < k.n; n += most) {
        const int64_t depth = smaller(most, k.n - n);
        for (int64_t v = 0; v < vectors; v++) {
            const bfloat16* b = elements(k.b, n * k.k + first + v * pair_lanes);
            for (int64_t i = 0; i < depth; i++) __builtin_prefetch(b + (most + i) * k.k);
            const uint32_t* pairs = x + n / 2 * k.p;
            F* to = sums + v * k.p * 2;
            int64_t p = 0;
            for (; p + 8 <= k.p; p += 8) accumulate<8>(k, b, depth, pairs + p, to + 2 * p);
            for (; p + 4 <= k.p; p += 4) accumulate<4>(k, b, depth, pairs + p, to + 2 * p);
            for (; p < k.p; p++) accumulate<1>(k, b, depth, pairs + p, to + 2 * p);
        }
    }
    for (int64_t p = 0; p < k.p; p++) {
        bfloat16* out = static_cast<bfloat16*>(k.out) + p * k.k + first;
        for (int64_t v = 0; v < vectors; v++) {
            const F* from = sums + (v * k.p + p) * 2;
            store_pair(out + v * pair_lanes, {from[0], from[1]});
        }
    }
}

// Tiles [begin, end) of the columns of b.
inline void times(const ThinProduct& k, int64_t begin, int64_t end) {
    Scratch<uint32_t> x(k.n / 2 * k.p);
    Scratch<F> sums(thin_product_tile / pair_lanes * k.p * 2);
    for (int64_t i = 0; i < k.n / 2; i++)
        for (int64_t p = 0; p < k.p; p++) {
            const bfloat16* a = elements(k.a, p * k.n + 2 * i);
            x[i * k.p + p] = pair_of(a[0], a[1]);
        }
    for (int64_t i = begin; i < end; i++)
        tile(k, i * thin_product_tile, smaller((i + 1) * thin_product_tile, k.k), x.get(),
             sums.get());
}

// ------------------------------------------------------------------------ a's columns times b

// Blocks [begin, end) of the rows of out. Pairs are of neighbouring rows of a and b, with zeros
// behind the last one.
inline void transposed_times(const ThinProduct& k, int64_t begin, int64_t end) {
    const int64_t vectors = k.k / pair_lanes, pairs = ceil_div(k.p, 2);
    Scratch<Columns> b(vectors * pairs);
    for (int64_t v = 0; v < vectors; v++)
        for (int64_t i = 0; i < pairs; i++) {
            const bfloat16* from = elements(k.b, 2 * i * k.k + v * pair_lanes);
            const U next = 2 * i + 1 < k.p ? load_bits<U>(from + k.k) : U{};
            b[v * pairs + i] = columns_of(load_bits<U>(from), next);
        }
    Scratch<uint32_t> a(pairs * block);
    for (int64_t row = begin * block; row < end * block; row += block) {
        for (int64_t i = 0; i < pairs; i++)
            for (int64_t r = 0; r < block; r++) {
                const bfloat16* from = elements(k.a, 2 * i * k.n + row + r);
                a[i * block + r] = pair_of(*from, 2 * i + 1 < k.p ? from[k.n] : bfloat16{});
            }
        bfloat16* out = static_cast<bfloat16*>(k.out) + row * k.k;
        for (int64_t v = 0; v < vectors; v++) {
            F even[block] = {}, odd[block] = {};
            for (int64_t i = 0; i < pairs; i++) {
                const Columns w = b[v * pairs + i];
                for (int64_t r = 0; r < block; r++) {
                    const U x = every_lane(a[i * block + r]);
                    even[r] = add_products(even[r], w.even, x);
                    odd[r] = add_products(odd[r], w.odd, x);
                }
            }
            for (int64_t r = 0; r < block; r++)
                store_pair(out + r * k.k + v * pair_lanes, {even[r], odd[r]});
        }
    }
}

inline ThinProductLoop find(ThinProduct::Form form) {
    return form == ThinProduct::Form::times_transposed ? times_transposed
           : form == ThinProduct::Form::times          ? times
                                                       : transposed_times;
}

}  // namespace thin_product_loops
