// bias_act and its two gradients, element by element.

namespace bias_act_kernel {

using activation::Kind;

template <class T>
struct Pointers {
    const T *x, *y, *dy, *ddx;
    T* out;
};

// One vector of results; `load_at` reads a whole vector or the start of one.
template <int order, Kind kind, class T, class Load>
PIX2GAN_INLINE F compute(const BiasAct& k, const Pointers<T>& p, F b, Load load_at) {
    const F limit = splat(k.clamp);
    if (order == 0) {
        const F v = activation::value<kind>(k.act, load_at(p.x) + b, k.alpha) * k.gain;
        return k.clamp < 0 ? v : minimum(limit, maximum(-limit, v));
    }
    F out = load_at(p.dy) * k.gain, y;
    if (order == 1 && kind != activation::any) {
        // The sign of y is that of v, as gain > 0 and alpha >= 0.
        y = load_at(p.y);
        out = activation::times_slope<kind>(k.act, y, k.alpha, out);
    } else {
        const F v = load_at(p.x) + b;
        out = order == 1 ? activation::times_slope<kind>(k.act, v, k.alpha, out)
                         : out * load_at(p.ddx) * activation::curvature(k.act, v, k.alpha);
        if (k.clamp < 0) return out;
        y = activation::value<kind>(k.act, v, k.alpha) * k.gain;
    }
    return k.clamp < 0 ? out : select(absolute(y) < limit, out, F{});
}

struct LoadVector {
    int64_t i;
    template <class T>
    PIX2GAN_INLINE F operator()(const T* from) const { return load(from + i); }
};

struct LoadFirst {
    int64_t i, n;
    template <class T>
    PIX2GAN_INLINE F operator()(const T* from) const { return load_first(from + i, n); }
};

// Elements [begin, end) with the bias b, or with a bias each from `bias`, where begin counts 0.
template <int order, Kind kind, class T>
void span(const BiasAct& k, const Pointers<T>& p, int64_t begin, int64_t end, float b,
          const float* bias) {
    const F same = splat(b);
    int64_t i = begin;
    if (bias == nullptr) {
        for (; i + lanes <= end; i += lanes)
            store(p.out + i, compute<order, kind>(k, p, same, LoadVector{i}));
    } else {
        for (; i + lanes <= end; i += lanes)
            store(p.out + i, compute<order, kind>(k, p, load(bias + (i - begin)), LoadVector{i}));
    }
    if (i < end) {
        const int64_t n = end - i;
        const F rest = bias == nullptr ? same : load_first(bias + (i - begin), n);
        store_first(p.out + i, compute<order, kind>(k, p, rest, LoadFirst{i, n}), n);
    }
}

// Where the bias changes from element to element, it is repeated to rows of about this many.
constexpr int64_t row_elements = 1024;

// How often: so that rows are whole vectors too, where that is cheap.
inline int64_t repeats(int64_t period, int64_t outer) {
    const int64_t count = ceil_div(row_elements, period);
    return smaller(count >= lanes ? ceil_div(count, lanes) * lanes : count, outer);
}

template <int order, Kind kind, class T>
struct Task {
    BiasAct k;
    Pointers<T> p;
    int64_t total, step;  // elements in all and a task; a multiple of `row`
    int64_t row;          // elements until the bias repeats
    const float* bias;    // [row], or null: one bias a plane, or none

    void operator()(int64_t first, int64_t last) const {
        const int64_t begin = first * step, end = smaller(last * step, total);
        if (bias != nullptr) {
            for (int64_t i = begin; i < end; i += row)
                span<order, kind>(k, p, i, smaller(i + row, end), 0.0f, bias);
        } else if (k.b == nullptr) {
            span<order, kind, T>(k, p, begin, end, 0.0f, nullptr);
        } else {
            for (int64_t i = begin; i < end;) {
                const int64_t plane = i / k.inner;
                const int64_t stop = smaller((plane + 1) * k.inner, end);
                span<order, kind, T>(k, p, i, stop, k.b[plane % k.channels], nullptr);
                i = stop;
            }
        }
    }
};

template <int order, Kind kind, class T>
void launch(const BiasAct& k, const Workers& workers) {
    const Pointers<T> p = {static_cast<const T*>(k.x), static_cast<const T*>(k.y),
                           static_cast<const T*>(k.dy), static_cast<const T*>(k.ddx),
                           static_cast<T*>(k.out)};
    const int64_t total = k.outer * k.channels * k.inner;
    // Planes of a few elements are treated as rows too, each bias repeated `inner` times.
    const bool rows = k.b != nullptr && k.inner < 2 * lanes;
    const int64_t period = k.channels * k.inner;
    const int64_t row = rows ? period * repeats(period, k.outer) : 1;
    Scratch<float> bias(row);
    if (rows) {
        for (int64_t c = 0; c < k.channels; c++)
            for (int64_t i = 0; i < k.inner; i++) bias[c * k.inner + i] = k.b[c];
        for (int64_t i = period; i < row; i++) bias[i] = bias[i - period];
    }
    const int64_t step = ceil_div(task_elements / 2, row) * row;
    const Task<order, kind, T> task = {k, p, total, step, row, rows ? bias.get() : nullptr};
    run(workers, ceil_div(total, step), task);
}

template <class T>
void launch_type(const BiasAct& k, const Workers& workers) {
    const bool from_y = k.order == 1 && k.y != nullptr;
    if (k.order == 2) return launch<2, activation::any, T>(k, workers);
    if (k.order == 1 && !from_y) return launch<1, activation::any, T>(k, workers);
    switch (k.act) {
        case Act::linear:
            return from_y ? launch<1, activation::linear, T>(k, workers) : launch<0, activation::linear, T>(k, workers);
        case Act::relu:
            return from_y ? launch<1, activation::relu, T>(k, workers) : launch<0, activation::relu, T>(k, workers);
        case Act::lrelu:
            return from_y ? launch<1, activation::lrelu, T>(k, workers) : launch<0, activation::lrelu, T>(k, workers);
        default:
            return launch<0, activation::any, T>(k, workers);
    }
}

void bias_act(const BiasAct& k, const Workers& workers) {
    if (k.outer * k.channels * k.inner == 0) return;
    switch (k.type) {
        case Type::float32:
            return launch_type<float>(k, workers);
        case Type::bfloat16:
            return launch_type<bfloat16>(k, workers);
        case Type::float16:
            return launch_type<float16>(k, workers);
    }
}

}  // namespace bias_act_kernel
