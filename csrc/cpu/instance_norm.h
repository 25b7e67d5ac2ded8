// instance_norm_stats and instance_norm_act.
//
// x is read twice, y written once. A plane (channels-last: an image) is cut into chunks of rows.
// The first pass sums each chunk, the chunks are merged in order, the second pass writes. Where there
// are many planes, a thread does both passes over one plane, which its cache still holds.
//
// Sums are taken of x - shift, the shift being the mean of an eighth of the chunk's elements. However
// x is distributed, that is within sqrt(7) deviations of the chunk's mean, so that at most a factor
// of 8 of float's precision is lost, be the mean itself a million deviations from 0.

namespace instance_norm_kernel {

using activation::Kind;

constexpr int64_t sample_every = 8;
constexpr int64_t sums_before_flush = 256;  // sums of sums: the rounding errors of long ones

// How a plane or image is cut into chunks: by shape alone, never by the number of threads.
struct Chunks {
    int64_t rows, count;

    Chunks(int64_t height, int64_t row_elements)
        : rows(larger(1, smaller(height, task_elements / larger(row_elements, 1)))),
          count(ceil_div(height, rows)) {}

    int64_t begin(int64_t chunk) const { return chunk * rows; }
    int64_t end(int64_t chunk, int64_t height) const { return smaller((chunk + 1) * rows, height); }
};

struct Moments {
    double count = 0, mean = 0, m2 = 0;

    void merge(const Moments& other) {
        const double total = count + other.count, delta = other.mean - mean;
        mean += delta * (other.count / total);
        m2 += other.m2 + delta * delta * (count * other.count / total);
        count = total;
    }
};

PIX2GAN_INLINE Moments from_sums(double count, double shift, double s1, double s2) {
    const double m2 = s2 - s1 * s1 / count;
    return {count, shift + s1 / count, m2 > 0 ? m2 : m2 == m2 ? 0 : m2};
}

// y = act((x - mean) * scale + shift)
struct Affine {
    float mean, scale, shift;

    // From the exact statistics: what rounding the mean to a float leaves out goes into the shift.
    PIX2GAN_INLINE Affine(double exact_mean, float rstd, float weight, float bias)
        : mean(static_cast<float>(exact_mean)),
          scale(weight * rstd),
          shift(static_cast<float>(bias - (exact_mean - mean) * scale)) {}
};

PIX2GAN_INLINE float weight_at(const InstanceNormAct& k, int64_t n, int64_t c) {
    return k.weight != nullptr ? k.weight[n * k.weight_image + c] : 1.0f;
}

PIX2GAN_INLINE float bias_at(const InstanceNormAct& k, int64_t n, int64_t c) {
    return k.bias != nullptr ? k.bias[n * k.bias_image + c] : 0.0f;
}

PIX2GAN_INLINE double rstd_of(const Moments& m, double eps) {
    return 1.0 / __builtin_sqrt(m.m2 / m.count + eps);
}

// ------------------------------------------------------------------------- what padding copies

// The pixel that padded position `i` is copied from, -1 for a zero.
PIX2GAN_INLINE int64_t pad_source(Pad mode, int64_t i, int64_t pad, int64_t size) {
    const int64_t position = i - pad;
    if (mode == Pad::reflect) return reflect(position, size);
    if (mode == Pad::replicate) return replicate(position, size);
    return position >= 0 && position < size ? position : -1;
}

// Fills the padding that depends on row h of y, once its `width` pixels of `depth` elements stand:
// the row's ends, and the rows above and below the image that are copies of it.
template <class T>
void pad_row(T* y, int64_t h, int64_t height, int64_t width, int64_t depth, int64_t pad, Pad mode) {
    const int64_t padded_width = width + 2 * pad, row_elements = padded_width * depth;
    T* row = y + (h + pad) * row_elements;
    for (int64_t i = 0; i < pad; i++) {
        const int64_t both[] = {i, padded_width - 1 - i};
        for (const int64_t to : both) {
            const int64_t from = pad_source(mode, to, pad, width);
            if (from < 0)
                __builtin_memset(row + to * depth, 0, depth * sizeof(T));
            else if (depth == 1)
                row[to] = row[from + pad];
            else
                __builtin_memcpy(row + to * depth, row + (from + pad) * depth, depth * sizeof(T));
        }
    }
    for (int64_t i = 0; i < pad; i++) {
        const int64_t both[] = {i, height + 2 * pad - 1 - i};
        for (const int64_t to : both) {
            const int64_t from = pad_source(mode, to, pad, height);
            if (from == h)
                __builtin_memcpy(y + to * row_elements, row, row_elements * sizeof(T));
            else if (from < 0 && h == (to < pad ? 0 : height - 1))
                __builtin_memset(y + to * row_elements, 0, row_elements * sizeof(T));
        }
    }
}

// ------------------------------------------------------------------------------ contiguous planes

template <class T>
Moments plane_moments(const T* x, int64_t elements) {
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
        const int64_t stop = smaller(whole, i + 4 * sums_before_flush);
        F s1[4] = {}, s2[4] = {};
        for (; i + 4 <= stop; i += 4) {
            for (int j = 0; j < 4; j++) {
                const F d = load(x + (i + j) * lanes) - k;
                s1[j] += d;
                s2[j] += d * d;
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
    return from_sums(static_cast<double>(elements), shift, sum_lanes(total1), sum_lanes(total2));
}

template <Kind kind, bool with_residual, class T>
PIX2GAN_INLINE void normalise_at(const InstanceNormAct& k, const T* x, const T* residual, T* y,
                                 F mean, F scale, F shift) {
    F v = (load(x) - mean) * scale + shift;
    v = activation::value<kind>(k.act, v, k.alpha);
    store(y, with_residual ? v + load(residual) : v);
}

template <Kind kind, bool with_residual, class T>
void normalise_span(const InstanceNormAct& k, const T* x, const T* residual, T* y, int64_t n,
                    const Affine& affine) {
    const F mean = splat(affine.mean), scale = splat(affine.scale), shift = splat(affine.shift);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
        normalise_at<kind, with_residual>(k, x + i, residual + (with_residual ? i : 0), y + i, mean,
                                          scale, shift);
    if (i == n) return;
    if (n >= lanes) {  // the last vector overlaps the one before it
        i = n - lanes;
        normalise_at<kind, with_residual>(k, x + i, residual + (with_residual ? i : 0), y + i, mean,
                                          scale, shift);
    } else {
        F v = (load_first(x, n) - mean) * scale + shift;
        v = activation::value<kind>(k.act, v, k.alpha);
        store_first(y, with_residual ? v + load_first(residual, n) : v, n);
    }
}

// Rows [first, last) of one plane.
template <Kind kind, bool with_residual, class T>
void normalise_plane(const InstanceNormAct& k, int64_t plane, int64_t first, int64_t last,
                     const Affine& affine) {
    const int64_t n = plane / k.c, c = plane % k.c;
    const T* x = static_cast<const T*>(k.x) + n * k.x_image + c * k.x_plane;
    const T* residual = static_cast<const T*>(k.residual);
    if (with_residual) residual += plane * k.h * k.w;
    T* y = static_cast<T*>(k.y) + plane * (k.h + 2 * k.pad) * (k.w + 2 * k.pad);
    if (k.pad == 0) {
        const int64_t at = first * k.w;
        return normalise_span<kind, with_residual>(k, x + at, residual + (with_residual ? at : 0),
                                                   y + at, (last - first) * k.w, affine);
    }
    for (int64_t h = first; h < last; h++) {
        const int64_t at = h * k.w;
        normalise_span<kind, with_residual>(k, x + at, residual + (with_residual ? at : 0),
                                            y + (h + k.pad) * (k.w + 2 * k.pad) + k.pad, k.w, affine);
        pad_row(y, h, k.h, k.w, 1, k.pad, k.pad_mode);
    }
}

template <class T>
struct PlaneStatistics {
    const T* x;
    int64_t c, h, w, x_image, x_plane;
    Chunks chunks;

    PIX2GAN_INLINE Moments operator()(int64_t plane, int64_t chunk) const {
        const int64_t first = chunks.begin(chunk), last = chunks.end(chunk, h);
        return plane_moments(x + plane / c * x_image + plane % c * x_plane + first * w,
                             (last - first) * w);
    }
};

template <class T>
struct SumPlaneChunks {
    PlaneStatistics<T> statistics;
    Moments* parts;  // [planes, chunks]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++)
            parts[i] = statistics(i / statistics.chunks.count, i % statistics.chunks.count);
    }
};

// What has been summed by another pass, or null and summed here.
template <class T>
PIX2GAN_INLINE Moments plane_statistics(const PlaneStatistics<T>& statistics, const Moments* parts,
                                        int64_t plane) {
    Moments m;
    for (int64_t chunk = 0; chunk < statistics.chunks.count; chunk++)
        m.merge(parts != nullptr ? parts[plane * statistics.chunks.count + chunk]
                                 : statistics(plane, chunk));
    return m;
}

PIX2GAN_INLINE Affine plane_affine(const InstanceNormAct& k, int64_t plane, double mean, float rstd) {
    const int64_t n = plane / k.c, c = plane % k.c;
    return Affine(mean, rstd, weight_at(k, n, c), bias_at(k, n, c));
}

// Both passes over whole planes.
template <Kind kind, bool with_residual, class T>
struct NormalisePlanes {
    InstanceNormAct k;
    PlaneStatistics<T> statistics;

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t plane = begin; plane < end; plane++) {
            double mean;
            if (k.given_mean != nullptr) {
                mean = k.given_mean[plane];
                k.rstd[plane] = k.given_rstd[plane];
            } else {
                const Moments m = plane_statistics(statistics, nullptr, plane);
                mean = m.mean;
                k.rstd[plane] = static_cast<float>(rstd_of(m, k.eps));
            }
            k.mean[plane] = static_cast<float>(mean);
            normalise_plane<kind, with_residual, T>(k, plane, 0, k.h,
                                                    plane_affine(k, plane, mean, k.rstd[plane]));
        }
    }
};

// The second pass over chunks of planes.
template <Kind kind, bool with_residual, class T>
struct NormalisePlaneChunks {
    InstanceNormAct k;
    Chunks chunks;
    const double* means;  // [planes]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++) {
            const int64_t plane = i / chunks.count, chunk = i % chunks.count;
            normalise_plane<kind, with_residual, T>(
                k, plane, chunks.begin(chunk), chunks.end(chunk, k.h),
                plane_affine(k, plane, means[plane], k.rstd[plane]));
        }
    }
};

template <Kind kind, bool with_residual, class T>
void normalise_planes(const InstanceNormAct& k, const Workers& workers) {
    const int64_t planes = k.n * k.c;
    const PlaneStatistics<T> statistics = {static_cast<const T*>(k.x), k.c, k.h, k.w, k.x_image,
                                           k.x_plane, Chunks(k.h, k.w)};
    const int64_t chunks = statistics.chunks.count;
    if (chunks == 1 || planes >= 4 * workers.count) {
        const NormalisePlanes<kind, with_residual, T> task = {k, statistics};
        if (planes * k.h * k.w < task_elements / 2) return task(0, planes);
        return run(workers, planes, task);
    }
    Scratch<double> means(planes);
    if (k.given_mean == nullptr) {
        Scratch<Moments> parts(planes * chunks);
        run(workers, planes * chunks, SumPlaneChunks<T>{statistics, parts.get()});
        for (int64_t plane = 0; plane < planes; plane++) {
            const Moments m = plane_statistics(statistics, parts.get(), plane);
            means[plane] = m.mean;
            k.rstd[plane] = static_cast<float>(rstd_of(m, k.eps));
        }
    } else {
        for (int64_t plane = 0; plane < planes; plane++) {
            means[plane] = k.given_mean[plane];
            k.rstd[plane] = k.given_rstd[plane];
        }
    }
    for (int64_t plane = 0; plane < planes; plane++) k.mean[plane] = static_cast<float>(means[plane]);
    run(workers, planes * chunks,
        NormalisePlaneChunks<kind, with_residual, T>{k, statistics.chunks, means.get()});
}

// ---------------------------------------------------------------------------------- channels-last

// For NV vectors of channels of `pixels` pixels: the shift and the sums of x - shift and its square.
template <int NV, class T>
PIX2GAN_INLINE void sum_channels(const T* x, int64_t pixels, int64_t stride, float* shift, float* s1,
                                 float* s2) {
    const int64_t every = pixels >= 8 * sample_every ? sample_every : 1;
    F k[NV] = {};
    for (int64_t i = 0; i < pixels; i += every)
        for (int j = 0; j < NV; j++) k[j] += load(x + i * stride + j * lanes);
    const float share = 1.0f / static_cast<float>(ceil_div(pixels, every));
    F total1[NV] = {}, total2[NV] = {};
    for (int j = 0; j < NV; j++) k[j] *= share;
    for (int64_t i = 0; i < pixels;) {
        const int64_t stop = smaller(pixels, i + sums_before_flush);
        F a[NV] = {}, b[NV] = {};
        for (; i < stop; i++) {
            for (int j = 0; j < NV; j++) {
                const F d = load(x + i * stride + j * lanes) - k[j];
                a[j] += d;
                b[j] += d * d;
            }
        }
        for (int j = 0; j < NV; j++) total1[j] += a[j], total2[j] += b[j];
    }
    for (int j = 0; j < NV; j++) {
        store(shift + j * lanes, k[j]);
        store(s1 + j * lanes, total1[j]);
        store(s2 + j * lanes, total2[j]);
    }
}

// Calls block.template operator()<NV>(c) so that vectors of channels from c on cover [0, channels);
// the last one may overlap the one before it. Requires channels >= lanes.
template <class Block>
PIX2GAN_INLINE void for_channels(int64_t channels, const Block& block) {
    int64_t c = 0;
    for (; c + 4 * lanes <= channels; c += 4 * lanes) block.template run<4>(c);
    for (; c + lanes <= channels; c += lanes) block.template run<1>(c);
    if (c < channels) block.template run<1>(channels - lanes);
}

template <class T>
struct SumBlock {
    const T* x;
    int64_t pixels, channels;
    float* sums;  // [3, channels]

    template <int NV>
    PIX2GAN_INLINE void run(int64_t c) const {
        sum_channels<NV>(x + c, pixels, channels, sums + c, sums + channels + c,
                         sums + 2 * channels + c);
    }
};

// Phase one: sums of chunks of rows.
template <class T>
struct SumRows {
    const T* x;
    int64_t c, h, w;
    Chunks chunks;
    float* sums;  // [n, chunks, 3, c]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / chunks.count, chunk = i % chunks.count;
            const int64_t first = chunks.begin(chunk), last = chunks.end(chunk, h);
            const SumBlock<T> block = {x + (n * h + first) * w * c, (last - first) * w, c,
                                       sums + i * 3 * c};
            for_channels(c, block);
        }
    }
};

// Merges the chunks of image n; mean and m2 are [c].
inline void merge_rows(const float* sums, int64_t n, int64_t c, int64_t h, int64_t w,
                       const Chunks& chunks, double* mean, double* m2) {
    double count = 0;
    for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
        const float* s = sums + (n * chunks.count + chunk) * 3 * c;
        const double pixels =
            static_cast<double>((chunks.end(chunk, h) - chunks.begin(chunk)) * w);
        const double share = pixels / (count + pixels), both = count * share, each = 1 / pixels;
        for (int64_t i = 0; i < c; i++) {
            const double s1 = s[c + i], own = s[2 * c + i] - s1 * s1 * each;
            const double delta = s[i] + s1 * each - (chunk > 0 ? mean[i] : 0.0);
            const double m2_before = chunk > 0 ? m2[i] : 0.0;
            mean[i] = (chunk > 0 ? mean[i] : 0.0) + delta * share;
            m2[i] = m2_before + (own < 0 ? 0 : own) + delta * delta * both;
        }
        count += pixels;
    }
}

// Per channel of an image, what the second pass needs.
struct AffineRows {
    float *mean, *scale, *shift;  // [c]
};

template <Kind kind, bool with_residual, class T>
struct NormaliseBlock {
    const InstanceNormAct& k;
    const T *x, *residual;
    T* y;
    int64_t pixels;
    AffineRows affine;

    template <int NV>
    PIX2GAN_INLINE void run(int64_t c) const {
        F mean[NV], scale[NV], shift[NV];
        for (int j = 0; j < NV; j++) {
            mean[j] = load(affine.mean + c + j * lanes);
            scale[j] = load(affine.scale + c + j * lanes);
            shift[j] = load(affine.shift + c + j * lanes);
        }
        for (int64_t i = 0; i < pixels; i++) {
            for (int j = 0; j < NV; j++) {
                const int64_t at = i * k.c + c + j * lanes;
                normalise_at<kind, with_residual>(k, x + at, residual + (with_residual ? at : 0),
                                                  y + at, mean[j], scale[j], shift[j]);
            }
        }
    }
};

// Phase two.
template <Kind kind, bool with_residual, class T>
struct NormaliseRows {
    InstanceNormAct k;
    Chunks chunks;
    const float* affine;  // [n, 3, c]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++) rows(i / chunks.count, i % chunks.count);
    }

    void rows(int64_t n, int64_t chunk) const {
        float* a = const_cast<float*>(affine) + n * 3 * k.c;
        const AffineRows at = {a, a + k.c, a + 2 * k.c};
        const int64_t first = chunks.begin(chunk), last = chunks.end(chunk, k.h);
        const int64_t padded_width = k.w + 2 * k.pad;
        const T* x = static_cast<const T*>(k.x) + n * k.h * k.w * k.c;
        const T* residual = static_cast<const T*>(k.residual);
        if (with_residual) residual += n * k.h * k.w * k.c;
        T* y = static_cast<T*>(k.y) + n * (k.h + 2 * k.pad) * padded_width * k.c;
        for (int64_t h = first; h < last; h++) {
            const int64_t from = h * k.w * k.c;
            T* to = y + ((h + k.pad) * padded_width + k.pad) * k.c;
            const NormaliseBlock<kind, with_residual, T> block = {
                k, x + from, residual + (with_residual ? from : 0), to, k.w, at};
            for_channels(k.c, block);
            if (k.pad > 0) pad_row(y, h, k.h, k.w, k.c, k.pad, k.pad_mode);
        }
    }
};

template <Kind kind, bool with_residual, class T>
void normalise_rows(const InstanceNormAct& k, const Workers& workers) {
    const Chunks chunks(k.h, k.w * k.c);
    Scratch<float> affine(k.n * 3 * k.c);
    Scratch<double> moments(2 * k.c);
    Scratch<float> sums(k.given_mean == nullptr ? k.n * chunks.count * 3 * k.c : 0);
    if (k.given_mean == nullptr)
        run(workers, k.n * chunks.count,
            SumRows<T>{static_cast<const T*>(k.x), k.c, k.h, k.w, chunks, sums.get()});
    for (int64_t n = 0; n < k.n; n++) {
        double *mean = moments.get(), *m2 = mean + k.c;
        if (k.given_mean == nullptr) merge_rows(sums.get(), n, k.c, k.h, k.w, chunks, mean, m2);
        const double count = static_cast<double>(k.h * k.w);
        float *mean_out = k.mean + n * k.c, *rstd_out = k.rstd + n * k.c;
        if (k.given_mean == nullptr) {
            for (int64_t c = 0; c < k.c; c++)
                rstd_out[c] = static_cast<float>(1.0 / __builtin_sqrt(m2[c] / count + k.eps));
        } else {
            for (int64_t c = 0; c < k.c; c++) {
                mean[c] = k.given_mean[n * k.c + c];
                rstd_out[c] = k.given_rstd[n * k.c + c];
            }
        }
        float* a = affine.get() + n * 3 * k.c;
        for (int64_t c = 0; c < k.c; c++) {
            const Affine one(mean[c], rstd_out[c], weight_at(k, n, c), bias_at(k, n, c));
            mean_out[c] = a[c] = one.mean;
            a[k.c + c] = one.scale;
            a[2 * k.c + c] = one.shift;
        }
    }
    run(workers, k.n * chunks.count, NormaliseRows<kind, with_residual, T>{k, chunks, affine.get()});
}

// --------------------------------------------------------------------------------------- launchers

template <Kind kind, bool with_residual, class T>
void launch(const InstanceNormAct& k, const Workers& workers) {
    if (k.channels_last)
        normalise_rows<kind, with_residual, T>(k, workers);
    else
        normalise_planes<kind, with_residual, T>(k, workers);
}

template <Kind kind, class T>
void launch_kind(const InstanceNormAct& k, const Workers& workers) {
    if (k.residual != nullptr)
        launch<kind, true, T>(k, workers);
    else
        launch<kind, false, T>(k, workers);
}

template <class T>
void launch_type(const InstanceNormAct& k, const Workers& workers) {
    switch (k.act) {
        case Act::linear:
            return launch_kind<activation::linear, T>(k, workers);
        case Act::relu:
            return launch_kind<activation::relu, T>(k, workers);
        case Act::lrelu:
            return launch_kind<activation::lrelu, T>(k, workers);
        default:
            return launch_kind<activation::any, T>(k, workers);
    }
}

void instance_norm_act(const InstanceNormAct& k, const Workers& workers) {
    switch (k.type) {
        case Type::float32:
            return launch_type<float>(k, workers);
        case Type::bfloat16:
            return launch_type<bfloat16>(k, workers);
        case Type::float16:
            return launch_type<float16>(k, workers);
    }
}

template <class T>
struct PlaneMoments {
    InstanceNormStats k;
    PlaneStatistics<T> statistics;

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t plane = begin; plane < end; plane++) {
            const Moments m = plane_statistics(statistics, nullptr, plane);
            k.mean[plane] = static_cast<float>(m.mean);
            k.m2[plane] = static_cast<float>(m.m2);
        }
    }
};

template <class T>
void statistics(const InstanceNormStats& k, const Workers& workers) {
    const T* x = static_cast<const T*>(k.x);
    if (!k.channels_last) {
        const PlaneStatistics<T> planes = {x, k.c, k.h, k.w, k.x_image, k.x_plane, Chunks(k.h, k.w)};
        return run(workers, k.n * k.c, PlaneMoments<T>{k, planes});
    }
    const Chunks chunks(k.h, k.w * k.c);
    Scratch<float> sums(k.n * chunks.count * 3 * k.c);
    Scratch<double> moments(2 * k.c);
    double *mean = moments.get(), *m2 = mean + k.c;
    run(workers, k.n * chunks.count, SumRows<T>{x, k.c, k.h, k.w, chunks, sums.get()});
    for (int64_t n = 0; n < k.n; n++) {
        merge_rows(sums.get(), n, k.c, k.h, k.w, chunks, mean, m2);
        for (int64_t c = 0; c < k.c; c++) {
            k.mean[n * k.c + c] = static_cast<float>(mean[c]);
            k.m2[n * k.c + c] = static_cast<float>(m2[c]);
        }
    }
}

void instance_norm_stats(const InstanceNormStats& k, const Workers& workers) {
    switch (k.type) {
        case Type::float32:
            return statistics<float>(k, workers);
        case Type::bfloat16:
            return statistics<bfloat16>(k, workers);
        case Type::float16:
            return statistics<float16>(k, workers);
    }
}

}  // namespace instance_norm_kernel
