// bias_act and its two gradients, element by element.

namespace bias_act_loops {

using activation::Kind;

struct LoadVector {
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

// One vector of results; `from` reads a whole vector or the start of one.
template <int order, Kind kind, class T, class Load>
PIX2GAN_INLINE F compute(const BiasAct& k, F b, Load from) {
    const T *x = static_cast<const T*>(k.x), *dy = static_cast<const T*>(k.dy);
    if (order == 0) return activation::finished<kind>(k.act, from(x) + b, k.alpha, k.gain, k.clamp);
    F out = from(dy) * k.gain, y;
    if (order == 1 && kind != activation::any && kind != activation::swish) {
        // The sign of y is that of v, as gain > 0 and alpha >= 0.
        y = from(static_cast<const T*>(k.y));
        out = activation::times_slope<kind>(k.act, y, k.alpha, out);
    } else {
        const F v = from(x) + b;
        out = order == 1 ? activation::times_slope<kind>(k.act, v, k.alpha, out)
                         : out * from(static_cast<const T*>(k.ddx)) *
                               activation::curvature(k.act, v, k.alpha);
        if (k.clamp < 0) return out;
        y = activation::value<kind>(k.act, v, k.alpha) * k.gain;
    }
    return k.clamp < 0 ? out : select(absolute(y) < splat(k.clamp), out, F{});
}

template <int order, Kind kind, class T>
void span(const BiasAct& call, int64_t begin, int64_t end, float b, const float* bias) {
    const BiasAct k = call;  // a copy, which the stores below cannot be suspected of changing
    T* out = static_cast<T*>(k.out);
    const F same = splat(b);
    int64_t i = begin;
    if (bias == nullptr) {
        for (; i + lanes <= end; i += lanes)
            store(out + i, compute<order, kind, T>(k, same, LoadVector{i}));
    } else {
        for (; i + lanes <= end; i += lanes)
            store(out + i, compute<order, kind, T>(k, load(bias + (i - begin)), LoadVector{i}));
    }
    if (i < end) {
        const int64_t n = end - i;
        const F rest = bias == nullptr ? same : load_first(bias + (i - begin), n);
        store_first(out + i, compute<order, kind, T>(k, rest, LoadFirst{i, n}), n);
    }
}

template <int order, Kind kind>
BiasActLoops for_type(Type type) {
    if (type == Type::float32) return {span<order, kind, float>};
    if (type == Type::bfloat16) return {span<order, kind, bfloat16>};
    return {span<order, kind, float16>};
}

template <int order>
BiasActLoops for_act(Type type, Act act) {
    if (act == Act::linear) return for_type<order, activation::linear>(type);
    if (act == Act::relu) return for_type<order, activation::relu>(type);
    if (act == Act::lrelu) return for_type<order, activation::lrelu>(type);
    if (act == Act::swish) return for_type<order, activation::swish>(type);
    return for_type<order, activation::any>(type);
}

inline BiasActLoops find(int32_t order, Type type, Act act) {
    if (order == 0) return for_act<0>(type, act);
    if (order == 1) return for_act<1>(type, act);
    return for_type<2, activation::any>(type);
}

}  // namespace bias_act_loops
