// Adam, element by element.

namespace adam_loops {

// A vector of elements, or the first n of one.
template <bool whole, class T>
PIX2GAN_INLINE F load_some(const T* from, int64_t n) {
    return whole ? load(from) : load_first(from, n);
}
template <bool whole>
PIX2GAN_INLINE void store_some(float* to, F v, int64_t n) {
    if (whole)
        store(to, v);
    else
        store_first(to, v, n);
}

// Rounded as PyTorch does it. The processor's own conversion takes subnormals for zero, and weights
// that were read from a checkpoint would differ from those that the run went on with.
template <bool whole>
PIX2GAN_INLINE void store_rounded(bfloat16* to, F v, int64_t n) {
    const U bits = narrow(bfloat16{}, v);
    if (whole)
        store_words(to, bits);
    else
        for (int64_t i = 0; i < n; i++) to[i].bits = static_cast<uint16_t>(bits[i]);
}

template <bool whole, class T>
PIX2GAN_INLINE void update(const AdamStep& k, int64_t i, int64_t n) {
    const F g = load_some<whole>(static_cast<const T*>(k.gradient) + i, n) * k.scale;
    F mean = load_some<whole>(k.mean + i, n), square = load_some<whole>(k.square + i, n);
    const F old = load_some<whole>(k.w + i, n);
    const F average = k.average != nullptr ? load_some<whole>(k.average + i, n) : old;
    // Weights that have never had a gradient stay as they are: those of taps that see nothing but
    // padding, 12 % of a U-Net's.
    if (all_zero((U)g | (U)mean | (U)square | ((U)average ^ (U)old))) {
        if (k.rounded != nullptr)
            store_rounded<whole>(static_cast<bfloat16*>(k.rounded) + i, old, n);
        return;
    }
    mean += (g - mean) * (1.0f - k.beta1);
    square = square * k.beta2 + g * g * (1.0f - k.beta2);
    const F w = old - k.rate * mean / (square_root(square) * k.root + k.eps);
    store_some<whole>(k.mean + i, mean, n);
    store_some<whole>(k.square + i, square, n);
    store_some<whole>(k.w + i, w, n);
    if (k.average != nullptr)
        store_some<whole>(k.average + i, average + (w - average) * k.share, n);
    if (k.rounded != nullptr) store_rounded<whole>(static_cast<bfloat16*>(k.rounded) + i, w, n);
}

template <class T>
void span(const AdamStep& call, int64_t begin, int64_t end) {
    const AdamStep k = call;  // a copy, which the stores cannot be suspected of changing
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) update<true, T>(k, i, lanes);
    if (i < end) update<false, T>(k, i, end - i);
}

inline AdamLoop find(const AdamStep& k) {
    return k.type == Type::float32 ? span<float> : span<bfloat16>;
}

}  // namespace adam_loops
