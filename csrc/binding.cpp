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

void instance_norm_act(const Tensor& x, const Optional& weight, const Optional& bias,
                       const std::string& act, double alpha, const Optional& residual, int64_t pad,
                       const std::string& pad_mode, double eps, const Optional& mean,
                       const Optional& rstd, Tensor out, Tensor out_mean, Tensor out_rstd) {
    STD_TORCH_CHECK(x.dim() == 4 && pad >= 0, "x must be [N, C, H, W], pad not negative");
    check_shape(out, {x.size(0), x.size(1), x.size(2) + 2 * pad, x.size(3) + 2 * pad}, "out");
    check_type(out, x.scalar_type(), "out");
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
    k.mean = statistic(out_mean, k.n, k.c, "mean");
    k.rstd = statistic(out_rstd, k.n, k.c, "rstd");
    k.y = image.out.mutable_data_ptr();
    kernels::instance_norm_act(k, Device(x).lent());
    image.finish(out);
}

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

// ---------------------------------------------------------------------------------------- others

#if !defined(PIX2GAN_CUDA)

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

// Found in the file before it is loaded, so that a library built from other sources is not.
const char source_hash[] = "PIX2GAN_SOURCE_HASH=" PIX2GAN_STRING(PIX2GAN_SOURCE_HASH);

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
    m.def("build() -> str");
#if !defined(PIX2GAN_CUDA)
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
}

STABLE_TORCH_LIBRARY_IMPL(PIX2GAN_LIBRARY, CompositeExplicitAutograd, m) {
    m.impl("build", TORCH_BOX(&build));
#if !defined(PIX2GAN_CUDA)
    m.impl("instruction_set", TORCH_BOX(&instruction_set));
    m.impl("use_instruction_set", TORCH_BOX(&use_instruction_set));
#endif
}
