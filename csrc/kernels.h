// What the kernels are called with: plain structs and launchers, free of torch and of any device.
//
// A launcher trusts its struct. binding.cpp has checked shapes, dtypes and devices, has made every
// tensor dense, and has allocated nothing: the outputs are the caller's.
//
// Sizes are elements, never bytes, and 64-bit throughout. A tensor is "channels-last" when its
// memory is [n, h, w, c] without gaps; otherwise it is [n, c, h, w], and where a struct has
// `x_image` and `x_plane` these are the strides between images and between planes, which may have
// gaps (a slice of channels); the planes themselves are dense.

#pragma once

#include <cstdint>

namespace pix2gan {

enum class Type : int32_t { float32, bfloat16, float16 };

enum class Act : int32_t { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

enum class Pad : int32_t { reflect, replicate, zeros };

// Threads, lent by the caller. `run` calls `work` on ranges that cover [0, tasks) once, each range
// on one thread, and returns when all are done. Kernels cut work into tasks by shape alone, and
// merge partial results in order, so that results do not depend on the number of threads.
struct Workers {
    void (*run)(int64_t tasks, void (*work)(int64_t begin, int64_t end, void* context),
                void* context);
    int64_t count;
};

// A CUDA stream, lent by the caller. Kernels are queued on it. Scratch memory lies on the device,
// aligned for any vector, and stays until all that is queued during one call has run.
struct Stream {
    void* handle;  // cudaStream_t
    void* (*scratch)(int64_t bytes, void* context);
    void* context;
};

// order 0: out = clip(gain * act(x + b), +-clamp)
// order 1: out = dy * dy/dv, from y for linear, relu and lrelu, from v = x + b for the others
// order 2: out = ddx * dy * d2y/dv2, from v = x + b
struct BiasAct {
    int32_t order;
    Type type;
    Act act;
    float alpha, gain, clamp;        // clamp < 0: none
    int64_t outer, channels, inner;  // every tensor is dense [outer, channels, inner]
    const float* b;                  // [channels], or null
    const void *x, *y, *dy, *ddx;    // null where the order and the activation do not need them
    void* out;
};

// out[n, c, oy, ox] = gain * sum of f[ky, kx] * up(x)[oy * down_y + ky - pad_y, ...], in words:
// zeros inserted after each sample, padded or cropped, correlated with f, every down-th sample
// kept.
struct Upfirdn2d {
    Type type;
    bool channels_last;
    int64_t n, c, h, w, out_h, out_w;
    int64_t x_image, x_plane;
    const float* f;  // [filter_h, filter_w], or [filter_w] where separable
    int64_t filter_h, filter_w;
    bool separable;  // f is applied along both axes
    bool correlate;  // false: convolve, that is, flip f
    int64_t up_x, up_y, down_x, down_y, pad_x, pad_y;
    float gain;
    const void* x;
    void* out;
};

// Per plane (n, c): mean and m2, the sum of squared deviations from it.
struct InstanceNormStats {
    Type type;
    bool channels_last;
    int64_t n, c, h, w;
    int64_t x_image, x_plane;
    const void* x;
    float *mean, *m2;  // [n, c]
};

// y = pad(residual + act(weight * (x - mean) * rstd + bias))
struct InstanceNormAct {
    Type type;
    bool channels_last;
    Act act;
    Pad pad_mode;
    float alpha, eps;
    int64_t n, c, h, w, pad;
    int64_t x_image, x_plane;
    const float *weight, *bias;  // null, or [n, c] with an image stride of 0 for [c]
    int64_t weight_image, bias_image;
    const float *given_mean, *given_rstd;  // [n, c], or null: computed from x
    const void* x;
    const void* residual;  // dense, in x's memory format, or null
    void* y;               // [n, c, h + 2 pad, w + 2 pad]
    float *mean, *rstd;    // [n, c]
};

// With g = the adjoint of padding applied to dy, v = weight * xhat + bias, gv = g * act'(v):
//   dbias = sum gv, dweight = sum gv * xhat,
//   dx = weight * rstd * (gv - (dbias + xhat * dweight) / (h * w)), or weight * rstd * gv if frozen
struct InstanceNormActGrad {
    Type type;
    bool channels_last;
    Act act;
    Pad pad_mode;
    bool frozen;
    float alpha;
    int64_t n, c, h, w, pad;
    int64_t x_image, x_plane;
    const float *weight, *bias;
    int64_t weight_image, bias_image;
    const float *mean, *rstd;  // [n, c]
    const void *dy, *x;
    void* dx;
    float *dweight, *dbias;  // [n, c]
};

// out = clip(gain * act(x * scale + noise + b), +-clamp), in a type and layout that may differ from
// x's: brings the operand of a convolution into those that it is convolved in, scaled by the
// styles, and finishes its result.
struct ScaleAct {
    // float32 or bfloat16 both, or float32 and one in half precision; only scaled if `from` is that
    Type from, to;
    bool from_channels_last, to_channels_last;
    Act act;
    float alpha, gain, clamp;  // clamp < 0: none
    int64_t n, c, h, w;
    int64_t x_image, x_plane;
    const float* scale;  // [n, c], or null
    const float* noise;  // [n, h, w], with an image stride of 0 for [1, h, w], or null
    int64_t noise_image;
    const float* b;  // [c], or null
    const void* x;
    void* out;  // dense
};

// out[i, j, y, x] = w[i, j, y, x] * first[i] * second[j]: the weight of a convolution, or its
// gradient.
struct ScaleWeight {
    Type from, to;       // as above
    bool channels_last;  // of out, which is dense
    int64_t size[4], strides[4];
    const float *first, *second;  // or null
    const void* w;
    void* out;
};

// One step of Adam with g = scale * gradient, on rows of n elements:
//   mean += (1 - beta1) * (g - mean), square = beta2 * square + (1 - beta2) * g^2,
//   w -= rate * mean / (sqrt(square) * root + eps), rounded = w in bfloat16,
//   average += share * (w - average)
// The bias corrections are in rate and root.
struct AdamStep {
    Type type;  // of the gradient: float32 or bfloat16
    int64_t n;
    float rate, beta1, beta2, root, eps, scale, share;
    const void* gradient;
    float *w, *mean, *square;
    void* rounded;   // or null
    float* average;  // or null
};

// out[i] = sum over j of x[index[i, j]]: rows of `columns` elements. The index `rows` stands for a
// row of zeros.
struct SumRows {
    Type type;
    int64_t rows, columns;  // of x, dense
    int64_t count, terms;   // index is [count, terms]
    const int64_t* index;
    const void* x;
    void* out;  // [count, columns]
};

// A few rows of bfloat16 and a matrix [n, k], all dense: k is a multiple of 32, n of 4.
struct ThinProduct {
    enum class Form : int32_t {
        times_transposed,  // out [p, n] = a [p, k] times b [n, k], transposed
        times,             // out [p, k] = a [p, n] times b [n, k]
        transposed_times,  // out [n, k] = a [p, n], transposed, times b [p, k]
    };
    Form form;
    int64_t p, n, k;
    const void *a, *b;
    void* out;
};

namespace cpu {

void bias_act(const BiasAct&, const Workers&);
void upfirdn2d(const Upfirdn2d&, const Workers&);
void instance_norm_stats(const InstanceNormStats&, const Workers&);
void instance_norm_act(const InstanceNormAct&, const Workers&);
void instance_norm_act_grad(const InstanceNormActGrad&, const Workers&);
void scale_act(const ScaleAct&, const Workers&);
void scale_weight(const ScaleWeight&, const Workers&);
void adam_step(const AdamStep&, const Workers&);
void sum_rows(const SumRows&, const Workers&);
void thin_product(const ThinProduct&, const Workers&);

// Whether PyTorch's convolution of this type is fast here, and not one that is emulated.
bool convolves(Type);

// The instruction set in use: "avx512_bf16", "avx512", "avx2" or "baseline".
const char* instruction_set();

// Use another one, for tests and measurements; false where this machine or build lacks it.
bool use_instruction_set(const char* name);

}  // namespace cpu

// On the device that is current. What CUDA reports is thrown as std::runtime_error.
namespace cuda {

void bias_act(const BiasAct&, const Stream&);
void upfirdn2d(const Upfirdn2d&, const Stream&);
void instance_norm_stats(const InstanceNormStats&, const Stream&);
void instance_norm_act(const InstanceNormAct&, const Stream&);
void instance_norm_act_grad(const InstanceNormActGrad&, const Stream&);
void scale_act(const ScaleAct&, const Stream&);
void scale_weight(const ScaleWeight&, const Stream&);
bool convolves(Type);

}  // namespace cuda
}  // namespace pix2gan
