// The activations with their first and second derivatives, for float or for a vector of floats.
//
// Included where `select(condition, a, b)`, `minimum`, `maximum` (both return their second argument
// where one is NaN), `absolute`, `exp_negative` and `expm1_negative` (arguments <= 0) and `log1p`
// (arguments in [0, 1]) are defined for V. There is no include guard: the CPU kernels include this
// once per instruction set, within its namespace. PIX2GAN_INLINE forces inlining, PIX2GAN_OUTLINE
// forbids it: exponentials in a dozen loops would be most of the library, and of the time to build
// it.
//
// Exponentials are taken of -|v| only, so that nothing overflows, and differences such as
// 1 - tanh(v)^2 are rewritten as products, so that nothing cancels.

namespace activation {

constexpr float selu_alpha = 1.6732632423543772848f;
constexpr float selu_scale = 1.0507009873554804934f;

// The activations that cost next to nothing get loops of their own; the others share one in which
// the choice is made per vector. swish, the usual one of them, has its own where that counts.
enum Kind { linear, relu, lrelu, swish, any };

// With e = exp(-|v|): sigmoid(|v|) = 1 / (1 + e), sigmoid(-|v|) = e / (1 + e).
template <class V>
struct Sigmoid {
    V s, c;  // sigmoid(v), sigmoid(-v)
};

template <class V>
PIX2GAN_INLINE Sigmoid<V> sigmoid(V v) {
    const V e = exp_negative(-absolute(v));
    const V large = 1.0f / (1.0f + e), small = e * large;
    const auto positive = v > 0.0f;
    return {select(positive, large, small), select(positive, small, large)};
}

template <class V>
PIX2GAN_INLINE V tanh(V v) {
    const V e = expm1_negative(-2.0f * absolute(v));
    const V t = -e / (e + 2.0f);
    return select(v < 0.0f, -t, t);
}

template <class V>
PIX2GAN_INLINE V tanh_slope(V v) {
    const V e = exp_negative(-2.0f * absolute(v)), r = 1.0f / (1.0f + e);
    return 4.0f * e * r * r;
}

namespace any_kind {

// act(v)
template <class V>
PIX2GAN_OUTLINE V value(Act act, V v, float alpha) {
    const V zero = {};
    switch (act) {
        case Act::tanh:
            return tanh(v);
        case Act::sigmoid:
            return sigmoid(v).s;
        case Act::elu:
            return select(v > 0.0f, v, alpha * expm1_negative(minimum(zero, v)));
        case Act::selu:
            return selu_scale * select(v > 0.0f, v, selu_alpha * expm1_negative(minimum(zero, v)));
        case Act::softplus:
            return maximum(zero, v) + log1p(exp_negative(-absolute(v)));
        case Act::swish:
            return v * sigmoid(v).s;
        default:
            return v;
    }
}

// d act / dv; at the kink of elu and selu the slope of the negative side.
template <class V>
PIX2GAN_INLINE V slope(Act act, V v, float alpha) {
    const V zero = {}, one = zero + 1.0f;
    switch (act) {
        case Act::tanh:
            return tanh_slope(v);
        case Act::sigmoid: {
            const auto g = sigmoid(v);
            return g.s * g.c;
        }
        case Act::elu:
            return select(v > 0.0f, one, alpha * exp_negative(minimum(zero, v)));
        case Act::selu:
            return selu_scale * select(v > 0.0f, one, selu_alpha * exp_negative(minimum(zero, v)));
        case Act::softplus:
            return sigmoid(v).s;
        case Act::swish: {
            const auto g = sigmoid(v);
            return g.s * (1.0f + v * g.c);
        }
        default:
            return one;
    }
}

// The product is rounded here: fused into a caller's sum it would differ from one place to another,
// where equal products should cancel.
template <class V>
PIX2GAN_OUTLINE V times_slope(Act act, V v, float alpha, V g) {
    return g * slope(act, v, alpha);
}

// d2 act / dv2
template <class V>
PIX2GAN_OUTLINE V curvature(Act act, V v, float alpha) {
    const V zero = {};
    switch (act) {
        case Act::tanh:
            return -2.0f * tanh(v) * tanh_slope(v);
        case Act::sigmoid: {
            const auto g = sigmoid(v);
            return g.s * g.c * (g.c - g.s);
        }
        case Act::elu:
            return select(v > 0.0f, zero, alpha * exp_negative(minimum(zero, v)));
        case Act::selu:
            return (selu_scale * selu_alpha) *
                   select(v > 0.0f, zero, exp_negative(minimum(zero, v)));
        case Act::softplus: {
            const auto g = sigmoid(v);
            return g.s * g.c;
        }
        case Act::swish: {
            const auto g = sigmoid(v);
            return g.s * g.c * (2.0f + v * (g.c - g.s));
        }
        default:
            return zero;
    }
}

}  // namespace any_kind

// act(v); NaN stays NaN.
template <Kind kind, class V>
PIX2GAN_INLINE V value(Act act, V v, float alpha) {
    if (kind == linear) return v;
    if (kind == relu) return maximum(V{}, v);
    if (kind == lrelu) return select(v < 0.0f, v * alpha, v);
    if (kind == swish) return v * sigmoid(v).s;
    return any_kind::value(act, v, alpha);
}

// clip(gain * act(v), +-clamp), unclipped where clamp < 0; NaN stays NaN.
template <Kind kind, class V>
PIX2GAN_INLINE V finished(Act act, V v, float alpha, float gain, float clamp) {
    const V scaled = value<kind>(act, v, alpha) * gain, limit = V{} + clamp;
    return clamp < 0 ? scaled : minimum(limit, maximum(-limit, scaled));
}

// d act / dv times g; at a kink the slope of the negative side.
template <Kind kind, class V>
PIX2GAN_INLINE V times_slope(Act act, V v, float alpha, V g) {
    if (kind == linear) return g;
    if (kind == relu) return select(v > 0.0f, g, V{});
    if (kind == lrelu) return select(v > 0.0f, g, g * alpha);
    if (kind == swish) {
        const auto s = sigmoid(v);
        return g * (s.s * (1.0f + v * s.c));
    }
    return any_kind::times_slope(act, v, alpha, g);
}

// d2 act / dv2; only for kinds that are not piecewise linear, for which it is 0.
template <class V>
PIX2GAN_INLINE V curvature(Act act, V v, float alpha) {
    return any_kind::curvature(act, v, alpha);
}

}  // namespace activation
