// scale_act and scale_weight, what surrounds a convolution, cut into parts.

#include <cstring>

#include "loops.h"

namespace pix2gan::cpu {
namespace {

struct ScaleParts {
    const ScaleAct& k;
    ScaleActLoop loop;
    const float* scale;  // [n, c], or [c] with an image stride of 0
    int64_t scale_image;
    const float* added;             // [c]
    int64_t channels, pixels;       // of one part, at most
    int64_t across, along, images;  // parts of an image, and images

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / (across * along), part = i % (across * along);
            const int64_t c = part / along * channels, first = part % along * pixels;
            loop(k, {n, c, smaller(channels, k.c - c), first, smaller(first + pixels, k.h * k.w),
                     scale + n * scale_image + c, added + c});
        }
    }
};

}  // namespace

void scale_act(const ScaleAct& k, const Workers& workers) {
    const int64_t plane = k.h * k.w, total = k.n * k.c * plane;
    if (total == 0) return;
    Scratch<float> ones(k.c), zeros(k.c);
    for (int64_t c = 0; c < k.c; c++) ones[c] = 1, zeros[c] = 0;
    ScaleParts parts = {k,
                        best_loops().scale_act(k),
                        k.scale != nullptr ? k.scale : ones.get(),
                        k.scale != nullptr ? k.c : 0,
                        k.b != nullptr ? k.b : zeros.get(),
                        k.c,
                        plane,
                        1,
                        1,
                        k.n};
    constexpr int64_t elements = task_elements / 2;
    if (!k.from_channels_last && !k.to_channels_last) {  // along the planes
        parts.channels = smaller(k.c, larger(1, elements / plane));
        parts.pixels = smaller(plane, elements);
    } else {
        parts.pixels = smaller(plane, ceil_div(larger(1, elements / k.c), 32) * 32);
    }
    parts.across = ceil_div(k.c, parts.channels);
    parts.along = ceil_div(plane, parts.pixels);
    const int64_t count = k.n * parts.across * parts.along;
    if (total < elements) return parts(0, count);
    run(workers, count, parts);
}

namespace {

struct ScaleRows {
    const ScaleWeight& k;
    ScaleWeightLoop loop;
    const int64_t* offset;
    const float* scales;
    int64_t row;  // elements

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++)
            loop(at(k.w, i * k.strides[0], k.from), offset, k.first != nullptr ? k.first[i] : 1.0f,
                 scales, at(k.out, i * row, k.to), row);
    }
};

}  // namespace

void scale_weight(const ScaleWeight& k, const Workers& workers) {
    const int64_t columns = k.size[1], kh = k.size[2], kw = k.size[3];
    const int64_t taps = kh * kw, row = columns * taps;
    if (k.size[0] * row == 0) return;
    // Where the elements of a row of out come from, and the scales of their columns.
    Scratch<int64_t> offset(row);
    Scratch<float> scales(row);
    bool same = true;
    for (int64_t i = 0; i < row; i++) {
        const int64_t column = k.channels_last ? i % columns : i / taps;
        const int64_t tap = k.channels_last ? i / columns : i % taps;
        offset[i] = column * k.strides[1] + tap / kw * k.strides[2] + tap % kw * k.strides[3];
        scales[i] = k.second != nullptr ? k.second[column] : 1.0f;
        same = same && offset[i] == i;
    }
    const ScaleRows rows = {k, best_loops().scale_weight(k.from, k.to),
                            same ? nullptr : offset.get(), scales.get(), row};
    if (k.size[0] * row < task_elements / 2) return rows(0, k.size[0]);
    run(workers, k.size[0], rows);
}

}  // namespace pix2gan::cpu
