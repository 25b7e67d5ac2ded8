// One vector of floats, as wide as the instruction set, and what the kernels do with it.
//
// Included once per instruction set, within its namespace, so there is no include guard and nothing
// here may be included by two of them as one. PIX2GAN_LANES is the number of floats in a vector;
// PIX2GAN_LEVEL is 0 where only the compiler's own vectors are used (SSE2, NEON, anything), else
// 1 (AVX2, FMA, F16C), 2 (AVX-512) or 3 (AVX-512 with bfloat16).

constexpr int64_t lanes = PIX2GAN_LANES;

typedef float F __attribute__((vector_size(PIX2GAN_LANES * 4)));
typedef int32_t I __attribute__((vector_size(PIX2GAN_LANES * 4)));
typedef uint32_t U __attribute__((vector_size(PIX2GAN_LANES * 4)));
typedef uint16_t W __attribute__((vector_size(PIX2GAN_LANES * 2)));

PIX2GAN_INLINE F splat(float value) { return value - F{}; }
PIX2GAN_INLINE F select(I condition, F a, F b) { return condition ? a : b; }
PIX2GAN_INLINE U select(I condition, U a, U b) { return condition ? a : b; }
PIX2GAN_INLINE F absolute(F v) { return (F)((U)v & 0x7fffffffu); }

PIX2GAN_INLINE bool all_zero(U v) {
#if PIX2GAN_LEVEL >= 2
    return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) == 0;
#elif PIX2GAN_LEVEL == 1
    return _mm256_testz_si256((__m256i)v, (__m256i)v) != 0;
#else
    uint32_t any = 0;
    for (int64_t i = 0; i < lanes; i++) any |= v[i];
    return any == 0;
#endif
}

PIX2GAN_INLINE F square_root(F v) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_sqrt_ps((__m512)v);
#elif PIX2GAN_LEVEL == 1
    return (F)_mm256_sqrt_ps((__m256)v);
#else
    for (int64_t i = 0; i < lanes; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// The larger and the smaller; b where one of them is NaN.
PIX2GAN_INLINE F maximum(F a, F b) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif PIX2GAN_LEVEL == 1
    return (F)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
PIX2GAN_INLINE F minimum(F a, F b) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif PIX2GAN_LEVEL == 1
    return (F)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

// ------------------------------------------------------------------------- 16 bits to 32 and back

// Bits of bfloat16 and float16 in the low half of each lane, to floats.
PIX2GAN_INLINE F widen(float, U bits) { return (F)bits; }
PIX2GAN_INLINE F widen(bfloat16, U bits) { return (F)(bits << 16); }

PIX2GAN_INLINE F widen(float16, U bits) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)bits));
#else
    // Exponent and mantissa move to their new places, a product corrects the exponent's bias and
    // normalises subnormals; infinity and NaN get their exponent by hand.
    const U magnitude = (bits & 0x7fffu) << 13;
    const F scaled = (F)magnitude * 0x1p112f;
    const U finite = (U)scaled, special = magnitude | 0x7f800000u;
    return (F)(select((I)(magnitude >= 0x0f800000u), special, finite) | ((bits & 0x8000u) << 16));
#endif
}

// Rounded to nearest, ties to even; the high half of each lane is the result.
PIX2GAN_INLINE U round_to_bfloat16(F v) {
    const U u = (U)v;
    const U rounded = u + 0x7fffu + ((u >> 16) & 1u);
    return select((I)(v != v), u | 0x400000u, rounded);  // rounding could carry a NaN away
}

PIX2GAN_INLINE U narrow(float, F v) { return (U)v; }
// The same in the low half of each lane.
PIX2GAN_INLINE U narrow(bfloat16, F v) { return round_to_bfloat16(v) >> 16; }

PIX2GAN_INLINE U narrow(float16, F v) {
#if PIX2GAN_LEVEL >= 2
    return (U)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#else
    const U u = (U)v, sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    // Below 2^-14 the result is subnormal: adding 0.5 lets the addition round at 2^-24.
    const U subnormal = (U)((F)magnitude + 0.5f) - 0x3f000000u;
    const U normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    const U finite = select((I)(magnitude < 0x38800000u), subnormal, normal);
    const U special = select((I)(magnitude > 0x7f800000u), U{} + 0x7e00u, U{} + 0x7c00u);
    return select((I)(magnitude >= 0x47800000u), special, finite) | sign;
#endif
}

// --------------------------------------------------------------------------------- load and store

template <class V>
PIX2GAN_INLINE V load_bits(const void* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
PIX2GAN_INLINE void store_bits(void* to, V v) {
    __builtin_memcpy(to, &v, sizeof v);
}

PIX2GAN_INLINE U load_words(const void* from) {
#if PIX2GAN_LEVEL >= 2
    return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
#elif PIX2GAN_LEVEL == 1
    return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
#else
    return __builtin_convertvector(load_bits<W>(from), U);
#endif
}

PIX2GAN_INLINE void store_words(void* to, U bits) {
#if PIX2GAN_LEVEL >= 2
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)bits));
#elif PIX2GAN_LEVEL == 1
    const __m256i packed = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
    _mm_storeu_si128((__m128i*)to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8)));
#else
    store_bits(to, __builtin_convertvector(bits, W));
#endif
}

PIX2GAN_INLINE F load(const float* from) { return load_bits<F>(from); }
PIX2GAN_INLINE F load(const bfloat16* from) { return widen(bfloat16{}, load_words(from)); }
PIX2GAN_INLINE F load(const float16* from) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif PIX2GAN_LEVEL == 1
    return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    return widen(float16{}, load_words(from));
#endif
}

PIX2GAN_INLINE void store(float* to, F v) { store_bits(to, v); }
PIX2GAN_INLINE void store(bfloat16* to, F v) {
#if PIX2GAN_LEVEL >= 3
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    store_words(to, narrow(bfloat16{}, v));
#endif
}
PIX2GAN_INLINE void store(float16* to, F v) {
#if PIX2GAN_LEVEL >= 2
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif PIX2GAN_LEVEL == 1
    _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
    store_words(to, narrow(float16{}, v));
#endif
}

// The first n < lanes elements; the other lanes are 0.
template <class T>
PIX2GAN_INLINE F load_first(const T* from, int64_t n) {
    T elements[lanes] = {};
    for (int64_t i = 0; i < n; i++) elements[i] = from[i];
    return load(elements);
}

template <class T>
PIX2GAN_INLINE void store_first(T* to, F v, int64_t n) {
    T elements[lanes];
    store(elements, v);
    for (int64_t i = 0; i < n; i++) to[i] = elements[i];
}

struct Pair {
    F a, b;
};

// a0 b0 a1 b1 ... in two vectors
PIX2GAN_INLINE Pair interleaved(Pair v) {
#if PIX2GAN_LEVEL >= 2
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return {(F)_mm512_permutex2var_ps((__m512)v.a, low, (__m512)v.b),
            (F)_mm512_permutex2var_ps((__m512)v.a, high, (__m512)v.b)};
#elif PIX2GAN_LEVEL == 1
    const __m256 low = _mm256_unpacklo_ps((__m256)v.a, (__m256)v.b);
    const __m256 high = _mm256_unpackhi_ps((__m256)v.a, (__m256)v.b);
    return {(F)_mm256_permute2f128_ps(low, high, 0x20), (F)_mm256_permute2f128_ps(low, high, 0x31)};
#else
    float pairs[2 * lanes];
    for (int64_t i = 0; i < lanes; i++) pairs[2 * i] = v.a[i], pairs[2 * i + 1] = v.b[i];
    return {load(pairs), load(pairs + lanes)};
#endif
}

// a0 b0 a1 b1 ...
template <class T>
PIX2GAN_INLINE void store_interleaved(T* to, F a, F b) {
    store_bits(to, narrow(T{}, a) | (narrow(T{}, b) << 16));
}

template <>
PIX2GAN_INLINE void store_interleaved<bfloat16>(bfloat16* to, F a, F b) {
#if PIX2GAN_LEVEL >= 3
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, rounded));
#else
    store_bits(to, (round_to_bfloat16(a) >> 16) | (round_to_bfloat16(b) & 0xffff0000u));
#endif
}

template <>
PIX2GAN_INLINE void store_interleaved<float>(float* to, F a, F b) {
    const Pair v = interleaved({a, b});
    store(to, v.a), store(to + lanes, v.b);
}

// The rows of a matrix to its columns. A round of interleaving the upper half of the rows with the
// lower one rotates the bits of an element's index (row, column) by one place.
PIX2GAN_INLINE void transpose(F (&row)[lanes]) {
    for (int64_t round = 1; round < lanes; round *= 2) {
        F next[lanes];
        for (int64_t i = 0; i < lanes / 2; i++) {
            const Pair v = interleaved({row[i], row[i + lanes / 2]});
            next[2 * i] = v.a, next[2 * i + 1] = v.b;
        }
        for (int64_t i = 0; i < lanes; i++) row[i] = next[i];
    }
}

// ------------------------------------------------------------------------------------------ pairs

// A Pair of 2 * lanes consecutive elements. Which element lies where depends on the type:
// where T is bfloat16, a holds the even and b the odd ones, which a shift and a mask take apart.
// Unpacking to consecutive vectors would cost twice as many instructions, and packing more. What is
// added to or multiplied with a pair of T must be loaded `as<T>`, from floats.

// Of two consecutive vectors, the even and the odd elements.
PIX2GAN_INLINE Pair deinterleaved(Pair v) {
#if PIX2GAN_LEVEL >= 2
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return {(F)_mm512_permutex2var_ps((__m512)v.a, even, (__m512)v.b),
            (F)_mm512_permutex2var_ps((__m512)v.a, odd, (__m512)v.b)};
#elif PIX2GAN_LEVEL == 1
    const __m256d even = (__m256d)_mm256_shuffle_ps((__m256)v.a, (__m256)v.b, 0x88);
    const __m256d odd = (__m256d)_mm256_shuffle_ps((__m256)v.a, (__m256)v.b, 0xdd);
    return {(F)_mm256_permute4x64_pd(even, 0xd8), (F)_mm256_permute4x64_pd(odd, 0xd8)};
#else
    Pair out;
    for (int64_t i = 0; i < lanes; i++) {
        out.a[i] = 2 * i < lanes ? v.a[2 * i] : v.b[2 * i - lanes];
        out.b[i] = 2 * i < lanes ? v.a[2 * i + 1] : v.b[2 * i + 1 - lanes];
    }
    return out;
#endif
}

PIX2GAN_INLINE Pair load_pair(const float* from) { return {load(from), load(from + lanes)}; }
PIX2GAN_INLINE Pair load_pair(const float16* from) { return {load(from), load(from + lanes)}; }
PIX2GAN_INLINE Pair load_pair(const bfloat16* from) {
    const U both = load_bits<U>(from);
    return {(F)(both << 16), (F)(both & 0xffff0000u)};
}

PIX2GAN_INLINE void store_pair(float* to, Pair v) { store(to, v.a), store(to + lanes, v.b); }
PIX2GAN_INLINE void store_pair(float16* to, Pair v) { store(to, v.a), store(to + lanes, v.b); }
PIX2GAN_INLINE void store_pair(bfloat16* to, Pair v) { store_interleaved(to, v.a, v.b); }

template <class T>
PIX2GAN_INLINE Pair load_pair_as(const float* from) {
    return load_pair(from);
}
template <>
PIX2GAN_INLINE Pair load_pair_as<bfloat16>(const float* from) {
    return deinterleaved(load_pair(from));
}

// A pair of T as the even and the odd elements.
template <class T>
PIX2GAN_INLINE Pair even_and_odd(T, Pair v) {
    return deinterleaved(v);
}
template <>
PIX2GAN_INLINE Pair even_and_odd(bfloat16, Pair v) {
    return v;
}

template <class T>
PIX2GAN_INLINE void store_pair_as(float* to, Pair v) {
    store_pair(to, v);
}
template <>
PIX2GAN_INLINE void store_pair_as<bfloat16>(float* to, Pair v) {
    store_interleaved(to, v.a, v.b);
}

// sum + the products of the bfloat16 in the low and in the high halves of a and b.
PIX2GAN_INLINE F add_products(F sum, U a, U b) {
#if PIX2GAN_LEVEL >= 3
    return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (F)(a << 16) * (F)(b << 16);
    return sum + (F)(a & 0xffff0000u) * (F)(b & 0xffff0000u);
#endif
}

// a1 a2 ... b0
PIX2GAN_INLINE F moved_down(F a, F b) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_alignr_epi32((__m512i)b, (__m512i)a, 1);
#elif PIX2GAN_LEVEL == 1
    const __m256i middle = (__m256i)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x21);
    return (F)_mm256_alignr_epi8(middle, (__m256i)a, 4);
#else
    for (int64_t i = 0; i + 1 < lanes; i++) a[i] = a[i + 1];
    a[lanes - 1] = b[0];
    return a;
#endif
}

// a's last, b0 b1 ...
PIX2GAN_INLINE F moved_up(F a, F b) {
#if PIX2GAN_LEVEL >= 2
    return (F)_mm512_alignr_epi32((__m512i)b, (__m512i)a, 15);
#elif PIX2GAN_LEVEL == 1
    const __m256i middle = (__m256i)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x21);
    return (F)_mm256_alignr_epi8((__m256i)b, middle, 12);
#else
    for (int64_t i = lanes - 1; i > 0; i--) b[i] = b[i - 1];
    b[0] = a[lanes - 1];
    return b;
#endif
}

// ------------------------------------------------------------------------------------- reductions

PIX2GAN_INLINE double sum_lanes(F v) {
#if PIX2GAN_LEVEL >= 2
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
#else
    float element[lanes];
    store(element, v);
    double sum = 0;
    for (int64_t i = 0; i < lanes; i++) sum += element[i];
    return sum;
#endif
}

// ----------------------------------------------------------------------------- transcendental ones

// exp(x) - 1 = s q + (s - 1) for x = n log 2 + r, s = 2^n, q = exp(r) - 1 by its Taylor series
// (|r| <= 0.35: the first term left out is below 2^-26 of the sum).
struct Exponential {
    F s, q;
};

PIX2GAN_INLINE Exponential exponential(F x) {
    x = maximum(splat(-87.0f), x);       // below it exp is 0 for every purpose here
    const F magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const F shifted = x * 1.44269504f + magic;
    const F n = shifted - magic;
    const F r = x - n * 0.693359375f + n * 2.12194440e-4f;  // log 2 in two parts, the first exact
    F p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    const U power = ((U)shifted - (U)magic + 127u) << 23;
    return {(F)power, p * (r * r) + r};
}

// For x <= 0.
PIX2GAN_INLINE F exp_negative(F x) {
    const Exponential e = exponential(x);
    return e.s * e.q + e.s;
}

PIX2GAN_INLINE F expm1_negative(F x) {
    const Exponential e = exponential(x);
    return e.s * e.q + (e.s - 1.0f);
}

// log(1 + z) = 2 artanh(z / (2 + z)) for z in [0, 1]: the argument is at most 1/3.
PIX2GAN_INLINE F log1p(F z) {
    const F t = z / (z + 2.0f), s = t * t;
    F p = splat(2.0f / 15);
    p = p * s + 2.0f / 13;
    p = p * s + 2.0f / 11;
    p = p * s + 2.0f / 9;
    p = p * s + 2.0f / 7;
    p = p * s + 2.0f / 5;
    p = p * s + 2.0f / 3;
    return p * (s * t) + 2.0f * t;
}
