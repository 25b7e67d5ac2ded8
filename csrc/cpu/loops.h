// The innermost loops, compiled once per instruction set, and how the rest finds them.
//
// <op>.cpp cuts an op into tasks and merges what they return; it is compiled once, for any
// processor. <op>_loops.h holds what takes the time, for one element type and activation; it is
// compiled for every instruction set (isa_*.cpp), and `Loops` is the table of the results.

#pragma once

#include "../elements.h"
#include "../kernels.h"
#include "tasks.h"

namespace pix2gan::cpu {

// y = act((x - mean) * scale + shift), for one channel.
struct Affine {
    float mean, scale, shift;
};

// The loops of bias_act for one order, type and activation.
struct BiasActLoops {
    // Elements [begin, end), with the bias b or, where `bias` is not null, with bias[i - begin].
    void (*span)(const BiasAct&, int64_t begin, int64_t end, float b, const float* bias);
};

// The loops of instance normalisation for one type and activation.
struct InstanceNormLoops {
    Moments (*moments)(const void* x, int64_t elements);
    // Rows [first, last) of one plane, and the padding that is copied from them.
    void (*normalise_plane)(const InstanceNormAct&, const void* x, const void* residual, void* y,
                            int64_t first, int64_t last, const Affine&);
    // Channels-last: `channels` of the channels of pixels that lie `stride` elements apart; sums is
    // [3, channels], a shift and the sums of x - shift and its square.
    void (*sum_pixels)(const void* x, int64_t pixels, int64_t stride, int64_t channels,
                       float* sums);
    // affine is [3, channels] or longer: mean, scale, shift.
    void (*normalise_image)(const InstanceNormAct&, const void* x, const void* residual, void* y,
                            int64_t first, int64_t last, const float* affine);
};

// The gradient: what it needs of one channel, and the two sums.
struct GradAffine {
    float mean, scale, bias, slope, offset;
};
struct GradSums {
    double s1, s2;
};

// Along one axis: the padded positions that pixel i is copied to are position[start[i]] to
// position[start[i + 1] - 1], its own one, i + pad, first.
struct Copies {
    const int64_t *start, *position;
};

// Rows of a contiguous plane of which a buffer holds the gradient at a time have this many
// elements.
constexpr int64_t grad_group_elements = 4096;
// Behind the sums of all channels lie those of the block that may overlap the last ones.
constexpr int64_t grad_extra = 32;

struct InstanceNormGradLoops {
    // buffer: [max(grad_group_elements, w)]
    GradSums (*sum_plane)(const InstanceNormActGrad&, const Copies& rows, const void* x,
                          const void* dy, int64_t first, int64_t last, const GradAffine&,
                          float* buffer);
    void (*write_plane)(const InstanceNormActGrad&, const Copies& rows, const void* x,
                        const void* dy, void* dx, int64_t first, int64_t last, const GradAffine&,
                        float* buffer);
    // Channels-last: affine is [5, channels] as GradAffine, sums [2, channels + grad_extra], buffer
    // [w, channels].
    void (*sum_image)(const InstanceNormActGrad&, const Copies& rows, const Copies& columns,
                      const void* x, const void* dy, int64_t first, int64_t last,
                      const float* affine, float* sums, float* buffer);
    void (*write_image)(const InstanceNormActGrad&, const Copies& rows, const Copies& columns,
                        const void* x, const void* dy, void* dx, int64_t first, int64_t last,
                        const float* affine, float* buffer);
};

// upfirdn2d as a sum of separable terms, one for most filters: out = sum over terms of fy (x) fx.
// Rows are combined first, as floats into a buffer, with the coefficients of fy; then its columns
// are, with those of fx.
struct Upfirdn2dPlan {
    const Upfirdn2d& k;
    int64_t terms;
    const float *fy, *fx;        // [terms, filter_h] and [terms, filter_w], to correlate with
    const Taps *rows, *columns;  // [out_h] and [out_w], within the image
    int64_t inner_first = 0, inner_last = 0;  // output rows all of whose taps lie within the image
    // Contiguous planes: buffers of a term lie `stride` apart, pixel 0 at `margin`. Zeros around it
    // stand for what is outside of the image. Halving splits a buffer into even and odd pixels,
    // the odd ones `half` behind the even ones.
    int64_t stride = 0, margin = 0, half = 0;
    // With one term, the buffers of so many output rows lie one behind the other; else 0.
    int64_t group = 0;
    // Channels-last: so many output columns at a time.
    int64_t tile = 0;

    bool halves() const { return k.up_x == 1 && k.down_x == 2; }
    bool doubles() const { return k.up_x == 2 && k.down_x == 1; }
    bool direct() const { return (k.up_x == 1 && k.down_x <= 2) || doubles(); }
};

// Output rows [first, last) of a plane or of a channels-last image.
using Upfirdn2dImageLoop = void (*)(const Upfirdn2dPlan&, const void* x, void* out, int64_t first,
                                    int64_t last, float* buffer);

struct Upfirdn2dLoops {
    // buffer: zeros, [max(terms, group), stride].
    Upfirdn2dImageLoop filter_plane, filter_image;
    // Whether filter_image is one that moves a window; of zeros the buffer has [w, c].
    bool windows;
};

// Pixels [first, last) of channels [c, c + channels) of image n; scale [channels] and added
// [channels] are those of them.
struct ScaleActPart {
    int64_t n, c, channels, first, last;
    const float *scale, *added;
};
using ScaleActLoop = void (*)(const ScaleAct&, const ScaleActPart&);

// out[i] = w[offset[i]] * scale * scales[i], i < n; offset null: w[i].
using ScaleWeightLoop = void (*)(const void* w, const int64_t* offset, float scale,
                                 const float* scales, void* out, int64_t n);

// Elements [begin, end).
using AdamLoop = void (*)(const AdamStep&, int64_t begin, int64_t end);

// Rows [first, last) of out.
using SumRowsLoop = void (*)(const SumRows&, int64_t first, int64_t last);

// The matrix of a thin product is cut into rows of this number or, where they are summed up, into
// columns.
constexpr int64_t thin_product_block = 4, thin_product_tile = 512;
using ThinProductLoop = void (*)(const ThinProduct&, int64_t first, int64_t last);

struct Loops {
    const char* name;
    int64_t lanes;
    BiasActLoops (*bias_act)(int32_t order, Type, Act);
    InstanceNormLoops (*instance_norm)(Type, Act, bool with_residual);
    InstanceNormGradLoops (*instance_norm_grad)(Type, Act);
    Upfirdn2dLoops (*upfirdn2d)(const Upfirdn2d&, bool one_term);
    ScaleActLoop (*scale_act)(const ScaleAct&);
    ScaleWeightLoop (*scale_weight)(Type from, Type to);
    AdamLoop (*adam)(const AdamStep&);
    SumRowsLoop (*sum_rows)(const SumRows&);
    ThinProductLoop (*thin_product)(ThinProduct::Form);
    // One more chunk of `pixels` sums as above into the mean and m2 [channels] of `count` pixels.
    void (*merge_sums)(const float* sums, int64_t channels, double pixels, double count,
                       double* mean, double* m2);
    // The affine map of image n, and its rstd, from mean and m2 [c]: affine is [4, c].
    void (*finish_channels)(const InstanceNormAct&, int64_t n, const double* mean, const double* m2,
                            float* affine);
};

namespace baseline {
extern const Loops table;  // 4 lanes, any processor
}
#if defined(__x86_64__)
namespace avx2 {
extern const Loops table;  // 8 lanes
}
namespace avx512 {
extern const Loops table;  // 16 lanes
}
namespace avx512_bf16 {
extern const Loops table;  // 16 lanes
}
#endif

// The loops for this machine; with channels-last tensors vectors no longer than there are channels.
const Loops& best_loops();
const Loops& best_loops_for_channels(int64_t channels);

// Rows of an image, cut into chunks: by shape alone, never by the number of threads.
struct Chunks {
    int64_t height, rows, count;

    Chunks(int64_t height, int64_t row_elements, int64_t least_rows = 1)
        : height(height),
          rows(smaller(height, larger(least_rows, task_elements / larger(row_elements, 1)))),
          count(ceil_div(height, rows)) {}

    int64_t begin(int64_t chunk) const { return chunk * rows; }
    int64_t end(int64_t chunk) const { return smaller(begin(chunk) + rows, height); }
};

inline int64_t size_of(Type type) { return type == Type::float32 ? 4 : 2; }

inline const void* at(const void* from, int64_t elements, Type type) {
    return static_cast<const char*>(from) + elements * size_of(type);
}
inline void* at(void* to, int64_t elements, Type type) {
    return static_cast<char*>(to) + elements * size_of(type);
}

}  // namespace pix2gan::cpu
