// What surrounds a convolution: scales, noise, bias and activation, from one layout to another.

namespace scale_act_loops {

using activation::Kind;

struct Finish {
    Act act;
    float alpha, gain, clamp;

    template <Kind kind, class From, class To>
    PIX2GAN_INLINE F apply(F v) const {
        v = activation::finished<kind>(act, v, alpha, gain, clamp);
        // Operands are rounded as those of their type are, also where float computes with them.
        return sizeof(From) < sizeof(To) ? widen(From{}, narrow(From{}, v)) : v;
    }
};

PIX2GAN_INLINE Finish finish_of(const ScaleAct& k) { return {k.act, k.alpha, k.gain, k.clamp}; }

// The first of n elements and the lanes behind it, as one vector or in part.
template <bool whole, class T>
PIX2GAN_INLINE F load_some(const T* from, int64_t n) {
    return whole ? load(from) : load_first(from, n);
}
template <bool whole, class T>
PIX2GAN_INLINE void store_some(T* to, F v, int64_t n) {
    if (whole)
        store(to, v);
    else
        store_first(to, v, n);
}

// Calls vector(i, n) for n = `lanes` elements at a time; the last vector overlaps the one before
// it, or is the only one and has n < lanes.
template <class Vector>
PIX2GAN_INLINE void for_vectors(int64_t count, const Vector& vector) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) vector.template run<true>(i, lanes);
    if (i == count) return;
    if (count >= lanes)
        vector.template run<true>(count - lanes, lanes);
    else
        vector.template run<false>(0, count);
}

// ------------------------------------------------------------------------------- planes to planes

template <Kind kind, class From, class To>
struct PlaneVector {
    Finish finish;
    F scale, added;
    const From* x;
    const float* noise;
    To* out;

    template <bool whole>
    PIX2GAN_INLINE void run(int64_t i, int64_t n) const {
        F v = load_some<whole>(x + i, n) * scale + added;
        if (noise != nullptr) v += load_some<whole>(noise + i, n);
        store_some<whole>(out + i, finish.apply<kind, From, To>(v), n);
    }
};

template <Kind kind, class From, class To>
void planes(const ScaleAct& k, const ScaleActPart& part) {
    const int64_t pixels = k.h * k.w, first = part.first;
    for (int64_t c = 0; c < part.channels; c++) {
        const int64_t plane = part.c + c;
        const PlaneVector<kind, From, To> vector = {
            finish_of(k),
            splat(part.scale[c]),
            splat(part.added[c]),
            static_cast<const From*>(k.x) + part.n * k.x_image + plane * k.x_plane + first,
            k.noise != nullptr ? k.noise + part.n * k.noise_image + first : nullptr,
            static_cast<To*>(k.out) + (part.n * k.c + plane) * pixels + first};
        for_vectors(part.last - first, vector);
    }
}

// -------------------------------------------------------------------------------- images to images

template <Kind kind, class From, class To>
struct ImageVector {
    Finish finish;
    const float *scale, *added;
    F noise;
    const From* x;
    To* out;

    template <bool whole>
    PIX2GAN_INLINE void run(int64_t i, int64_t n) const {
        const F sum = load_some<whole>(added + i, n) + noise;
        const F v = load_some<whole>(x + i, n) * load_some<whole>(scale + i, n) + sum;
        store_some<whole>(out + i, finish.apply<kind, From, To>(v), n);
    }
};

template <Kind kind, class From, class To>
void images(const ScaleAct& k, const ScaleActPart& part) {
    const Finish finish = finish_of(k);
    const int64_t image = part.n * k.h * k.w, channels = k.c;
    const From* x = static_cast<const From*>(k.x) + (image + part.first) * channels;
    To* out = static_cast<To*>(k.out) + (image + part.first) * channels;
    const float* noise =
        k.noise != nullptr ? k.noise + part.n * k.noise_image + part.first : nullptr;
    const int64_t pixels = part.last - part.first;
    if (channels >= lanes) {
        for (int64_t i = 0; i < pixels; i++)
            for_vectors(channels,
                        ImageVector<kind, From, To>{finish, part.scale, part.added,
                                                    noise != nullptr ? splat(noise[i]) : F{},
                                                    x + i * channels, out + i * channels});
        return;
    }
    // Few channels: as many pixels at a time as make whole vectors.
    const int64_t group = lanes;
    float scale[lanes * lanes], added[lanes * lanes];
    for (int64_t i = 0; i < group; i++) {
        for (int64_t c = 0; c < channels; c++) {
            scale[i * channels + c] = part.scale[c];
            added[i * channels + c] = part.added[c];
        }
    }
    for (int64_t i = 0; i < pixels; i += group) {
        const int64_t n = smaller(group, pixels - i);
        if (noise != nullptr)
            for (int64_t j = 0; j < n; j++)
                for (int64_t c = 0; c < channels; c++)
                    added[j * channels + c] = part.added[c] + noise[i + j];
        for_vectors(n * channels,
                    ImageVector<kind, From, To>{finish, scale, added, F{}, x + i * channels,
                                                out + i * channels});
    }
}

// ------------------------------------------------------------------ from one layout to the other

// `lanes` channels of as many pixels. From planes a row is a channel, from an image it is a pixel;
// in out it is the other way round.
template <class From, class To>
struct Tile {
    const From* x;
    int64_t x_row;
    To* out;
    int64_t out_row;
    const float *scale, *added;  // of the channels
    const float* noise;          // of the pixels, or null
};

template <Kind kind, bool from_planes, class From, class To>
PIX2GAN_OUTLINE void move_tile(const Finish& call, const Tile<From, To>& tile) {
    const Finish finish = call;
    const float* noise = tile.noise;
    F row[lanes];
    if (from_planes) {
        const F behind = noise != nullptr ? load(noise) : F{};
        for (int64_t i = 0; i < lanes; i++) {
            const F v = load(tile.x + i * tile.x_row) * tile.scale[i] + (behind + tile.added[i]);
            row[i] = finish.apply<kind, From, To>(v);
        }
    } else {
        const F scale = load(tile.scale), added = load(tile.added);
        for (int64_t i = 0; i < lanes; i++) {
            const F behind = noise != nullptr ? added + noise[i] : added;
            row[i] = finish.apply<kind, From, To>(load(tile.x + i * tile.x_row) * scale + behind);
        }
    }
    transpose(row);
    for (int64_t i = 0; i < lanes; i++) store(tile.out + i * tile.out_row, row[i]);
}

// A tile of which only `rows` rows of `columns` elements are there.
template <Kind kind, bool from_planes, class From, class To>
PIX2GAN_OUTLINE void move_partial_tile(const Finish& finish, const Tile<From, To>& tile,
                                       int64_t rows, int64_t columns) {
    From x[lanes * lanes] = {};
    To out[lanes * lanes];
    float scale[lanes] = {}, added[lanes] = {}, noise[lanes] = {};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) x[i * lanes + j] = tile.x[i * tile.x_row + j];
    for (int64_t i = 0; i < (from_planes ? rows : columns); i++)
        scale[i] = tile.scale[i], added[i] = tile.added[i];
    for (int64_t i = 0; tile.noise != nullptr && i < (from_planes ? columns : rows); i++)
        noise[i] = tile.noise[i];
    move_tile<kind, from_planes, From, To>(finish, {x, lanes, out, lanes, scale, added, noise});
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) tile.out[j * tile.out_row + i] = out[j * lanes + i];
}

// In blocks of tiles of about a cache line either way, so that every line is read and written as a
// whole while the innermost cache holds it.
template <Kind kind, bool from_planes, class From, class To>
void transposed(const ScaleAct& k, const ScaleActPart& part) {
    constexpr int64_t side = lanes > 32 ? lanes : 32;
    const Finish finish = finish_of(k);
    const int64_t plane = k.h * k.w, image = part.n * plane * k.c;
    const From* x = static_cast<const From*>(k.x) + (from_planes ? part.n * k.x_image : image);
    To* out = static_cast<To*>(k.out) + image;
    const float* noise = k.noise != nullptr ? k.noise + part.n * k.noise_image : nullptr;
    const int64_t x_row = from_planes ? k.x_plane : k.c, out_row = from_planes ? k.c : plane;
    for (int64_t c0 = 0; c0 < k.c; c0 += side) {
        for (int64_t p0 = part.first; p0 < part.last; p0 += side) {
            const int64_t c1 = smaller(c0 + side, k.c), p1 = smaller(p0 + side, part.last);
            for (int64_t c = c0; c < c1; c += lanes) {
                for (int64_t p = p0; p < p1; p += lanes) {
                    const Tile<From, To> tile = {
                        from_planes ? x + c * x_row + p : x + p * x_row + c,
                        x_row,
                        from_planes ? out + p * out_row + c : out + c * out_row + p,
                        out_row,
                        part.scale + c,
                        part.added + c,
                        noise != nullptr ? noise + p : nullptr};
                    const int64_t rows = from_planes ? c1 - c : p1 - p;
                    const int64_t columns = from_planes ? p1 - p : c1 - c;
                    if (rows >= lanes && columns >= lanes)
                        move_tile<kind, from_planes>(finish, tile);
                    else
                        move_partial_tile<kind, from_planes>(finish, tile, smaller(rows, lanes),
                                                             smaller(columns, lanes));
                }
            }
        }
    }
}

// -------------------------------------------------------------------------------------- the weight

template <class From, class To>
void scale_weight(const void* from, const int64_t* offset, float scale, const float* scales,
                  void* to, int64_t n) {
    const From* w = static_cast<const From*>(from);
    To* out = static_cast<To*>(to);
    for (int64_t i = 0; i < n; i += lanes) {
        const int64_t count = smaller(lanes, n - i);
        From gathered[lanes] = {};
        if (offset != nullptr)
            for (int64_t j = 0; j < count; j++) gathered[j] = w[offset[i + j]];
        if (count == lanes) {
            const F v = offset != nullptr ? load(gathered) : load(w + i);
            store(out + i, v * (load(scales + i) * scale));
        } else {
            const F v = offset != nullptr ? load(gathered) : load_first(w + i, count);
            store_first(out + i, v * (load_first(scales + i, count) * scale), count);
        }
    }
}

// ------------------------------------------------------------------------------------------ tables

template <Kind kind, class From, class To>
ScaleActLoop for_layouts(const ScaleAct& k) {
    if (k.from_channels_last)
        return k.to_channels_last ? images<kind, From, To> : transposed<kind, false, From, To>;
    return k.to_channels_last ? transposed<kind, true, From, To> : planes<kind, From, To>;
}

// Of operands, which are only scaled.
inline ScaleActLoop find_operand(const ScaleAct& k) {
    if (k.from == Type::bfloat16) return for_layouts<activation::linear, bfloat16, float>(k);
    return for_layouts<activation::linear, float16, float>(k);
}

// Of results: half precision comes as float where it is not convolved itself.
template <Kind kind>
ScaleActLoop find_result(const ScaleAct& k) {
    if (k.from == Type::bfloat16) return for_layouts<kind, bfloat16, bfloat16>(k);
    if (k.to == Type::bfloat16) return for_layouts<kind, float, bfloat16>(k);
    if (k.to == Type::float16) return for_layouts<kind, float, float16>(k);
    return for_layouts<kind, float, float>(k);
}

inline ScaleActLoop find(const ScaleAct& k) {
    if (k.from != k.to && k.to == Type::float32) return find_operand(k);
    if (k.act == Act::linear) return find_result<activation::linear>(k);
    if (k.act == Act::relu) return find_result<activation::relu>(k);
    if (k.act == Act::lrelu) return find_result<activation::lrelu>(k);
    return find_result<activation::any>(k);
}

inline ScaleWeightLoop find_weight(Type from, Type to) {
    if (from == Type::bfloat16)
        return to == Type::float32 ? scale_weight<bfloat16, float>
                                   : scale_weight<bfloat16, bfloat16>;
    if (from == Type::float16) return scale_weight<float16, float>;
    if (to == Type::bfloat16) return scale_weight<float, bfloat16>;
    if (to == Type::float16) return scale_weight<float, float16>;
    return scale_weight<float, float>;
}

}  // namespace scale_act_loops
