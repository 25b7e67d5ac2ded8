// The native kernels as PyTorch ops, over LibTorch's stable ABI: one build serves torch 2.10 and
// later, whatever the Python.
//
// The ops mirror the primitives that pix2gan.ops dispatches: they fill `out` and return nothing.
// This is the only file that knows torch. It checks what the kernels trust, brings tensors into the
// dense layouts that they take (no copy where one has it already), and lends them torch's threads
// or its stream. It is compiled once for each kind of device: the sections "devices" and
// "registration" are all that differs.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

using pix2gan::Act;
using pix2gan::Pad;
using pix2gan::Type;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

// ------------------------------------------------------------------------------------- arguments

Type type_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case ScalarType::Float:
            return Type::float32;
        case ScalarType::BFloat16:
            return Type::bfloat16;
        case ScalarType::Half:
            return Type::float16;
        default:
            STD_TORCH_CHECK(false, "pix2gan's native kernels take float32, bfloat16 and float16");
    }
}

Act act_of(const std::string& name) {
    static const char* const names[] = {"linear", "relu", "lrelu",    "tanh", "sigmoid",
                                        "elu",    "selu", "softplus", "swish"};
    for (int32_t i = 0; i < 9; i++)
        if (name == names[i]) return static_cast<Act>(i);
    STD_TORCH_CHECK(false, "pix2gan knows no activation named ", name);
}

Pad pad_of(const std::string& name, int64_t pad, int64_t height, int64_t width) {
    if (name == "reflect") {
        STD_TORCH_CHECK(pad == 0 || (pad < height && pad < width),
                        "reflection padding must be smaller than the image");
        return Pad::reflect;
    }
    if (name == "replicate") return Pad::replicate;
    STD_TORCH_CHECK(name == "zeros", "pix2gan knows no padding named ", name);
    return Pad::zeros;
}

void check_type(const Tensor& t, ScalarType type, const char* name) {
    STD_TORCH_CHECK(t.scalar_type() == type, name, " has the wrong dtype");
}

void check_shape(const Tensor& t, std::initializer_list<int64_t> shape, const char* name) {
    bool same = t.dim() == static_cast<int64_t>(shape.size());
    int64_t axis = 0;
    for (int64_t size : shape) same = same && t.size(axis++) == size;
    STD_TORCH_CHECK(same, name, " has the wrong shape");
}

// --------------------------------------------------------------------------------------- devices

#if defined(PIX2GAN_CUDA)

namespace kernels = pix2gan::cuda;

// Kernels take channels-last images of so many channels and more.
constexpr int64_t least_channels = 1;

// The layout to convolve in: tensor cores take half precision channels-last.
bool convolves_channels_last(Type type, bool is_channels_last, bool, int64_t) {
    return is_channels_last || type != Type::float32;
}
// Whether a convolution of contiguous images, pixel by pixel, is a product of matrices.
constexpr bool multiplies_pixels = false;
// and the gradient of a weight with so many channels and more
constexpr int64_t least_wgrad_channels = 1;
// Many small convolutions cost a GPU more than scaling the larger tensor, and a weight's gradient
// that is rounded before it is scaled is less exact.
constexpr bool sample_by_sample = false;

// The current stream of x's device, which is the current device as long as this lives, and memory
// from torch's allocator: freed when this dies, it goes to nobody else before the stream is done.
class Device {
  public:
    explicit Device(const Tensor& x) : x_(x) {
        const int32_t index = x.get_device();
        if (index >= 0) guard_.emplace(index);
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream_.handle));
        stream_.scratch = [](int64_t bytes, void* self) {
            return static_cast<Device*>(self)->scratch(bytes);
        };
        stream_.context = this;
    }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const pix2gan::Stream& lent() const { return stream_; }

  private:
    void* scratch(int64_t bytes) {
        memory_.push_back(torch::stable::new_empty(x_, {bytes}, ScalarType::Byte));
        return memory_.back().mutable_data_ptr();
    }

    const Tensor& x_;
    std::optional<torch::stable::accelerator::DeviceGuard> guard_;
    pix2gan::Stream stream_{};
    std::vector<Tensor> memory_;
};

#else

namespace kernels = pix2gan::cpu;

constexpr int64_t least_channels = 4;

// The layout to convolve in: channels-last is as fast or faster where the larger image has 32 x 32
// pixels, and slower where it has less, much slower for the gradient of a weight. What is a product
// of matrices stays as it is.
bool convolves_channels_last(Type, bool is_channels_last, bool by_pixels, int64_t pixels) {
    return pixels >= 32 * 32 && (is_channels_last || !by_pixels);
}
constexpr bool multiplies_pixels = true;
// and with fewer channels that gradient is not vectorised in bfloat16
constexpr int64_t least_wgrad_channels = 16;
// Whether weights may be scaled instead of images, sample by sample.
constexpr bool sample_by_sample = true;

class Device {
  public:
    explicit Device(const Tensor&) {}

    // torch's threads
    const pix2gan::Workers& lent() const {
        static thread_local pix2gan::Workers workers;
        workers.run = [](int64_t tasks, void (*work)(int64_t, int64_t, void*), void* context) {
            torch::stable::parallel_for(
                0, tasks, 1, [&](int64_t begin, int64_t end) { work(begin, end, context); });
        };
        workers.count = torch::stable::get_num_threads();
        return workers;
    }
};

#endif

// --------------------------------------------------------------------------------------- layouts

// Strides of a dense tensor with the last axis of `order` innermost; axes of size 1 may have any.
bool is_dense(const Tensor& t, std::initializer_list<int64_t> order) {
    int64_t expected = 1;
    for (const int64_t* axis = order.end(); axis-- != order.begin();) {
        if (t.size(*axis) != 1 && t.stride(*axis) != expected) return t.numel() == 0;
        expected *= t.size(*axis);
    }
    return true;
}

bool is_channels_last(const Tensor& t) { return t.dim() == 4 && is_dense(t, {0, 2, 3, 1}); }

Tensor dense(const Tensor& t, bool channels_last) {
    if (channels_last ? is_channels_last(t) : t.is_contiguous()) return t;
    return torch::stable::contiguous(
        t, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// The layout in which an op from image to image is computed. With fewer channels than the kernels
// take channels-last, the result is computed contiguous and copied.
struct Image {
    bool channels_last;
    Tensor out;  // what to fill

    Image(const Tensor& x, const Tensor& result)
        : channels_last(is_channels_last(x) && is_channels_last(result) &&
                        x.size(1) >= least_channels),
          out(result) {
        if (channels_last || result.is_contiguous()) return;
        STD_TORCH_CHECK(is_channels_last(result), "out must be dense");
        out = torch::stable::new_empty(result, result.sizes(), result.scalar_type());
    }
    void finish(Tensor result) const {
        if (out.const_data_ptr() != result.const_data_ptr()) torch::stable::copy_(result, out);
    }
};

// Contiguous planes with any strides between them, such as a slice of channels has.
bool has_dense_planes(const Tensor& t) {
    return (t.size(3) == 1 || t.stride(3) == 1) && (t.size(2) == 1 || t.stride(2) == t.size(3));
}

bool is_floating(const Optional& t) {
    if (!t.has_value()) return true;
    const ScalarType type = t->scalar_type();
    return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
           type == ScalarType::BFloat16;
}

// Small arguments in float32, dense.
Optional as_float(const Optional& t) {
    if (!t.has_value()) return t;
    Tensor converted = *t;
    if (converted.scalar_type() != ScalarType::Float)
        converted = torch::stable::to(converted, ScalarType::Float);
    return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

const float* floats(const Optional& t) {
    return t.has_value() ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}

const void* data(const Optional& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

// -------------------------------------------------------------------------------------- bias_act

// The tensors of one call in one dense layout: x's own where out has it too, else contiguous.
struct Elementwise {
    const Tensor& out;
    bool channels_last;
    pix2gan::BiasAct k{};
    Optional b;

    Elementwise(int32_t order, const Optional& bias, int64_t dim, const std::string& act,
                double alpha, double gain, double clamp, const Tensor& result)
        : out(result), channels_last(!result.is_contiguous() && is_channels_last(result)) {
        STD_TORCH_CHECK(channels_last || out.is_contiguous(), "out must be dense");
        k.order = order;
        k.type = type_of(out);
        k.act = act_of(act);
        k.alpha = static_cast<float>(alpha);
        k.gain = static_cast<float>(gain);
        k.clamp = static_cast<float>(clamp);
        k.out = out.mutable_data_ptr();
        k.outer = k.inner = 1;
        k.channels = out.numel();
        b = as_float(bias);
        if (!b.has_value()) return;
        STD_TORCH_CHECK(dim >= 0 && dim < out.dim(), "dim is not an axis of x");
        check_shape(*b, {out.size(dim)}, "b");
        k.b = floats(b);
        k.channels = out.size(dim);
        for (int64_t axis = 0; axis < out.dim(); axis++) {
            if (axis == dim) continue;
            // In channels-last order axis 1 is the innermost, the others keep theirs.
            const bool within = channels_last ? axis == 1 || (dim != 1 && axis > dim) : axis > dim;
            (within ? k.inner : k.outer) *= out.size(axis);
        }
    }

    Tensor operand(const Tensor& t, const char* name) const {
        check_type(t, out.scalar_type(), name);
        bool same = t.dim() == out.dim();
        for (int64_t axis = 0; same && axis < t.dim(); axis++)
            same = t.size(axis) == out.size(axis);
        STD_TORCH_CHECK(same, name, " has the wrong shape");
        return dense(t, channels_last);
    }
};

void bias_act(const Tensor& x, const Optional& b, int64_t dim, const std::string& act, double alpha,
              double gain, double clamp, Tensor out) {
    Elementwise call(0, b, dim, act, alpha, gain, clamp, out);
    const Tensor dense_x = call.operand(x, "x");
    call.k.x = dense_x.const_data_ptr();
    kernels::bias_act(call.k, Device(out).lent());
}

void bias_act_grad(const Tensor& dy, const Optional& x, const Optional& b, const Optional& y,
                   int64_t dim, const std::string& act, double alpha, double gain, double clamp,
                   Tensor out) {
    Elementwise call(1, b, dim, act, alpha, gain, clamp, out);
    const bool from_y = act == "linear" || act == "relu" || act == "lrelu";
    STD_TORCH_CHECK(from_y ? y.has_value() : x.has_value(), act, " needs ", from_y ? "y" : "x");
    const Tensor dense_dy = call.operand(dy, "dy");
    const Tensor other = from_y ? call.operand(*y, "y") : call.operand(*x, "x");
    call.k.dy = dense_dy.const_data_ptr();
    (from_y ? call.k.y : call.k.x) = other.const_data_ptr();
    if (from_y) call.k.b = nullptr;
    kernels::bias_act(call.k, Device(out).lent());
}

void bias_act_grad2(const Tensor& ddx, const Tensor& dy, const Tensor& x, const Optional& b,
                    int64_t dim, const std::string& act, double alpha, double gain, double clamp,
                    Tensor out) {
    Elementwise call(2, b, dim, act, alpha, gain, clamp, out);
    const Tensor dense_ddx = call.operand(ddx, "ddx"), dense_dy = call.operand(dy, "dy");
    const Tensor dense_x = call.operand(x, "x");
    call.k.ddx = dense_ddx.const_data_ptr();
    call.k.dy = dense_dy.const_data_ptr();
    call.k.x = dense_x.const_data_ptr();
    kernels::bias_act(call.k, Device(out).lent());
}

// ----------------------------------------------------------------------------------------- images

// Fills in what describes x, and returns x as the kernels take it.
template <class Struct>
Tensor describe(const Tensor& x, bool channels_last, Struct& k) {
    k.type = type_of(x);
    k.channels_last = channels_last;
    k.n = x.size(0), k.c = x.size(1), k.h = x.size(2), k.w = x.size(3);
    const Tensor ready = !channels_last && has_dense_planes(x) ? x : dense(x, channels_last);
    k.x_image = ready.stride(0), k.x_plane = ready.stride(1);
    k.x = ready.const_data_ptr();
    return ready;
}

// ------------------------------------------------------------------------------------- upfirdn2d

void upfirdn2d(const Tensor& x, const Tensor& f, int64_t up_x, int64_t up_y, int64_t down_x,
               int64_t down_y, int64_t pad_x0, int64_t, int64_t pad_y0, int64_t, bool flip,
               double gain, Tensor out) {
    STD_TORCH_CHECK(x.dim() == 4 && out.dim() == 4, "x and out must be [N, C, H, W]");
    STD_TORCH_CHECK(x.size(0) == out.size(0) && x.size(1) == out.size(1),
                    "out has the wrong shape");
    STD_TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "f must be 1-D or 2-D");
    STD_TORCH_CHECK(up_x > 0 && up_y > 0 && down_x > 0 && down_y > 0, "up and down are positive");
    check_type(out, x.scalar_type(), "out");
    const Image image(x, out);
    pix2gan::Upfirdn2d k{};
    const Tensor ready = describe(x, image.channels_last, k);
    const Optional taps = as_float(f);
    k.f = floats(taps);
    k.separable = f.dim() == 1;
    k.filter_h = f.size(0), k.filter_w = f.size(f.dim() - 1);
    k.correlate = flip;
    k.up_x = up_x, k.up_y = up_y, k.down_x = down_x, k.down_y = down_y;
    k.pad_x = pad_x0, k.pad_y = pad_y0;
    k.gain = static_cast<float>(gain);
    k.out_h = out.size(2), k.out_w = out.size(3);
    k.out = image.out.mutable_data_ptr();
    kernels::upfirdn2d(k, Device(x).lent());
    image.finish(out);
}

// --------------------------------------------------------------------------------- instance norm

// [C] or [N, C]; returns the stride between images.
int64_t parameter(const Optional& t, int64_t n, int64_t c, const char* name) {
    if (!t.has_value() || t->dim() == 1) {
        if (t.has_value()) check_shape(*t, {c}, name);
        return 0;
    }
    check_shape(*t, {n, c}, name);
    return c;
}

float* statistic(const Tensor& t, int64_t n, int64_t c, const char* name) {
    check_type(t, ScalarType::Float, name);
    check_shape(t, {n, c}, name);
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
    return static_cast<float*>(t.mutable_data_ptr());
}

void instance_norm_stats(const Tensor& x, Tensor mean, Tensor m2) {
    STD_TORCH_CHECK(x.dim() == 4, "x must be [N, C, H, W]");
    pix2gan::InstanceNormStats k{};
    const Tensor ready = describe(x, is_channels_last(x) && x.size(1) >= least_channels, k);
    k.mean = statistic(mean, k.n, k.c, "mean");
    k.m2 = statistic(m2, k.n, k.c, "m2");
    kernels::instance_norm_stats(k, Device(x).lent());
}

// Where mean and rstd of the outputs go to.
struct Statistics {
    float *mean, *rstd;  // [n, c]
};

void normalise(const Tensor& x, const Optional& weight, const Optional& bias,
               const std::string& act, double alpha, const Optional& residual, int64_t pad,
               const std::string& pad_mode, double eps, const Optional& mean, const Optional& rstd,
               const Tensor& out, const Statistics& statistics) {
    const Image image(x, out);
    pix2gan::InstanceNormAct k{};
    const Tensor ready = describe(x, image.channels_last, k);
    k.act = act_of(act);
    k.alpha = static_cast<float>(alpha);
    k.eps = static_cast<float>(eps);
    k.pad = pad;
    k.pad_mode = pad_of(pad_mode, pad, k.h, k.w);
    const Optional w = as_float(weight), b = as_float(bias);
    k.weight = floats(w), k.weight_image = parameter(w, k.n, k.c, "weight");
    k.bias = floats(b), k.bias_image = parameter(b, k.n, k.c, "bias");
    const Optional given_mean = as_float(mean), given_rstd = as_float(rstd);
    STD_TORCH_CHECK(mean.has_value() == rstd.has_value(), "mean and rstd are given together");
    if (mean.has_value()) {
        check_shape(*mean, {k.n, k.c}, "mean");
        check_shape(*rstd, {k.n, k.c}, "rstd");
        k.given_mean = floats(given_mean), k.given_rstd = floats(given_rstd);
    }
    Optional added;
    if (residual.has_value()) {
        check_shape(*residual, {k.n, k.c, k.h, k.w}, "residual");
        check_type(*residual, x.scalar_type(), "residual");
        added = dense(*residual, image.channels_last);
    }
    k.residual = data(added);
    k.mean = statistics.mean, k.rstd = statistics.rstd;
    k.y = image.out.mutable_data_ptr();
    kernels::instance_norm_act(k, Device(x).lent());
    image.finish(out);
}

void instance_norm_act(const Tensor& x, const Optional& weight, const Optional& bias,
                       const std::string& act, double alpha, const Optional& residual, int64_t pad,
                       const std::string& pad_mode, double eps, const Optional& mean,
                       const Optional& rstd, Tensor out, Tensor out_mean, Tensor out_rstd) {
    STD_TORCH_CHECK(x.dim() == 4 && pad >= 0, "x must be [N, C, H, W], pad not negative");
    const int64_t n = x.size(0), c = x.size(1);
    check_shape(out, {n, c, x.size(2) + 2 * pad, x.size(3) + 2 * pad}, "out");
    check_type(out, x.scalar_type(), "out");
    normalise(x, weight, bias, act, alpha, residual, pad, pad_mode, eps, mean, rstd, out,
              {statistic(out_mean, n, c, "mean"), statistic(out_rstd, n, c, "rstd")});
}

#if !defined(PIX2GAN_CUDA)

// Allocates the image itself, and statistics that nobody asks for not at all. On a small image
// every microsecond around the kernel counts.
Tensor new_instance_norm_act(const Tensor& x, const Optional& weight, const Optional& bias,
                             const std::string& act, double alpha, const Optional& residual,
                             int64_t pad, const std::string& pad_mode, double eps,
                             const Optional& mean, const Optional& rstd) {
    STD_TORCH_CHECK(x.dim() == 4 && pad >= 0, "x must be [N, C, H, W], pad not negative");
    STD_TORCH_CHECK(alpha >= 0 && std::isfinite(alpha) && eps >= 0,
                    "alpha and eps must not be negative");
    STD_TORCH_CHECK(
        is_floating(weight) && is_floating(bias) && is_floating(mean) && is_floating(rstd),
        "parameters must have a floating dtype");
    const int64_t n = x.size(0), c = x.size(1), height = x.size(2), width = x.size(3);
    STD_TORCH_CHECK(height > 0 && width > 0, "x has no pixels");
    const bool channels_last = !x.is_contiguous() && is_channels_last(x);
    const int64_t shape[] = {n, c, height + 2 * pad, width + 2 * pad};
    const Tensor out =
        torch::stable::empty({shape, 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                             channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
    static thread_local std::vector<float> unwanted;
    unwanted.resize(2 * n * c);
    normalise(x, weight, bias, act, alpha, residual, pad, pad_mode, eps, mean, rstd, out,
              {unwanted.data(), unwanted.data() + n * c});
    return out;
}

#endif

void instance_norm_act_grad(const Tensor& dy, const Tensor& x, const Optional& weight,
                            const Optional& bias, const Tensor& mean, const Tensor& rstd,
                            const std::string& act, double alpha, int64_t pad,
                            const std::string& pad_mode, double, bool frozen, Tensor out,
                            Tensor dweight, Tensor dbias) {
    STD_TORCH_CHECK(x.dim() == 4 && pad >= 0, "x must be [N, C, H, W], pad not negative");
    check_shape(dy, {x.size(0), x.size(1), x.size(2) + 2 * pad, x.size(3) + 2 * pad}, "dy");
    check_shape(out, {x.size(0), x.size(1), x.size(2), x.size(3)}, "out");
    check_type(dy, x.scalar_type(), "dy");
    check_type(out, x.scalar_type(), "out");
    const Image image(x, out);
    pix2gan::InstanceNormActGrad k{};
    const Tensor ready = describe(x, image.channels_last, k);
    const Tensor dense_dy = dense(dy, image.channels_last);
    k.act = act_of(act);
    k.alpha = static_cast<float>(alpha);
    k.pad = pad;
    k.pad_mode = pad_of(pad_mode, pad, k.h, k.w);
    k.frozen = frozen;
    const Optional w = as_float(weight), b = as_float(bias);
    k.weight = floats(w), k.weight_image = parameter(w, k.n, k.c, "weight");
    k.bias = floats(b), k.bias_image = parameter(b, k.n, k.c, "bias");
    check_shape(mean, {k.n, k.c}, "mean");
    check_shape(rstd, {k.n, k.c}, "rstd");
    const Optional m = as_float(mean), r = as_float(rstd);
    k.mean = floats(m), k.rstd = floats(r);
    k.dy = dense_dy.const_data_ptr();
    k.dx = image.out.mutable_data_ptr();
    k.dweight = statistic(dweight, k.n, k.c, "dweight");
    k.dbias = statistic(dbias, k.n, k.c, "dbias");
    kernels::instance_norm_act_grad(k, Device(x).lent());
    image.finish(out);
}

// --------------------------------------------------------------------------------- scaled_conv2d

// The convolution itself is PyTorch's, which has the vendor's library for it. What is here brings
// its operands into the type and the layout that it is fastest in, scaled, and finishes its result.

using torch::headeronly::HeaderOnlyArrayRef;
using torch::stable::detail::from;

struct Convolution {
    int64_t stride, padding;
    bool transposed;
    // Rows and columns that the strided convolution, whose adjoint a transposed one is, leaves
    // over.
    int64_t rest_h, rest_w;

    bool by_pixels(const Tensor& w) const {
        return w.size(2) == 1 && w.size(3) == 1 && stride == 1 && padding == 0 && !transposed;
    }

    Tensor operator()(const Tensor& x, const Tensor& w) const {
        if (multiplies_pixels && by_pixels(w) && x.is_contiguous() && x.size(0) == 1) {
            const int64_t height = x.size(2), width = x.size(3);
            const Tensor columns = torch::stable::view(x, {x.size(1), height * width});
            const Tensor rows = torch::stable::reshape(w, {w.size(0), w.size(1)});
            return torch::stable::view(torch::stable::matmul(rows, columns),
                                       {1, w.size(0), height, width});
        }
        std::array<StableIValue, 9> stack{from(x),
                                          from(w),
                                          from(std::nullopt),
                                          from(pair(stride, stride)),
                                          from(pair(padding, padding)),
                                          from(pair(1, 1)),
                                          from(transposed),
                                          from(pair(rest_h, rest_w)),
                                          from(int64_t{1})};
        TORCH_ERROR_CODE_CHECK(
            torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
        return torch::stable::detail::to<Tensor>(stack[0]);
    }

    static std::vector<int64_t> pair(int64_t h, int64_t w) { return {h, w}; }
};

// The gradient of the weight of a convolution that is not transposed; of `w` only the shape and the
// layout matter.
Tensor weight_gradient(const Tensor& dy, const Tensor& x, const Tensor& w, int64_t stride,
                       int64_t padding) {
    const auto pair = Convolution::pair;
    const bool only_weight[3] = {false, true, false};
    std::array<StableIValue, 11> stack{from(dy),
                                       from(x),
                                       from(w),
                                       from(std::nullopt),
                                       from(pair(stride, stride)),
                                       from(pair(padding, padding)),
                                       from(pair(1, 1)),
                                       from(false),
                                       from(pair(0, 0)),
                                       from(int64_t{1}),
                                       from(HeaderOnlyArrayRef<bool>(only_weight, 3))};
    TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
    const Tensor no_dx = torch::stable::detail::to<Tensor>(stack[0]);
    const Tensor no_db = torch::stable::detail::to<Tensor>(stack[2]);
    return torch::stable::detail::to<Tensor>(stack[1]);
}

// In which type and layout to convolve.
struct Convolved {
    Type type;
    bool channels_last;

    Convolved(const Tensor& x, const Tensor& y, bool by_pixels)
        : type(kernels::convolves(type_of(x)) ? type_of(x) : Type::float32),
          channels_last(
              convolves_channels_last(type, is_channels_last(x), by_pixels,
                                      std::max(x.size(2) * x.size(3), y.size(2) * y.size(3)))) {}

    bool fits(const Tensor& t) const {
        return type_of(t) == type && (channels_last ? is_channels_last(t) : t.is_contiguous());
    }
    Tensor empty(const Tensor& like, HeaderOnlyArrayRef<int64_t> shape) const {
        return torch::stable::empty(
            shape,
            type == Type::float32    ? ScalarType::Float
            : type == Type::bfloat16 ? ScalarType::BFloat16
                                     : ScalarType::Half,
            std::nullopt, like.device(), std::nullopt,
            channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
    }
};

struct Epilogue {
    Act act = Act::linear;
    double alpha = 0, gain = 1, clamp = -1;
    const float* noise = nullptr;
    int64_t noise_image = 0;
    const float* b = nullptr;
};

// Fills out, which is dense and of x's shape; scale is [n, c] or null.
void scale_act(const Tensor& x, const float* scale, const Epilogue& e, const Tensor& out) {
    pix2gan::ScaleAct k{};
    // Of one channel or one pixel, the layouts differ in name only.
    const bool channels_last = !x.is_contiguous() && is_channels_last(x);
    const Tensor ready = channels_last || has_dense_planes(x) ? x : dense(x, false);
    k.from = type_of(x), k.to = type_of(out);
    k.from_channels_last = channels_last, k.to_channels_last = !out.is_contiguous();
    k.act = e.act;
    k.alpha = static_cast<float>(e.alpha);
    k.gain = static_cast<float>(e.gain);
    k.clamp = static_cast<float>(e.clamp);
    k.n = x.size(0), k.c = x.size(1), k.h = x.size(2), k.w = x.size(3);
    k.x_image = ready.stride(0), k.x_plane = ready.stride(1);
    k.scale = scale;
    k.noise = e.noise, k.noise_image = e.noise_image;
    k.b = e.b;
    k.x = ready.const_data_ptr();
    k.out = out.mutable_data_ptr();
    kernels::scale_act(k, Device(out).lent());
}

// Fills out with w [a, b, kh, kw] times first [a] and second [b], or null; `adjoint`: with what is
// [b, a, kh, kw] of it, reversed along the taps.
void scale_weight(const Tensor& w, const float* first, const float* second, bool adjoint,
                  const Tensor& out) {
    pix2gan::ScaleWeight k{};
    k.from = type_of(w), k.to = type_of(out);
    k.channels_last = !out.is_contiguous();
    const int64_t bytes = k.from == Type::float32 ? 4 : 2;
    const char* data = static_cast<const char*>(w.const_data_ptr());
    for (int64_t axis = 0; axis < 4; axis++) {
        const int64_t source = adjoint && axis < 2 ? 1 - axis : axis;
        const bool reversed = adjoint && axis >= 2;
        k.size[axis] = w.size(source);
        k.strides[axis] = reversed ? -w.stride(source) : w.stride(source);
        if (reversed) data += (w.size(source) - 1) * w.stride(source) * bytes;
    }
    k.first = adjoint ? second : first, k.second = adjoint ? first : second;
    k.w = data;
    k.out = out.mutable_data_ptr();
    kernels::scale_weight(k, Device(out).lent());
}

// x times scale [n, c] as an operand of a convolution; x itself where it is one.
Tensor operand(const Tensor& x, const float* scale, const Convolved& as) {
    if (scale == nullptr && as.fits(x)) return x;
    const Tensor out = as.empty(x, x.sizes());
    scale_act(x, scale, Epilogue(), out);
    return out;
}

Tensor sample(Tensor t, int64_t n) {
    return t.size(0) == 1 ? t : torch::stable::narrow(t, 0, n, 1);
}

Optional scales(const Optional& t, int64_t n, int64_t c, const char* name) {
    if (t.has_value()) check_shape(*t, {n, c}, name);
    return as_float(t);
}

void scaled_conv2d(const Tensor& x, const Tensor& w, const Optional& s, const Optional& d,
                   int64_t stride, int64_t padding, bool transposed, int64_t out_h, int64_t out_w,
                   const Optional& noise, const Optional& b, const std::string& act, double alpha,
                   double gain, double clamp, Tensor out) {
    STD_TORCH_CHECK(x.dim() == 4 && w.dim() == 4, "x and w must have four axes");
    const int64_t n = x.size(0), inner = x.size(1), outer = w.size(transposed ? 1 : 0);
    const int64_t kh = w.size(2), kw = w.size(3);
    STD_TORCH_CHECK(w.size(transposed ? 0 : 1) == inner, "w has the wrong shape");
    check_shape(out, {n, outer, out_h, out_w}, "out");
    check_type(w, x.scalar_type(), "w");
    check_type(out, x.scalar_type(), "out");
    STD_TORCH_CHECK(out.is_contiguous() || is_channels_last(out), "out must be dense");
    const Optional from_s = scales(s, n, inner, "s"), from_d = scales(d, n, outer, "d");
    const float *s_of = floats(from_s), *d_of = floats(from_d);
    Epilogue epilogue{act_of(act), alpha, gain, clamp};
    const Optional bias = as_float(b), added = as_float(noise);
    if (b.has_value()) check_shape(*b, {outer}, "b");
    epilogue.b = floats(bias);
    if (noise.has_value()) {
        check_shape(*noise, {noise->size(0), 1, out_h, out_w}, "noise");
        STD_TORCH_CHECK(noise->size(0) == n || noise->size(0) == 1, "noise has the wrong shape");
        epilogue.noise = floats(added);
        epilogue.noise_image = noise->size(0) == 1 ? 0 : out_h * out_w;
    }
    if (out.numel() == 0) return;

    Convolution convolve{stride, padding, transposed, 0, 0};
    // Where few channels come out, a transposed convolution is slow as such.
    const bool adjoint = transposed && stride == 1 && outer < 16 && kh == kw && padding < kh;
    if (adjoint) {
        convolve.transposed = false, convolve.padding = kh - 1 - padding;
    } else if (transposed) {
        convolve.rest_h = out_h - ((x.size(2) - 1) * stride - 2 * padding + kh);
        convolve.rest_w = out_w - ((x.size(3) - 1) * stride - 2 * padding + kw);
    }
    const Convolved as(x, out, convolve.by_pixels(w));
    const int64_t rows = w.size(adjoint ? 1 : 0), columns = w.size(adjoint ? 0 : 1);
    const int64_t shape[] = {rows, columns, kh, kw};

    // Either x is scaled or, sample by sample, the weight, whichever is smaller. What has to be
    // copied anyway is scaled on the way, and for small images it makes no difference.
    constexpr int64_t small = 1 << 14;
    if (sample_by_sample && s_of != nullptr && as.fits(x) &&
        std::max(w.numel(), small) * n < x.numel()) {
        const Tensor weight = as.empty(w, {shape, 4});
        for (int64_t i = 0; i < n; i++) {
            const float* by_s = s_of + i * inner;
            const float* by_d = d_of != nullptr ? d_of + i * outer : nullptr;
            scale_weight(w, transposed ? by_s : by_d, transposed ? by_d : by_s, adjoint, weight);
            Epilogue own = epilogue;
            if (own.noise != nullptr) own.noise += i * own.noise_image;
            scale_act(convolve(sample(x, i), weight), nullptr, own, sample(out, i));
        }
        return;
    }
    Tensor weight = w;
    if (adjoint || !as.fits(w)) {
        weight = as.empty(w, {shape, 4});
        scale_weight(w, nullptr, nullptr, adjoint, weight);
    }
    scale_act(convolve(operand(x, s_of, as), weight), d_of, epilogue, out);
}

void scaled_conv2d_wgrad(const Tensor& x, const Tensor& dy, const Optional& s, const Optional& d,
                         int64_t stride, int64_t padding, bool transposed, int64_t kh, int64_t kw,
                         Tensor out) {
    STD_TORCH_CHECK(x.dim() == 4 && dy.dim() == 4, "x and dy must be [N, C, H, W]");
    STD_TORCH_CHECK(x.size(0) == dy.size(0), "dy has the wrong shape");
    check_type(dy, x.scalar_type(), "dy");
    check_type(out, x.scalar_type(), "out");
    // The operands of the convolution that is not transposed: its input and its output's gradient.
    const Tensor &in = transposed ? dy : x, &result = transposed ? x : dy;
    const int64_t n = x.size(0), inner = in.size(1), outer = result.size(1);
    check_shape(out, {outer, inner, kh, kw}, "out");
    STD_TORCH_CHECK(out.is_contiguous(), "out must be contiguous");
    const Optional from_s = scales(s, n, x.size(1), "s"), from_d = scales(d, n, dy.size(1), "d");
    const float *in_scale = floats(transposed ? from_d : from_s),
                *result_scale = floats(transposed ? from_s : from_d);
    if (x.numel() == 0 || dy.numel() == 0) {
        torch::stable::zero_(out);
        return;
    }
    Convolved as(x, dy, false);
    if (outer < least_wgrad_channels) as.channels_last = false;
    // Of one sample, the gradient is scaled instead of what it is computed from.
    const bool behind = sample_by_sample && n == 1;
    const int64_t shape[] = {outer, inner, kh, kw};
    const Tensor dw = weight_gradient(operand(result, behind ? nullptr : result_scale, as),
                                      operand(in, behind ? nullptr : in_scale, as),
                                      as.empty(x, {shape, 4}), stride, padding);
    scale_weight(dw, behind ? result_scale : nullptr, behind ? in_scale : nullptr, false, out);
}

// ------------------------------------------------------------------------------------------ adam

#if !defined(PIX2GAN_CUDA)

float* row(const Tensor& t, int64_t n, const char* name) {
    check_type(t, ScalarType::Float, name);
    check_shape(t, {n}, name);
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
    return static_cast<float*>(t.mutable_data_ptr());
}

void adam_step(Tensor w, const Tensor& gradient, Tensor mean, Tensor square, Optional rounded,
               Optional average, double lr, double beta1, double beta2, double eps, double step,
               double scale, double share) {
    pix2gan::AdamStep k{};
    k.n = w.numel();
    k.w = row(w, k.n, "w");
    k.mean = row(mean, k.n, "mean");
    k.square = row(square, k.n, "square");
    k.type = type_of(gradient);
    STD_TORCH_CHECK(k.type != Type::float16, "a gradient is float32 or bfloat16");
    check_shape(gradient, {k.n}, "gradient");
    STD_TORCH_CHECK(gradient.is_contiguous(), "gradient must be contiguous");
    k.gradient = gradient.const_data_ptr();
    if (rounded.has_value()) {
        check_type(*rounded, ScalarType::BFloat16, "rounded");
        check_shape(*rounded, {k.n}, "rounded");
        STD_TORCH_CHECK(rounded->is_contiguous(), "rounded must be contiguous");
        k.rounded = rounded->mutable_data_ptr();
    }
    if (average.has_value()) k.average = row(*average, k.n, "average");
    k.rate = static_cast<float>(lr / (1 - std::pow(beta1, step)));
    k.root = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)));
    k.beta1 = static_cast<float>(beta1), k.beta2 = static_cast<float>(beta2);
    k.eps = static_cast<float>(eps), k.scale = static_cast<float>(scale);
    k.share = static_cast<float>(share);
    kernels::adam_step(k, Device(w).lent());
}

// -------------------------------------------------------------------------------------- sum_rows

void sum_rows(const Tensor& x, const Tensor& index, Tensor out) {
    pix2gan::SumRows k{};
    STD_TORCH_CHECK(x.dim() == 2 && index.dim() == 2, "x and index have two axes");
    k.type = type_of(x);
    k.rows = x.size(0), k.columns = x.size(1);
    k.count = index.size(0), k.terms = index.size(1);
    check_type(index, ScalarType::Long, "index");
    check_type(out, x.scalar_type(), "out");
    check_shape(out, {k.count, k.columns}, "out");
    STD_TORCH_CHECK(index.is_contiguous() && out.is_contiguous(),
                    "index and out must be contiguous");
    k.index = static_cast<const int64_t*>(index.const_data_ptr());
    for (int64_t i = 0; i < k.count * k.terms; i++)
        STD_TORCH_CHECK(k.index[i] >= 0 && k.index[i] <= k.rows, "an index lies outside of x");
    const Tensor dense = torch::stable::contiguous(x);
    k.x = dense.const_data_ptr();
    k.out = out.mutable_data_ptr();
    kernels::sum_rows(k, Device(out).lent());
}

// ---------------------------------------------------------------------------------- thin_product

void thin_product(const Tensor& a, const Tensor& b, int64_t form, Tensor out) {
    using Form = pix2gan::ThinProduct::Form;
    pix2gan::ThinProduct k{};
    STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2, "a and b have two axes");
    STD_TORCH_CHECK(form >= 0 && form <= 2, "there is no form ", form);
    k.form = static_cast<Form>(form);
    k.p = a.size(0);
    const bool outer = k.form == Form::transposed_times;
    k.n = outer ? a.size(1) : b.size(0), k.k = b.size(1);
    check_shape(a, {k.p, k.form == Form::times_transposed ? k.k : k.n}, "a");
    check_shape(b, {outer ? k.p : k.n, k.k}, "b");
    if (outer)
        check_shape(out, {k.n, k.k}, "out");
    else
        check_shape(out, {k.p, k.form == Form::times ? k.k : k.n}, "out");
    STD_TORCH_CHECK(k.n % 4 == 0 && k.k % 32 == 0, "the matrix must be [4 n, 32 k]");
    check_type(a, ScalarType::BFloat16, "a");
    check_type(b, ScalarType::BFloat16, "b");
    check_type(out, ScalarType::BFloat16, "out");
    STD_TORCH_CHECK(b.is_contiguous() && out.is_contiguous(), "b and out must be contiguous");
    const Tensor dense = torch::stable::contiguous(a);
    k.a = dense.const_data_ptr(), k.b = b.const_data_ptr();
    k.out = out.mutable_data_ptr();
    kernels::thin_product(k, Device(out).lent());
}

// ---------------------------------------------------------------------------------------- others

std::string instruction_set() { return pix2gan::cpu::instruction_set(); }

bool use_instruction_set(const std::string& name) {
    return pix2gan::cpu::use_instruction_set(name.c_str());
}

#endif

#define PIX2GAN_STRING_OF(text) #text
#define PIX2GAN_STRING(text) PIX2GAN_STRING_OF(text)
#ifndef PIX2GAN_SOURCE_HASH
#define PIX2GAN_SOURCE_HASH unknown
#endif

// Found in the file before it is loaded, so that a library built from other sources is not. "used":
// else the compiler puts the last bytes into its instructions, and the rest is not found.
__attribute__((used)) const char source_hash[] =
    "PIX2GAN_SOURCE_HASH=" PIX2GAN_STRING(PIX2GAN_SOURCE_HASH);

std::string build() { return source_hash; }

}  // namespace

// ---------------------------------------------------------------------------------- registration

// The namespace of the ops and the dispatch key of their kernels.
#if !defined(PIX2GAN_LIBRARY) && defined(PIX2GAN_CUDA)
#define PIX2GAN_LIBRARY pix2gan_cuda
#define PIX2GAN_KEY CUDA
#elif !defined(PIX2GAN_LIBRARY)
#define PIX2GAN_LIBRARY pix2gan_native
#define PIX2GAN_KEY CPU
#endif

// Expands the name of the namespace first.
#define PIX2GAN_DEFINE(library, m) STABLE_TORCH_LIBRARY(library, m)

PIX2GAN_DEFINE(PIX2GAN_LIBRARY, m) {
    m.def(
        "bias_act(Tensor x, Tensor? b, int dim, str act, float alpha, float gain, float clamp, "
        "Tensor(a!) out) -> ()");
    m.def(
        "bias_act_grad(Tensor dy, Tensor? x, Tensor? b, Tensor? y, int dim, str act, float alpha, "
        "float gain, float clamp, Tensor(a!) out) -> ()");
    m.def(
        "bias_act_grad2(Tensor ddx, Tensor dy, Tensor x, Tensor? b, int dim, str act, float alpha, "
        "float gain, float clamp, Tensor(a!) out) -> ()");
    m.def(
        "upfirdn2d(Tensor x, Tensor f, int upx, int upy, int downx, int downy, int padx0, int "
        "padx1, "
        "int pady0, int pady1, bool flip, float gain, Tensor(a!) out) -> ()");
    m.def("instance_norm_stats(Tensor x, Tensor(a!) out_mean, Tensor(b!) out_m2) -> ()");
    m.def(
        "instance_norm_act(Tensor x, Tensor? weight, Tensor? bias, str act, float alpha, "
        "Tensor? residual, int pad, str pad_mode, float eps, Tensor? mean, Tensor? rstd, "
        "Tensor(a!) out, Tensor(b!) out_mean, Tensor(c!) out_rstd) -> ()");
    m.def(
        "instance_norm_act_grad(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, "
        "Tensor rstd, str act, float alpha, int pad, str pad_mode, float eps, bool frozen, "
        "Tensor(a!) out, "
        "Tensor(b!) out_dweight, Tensor(c!) out_dbias) -> ()");
    m.def(
        "scaled_conv2d(Tensor x, Tensor w, Tensor? s, Tensor? d, int stride, int padding, "
        "bool transposed, int out_h, int out_w, Tensor? noise, Tensor? b, str act, float alpha, "
        "float gain, float clamp, Tensor(a!) out) -> ()");
    m.def(
        "scaled_conv2d_wgrad(Tensor x, Tensor dy, Tensor? s, Tensor? d, int stride, int padding, "
        "bool transposed, int kh, int kw, Tensor(a!) out) -> ()");
    m.def("build() -> str");
#if !defined(PIX2GAN_CUDA)
    m.def(
        "adam_step(Tensor(a!) w, Tensor gradient, Tensor(b!) mean, Tensor(c!) square, "
        "Tensor(d!)? rounded, Tensor(e!)? average, float lr, float beta1, float beta2, float eps, "
        "float step, float scale, float share) -> ()");
    m.def("sum_rows(Tensor x, Tensor index, Tensor(a!) out) -> ()");
    m.def("thin_product(Tensor a, Tensor b, int form, Tensor(a!) out) -> ()");
    m.def(
        "new_instance_norm_act(Tensor x, Tensor? weight, Tensor? bias, str act, float alpha, "
        "Tensor? residual, int pad, str pad_mode, float eps, Tensor? mean, Tensor? rstd) -> "
        "Tensor");
    m.def("instruction_set() -> str");
    m.def("use_instruction_set(str name) -> bool");
#endif
}

STABLE_TORCH_LIBRARY_IMPL(PIX2GAN_LIBRARY, PIX2GAN_KEY, m) {
    m.impl("bias_act", TORCH_BOX(&bias_act));
    m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
    m.impl("bias_act_grad2", TORCH_BOX(&bias_act_grad2));
    m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d));
    m.impl("instance_norm_stats", TORCH_BOX(&instance_norm_stats));
    m.impl("instance_norm_act", TORCH_BOX(&instance_norm_act));
    m.impl("instance_norm_act_grad", TORCH_BOX(&instance_norm_act_grad));
    m.impl("scaled_conv2d", TORCH_BOX(&scaled_conv2d));
    m.impl("scaled_conv2d_wgrad", TORCH_BOX(&scaled_conv2d_wgrad));
#if !defined(PIX2GAN_CUDA)
    m.impl("adam_step", TORCH_BOX(&adam_step));
    m.impl("sum_rows", TORCH_BOX(&sum_rows));
    m.impl("thin_product", TORCH_BOX(&thin_product));
    m.impl("new_instance_norm_act", TORCH_BOX(&new_instance_norm_act));
#endif
}

STABLE_TORCH_LIBRARY_IMPL(PIX2GAN_LIBRARY, CompositeExplicitAutograd, m) {
    m.impl("build", TORCH_BOX(&build));
#if !defined(PIX2GAN_CUDA)
    m.impl("instruction_set", TORCH_BOX(&instruction_set));
    m.impl("use_instruction_set", TORCH_BOX(&use_instruction_set));
#endif
}
