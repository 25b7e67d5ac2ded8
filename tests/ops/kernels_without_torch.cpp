// The CPU kernels against plain scalar loops in double, without torch: compiled for other
// processors and run in an emulator by test_other_processors.py. Prints one line a kernel; the exit
// code is the number of kernels that are wrong.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "../../csrc/elements.h"
#include "../../csrc/kernels.h"

using namespace pix2gan;

namespace {

// Two ranges, one behind the other: what threads would be given.
const Workers workers = {[](int64_t tasks, void (*work)(int64_t, int64_t, void*), void* context) {
                             work(0, tasks / 2, context);
                             work(tasks / 2, tasks, context);
                         },
                         2};

// ------------------------------------------------------------------------------------ 16-bit
// floats

double bfloat16_value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

double float16_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double sign = bits >> 15 != 0 ? -1 : 1;
    if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
    return sign *
           (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

double value_of(Type type, uint16_t bits) {
    return type == Type::bfloat16 ? bfloat16_value(bits) : float16_value(bits);
}

// To nearest, ties to even, by looking for the neighbours. All positive bit patterns are in order.
uint16_t rounded(Type type, double v) {
    const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    const uint16_t infinity = type == Type::bfloat16 ? 0x7f80 : 0x7c00;
    if (std::isnan(v)) return infinity + 1;
    v = std::fabs(v);
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        const uint16_t middle = (low + high) / 2;
        (value_of(type, middle) <= v ? low : high) = middle;
    }
    const double below = value_of(type, low);
    // The number that infinity stands in for, were the exponent not limited.
    const double above =
        high == infinity ? below + (below - value_of(type, low - 1)) : value_of(type, high);
    const double half = below + (above - below) / 2;
    const bool up = v > half || (v == half && (low & 1) != 0);
    return (up ? high : low) | sign;
}

// ----------------------------------------------------------------------------------------- tensors

// [n, c, h, w] of a type in a layout, and the doubles that it stands for.
struct Image {
    Type type;
    bool channels_last;
    int64_t n, c, h, w;
    std::vector<char> memory;

    Image(Type type, bool channels_last, int64_t n, int64_t c, int64_t h, int64_t w)
        : type(type), channels_last(channels_last), n(n), c(c), h(h), w(w) {
        memory.assign(n * c * h * w * (type == Type::float32 ? 4 : 2), 0x55);
    }
    int64_t at(int64_t in, int64_t ic, int64_t y, int64_t x) const {
        return channels_last ? ((in * h + y) * w + x) * c + ic : ((in * c + ic) * h + y) * w + x;
    }
    double get(int64_t i) const {
        if (type == Type::float32) return reinterpret_cast<const float*>(memory.data())[i];
        return value_of(type, reinterpret_cast<const uint16_t*>(memory.data())[i]);
    }
    void set(int64_t i, double v) {
        if (type == Type::float32)
            reinterpret_cast<float*>(memory.data())[i] = static_cast<float>(v);
        else
            reinterpret_cast<uint16_t*>(memory.data())[i] = rounded(type, v);
    }
    double operator()(int64_t in, int64_t ic, int64_t y, int64_t x) const {
        return get(at(in, ic, y, x));
    }
    void fill(double shift = 0) {
        for (int64_t i = 0; i < n * c * h * w; i++) set(i, shift + std::sin(1.7 * i) * 2);
    }
    // Whether every element is `want`, up to one rounding and the sums of floats.
    bool is(const std::function<double(int64_t, int64_t, int64_t, int64_t)>& want) const {
        const double eps = type == Type::float32    ? 2e-6
                           : type == Type::bfloat16 ? 1.0 / 255
                                                    : 1.0 / 2047;
        for (int64_t in = 0; in < n; in++)
            for (int64_t ic = 0; ic < c; ic++)
                for (int64_t y = 0; y < h; y++)
                    for (int64_t x = 0; x < w; x++) {
                        const double exact = want(in, ic, y, x), got = (*this)(in, ic, y, x);
                        if (!(std::fabs(got - exact) <= eps * std::fabs(exact) + 4e-6)) {
                            std::printf("  [%d, %d, %d, %d] is %.9g, not %.9g\n", int(in), int(ic),
                                        int(y), int(x), got, exact);
                            return false;
                        }
                    }
        return true;
    }
};

double activated(Act act, double v, double alpha) {
    switch (act) {
        case Act::relu:
            return v > 0 ? v : 0;
        case Act::lrelu:
            return v > 0 ? v : alpha * v;
        case Act::tanh:
            return std::tanh(v);
        case Act::sigmoid:
            return 1 / (1 + std::exp(-v));
        case Act::elu:
            return v > 0 ? v : alpha * std::expm1(v);
        case Act::selu:
            return 1.0507009873554805 * (v > 0 ? v : 1.6732632423543772 * std::expm1(v));
        case Act::softplus:
            return std::log1p(std::exp(v));
        case Act::swish:
            return v / (1 + std::exp(-v));
        default:
            return v;
    }
}

constexpr Type types[] = {Type::float32, Type::bfloat16, Type::float16};

// ----------------------------------------------------------------------------------------- kernels

// Every number of 16 bits, read, scaled and written: bit by bit what rounding to nearest gives.
bool halves() {
    for (const Type type : {Type::bfloat16, Type::float16}) {
        for (const float gain : {1.0f, 1.0009765625f, 0.3333f, 1e-4f, 3e4f}) {
            std::vector<uint16_t> x(65536), out(65536);
            for (int i = 0; i < 65536; i++) x[i] = static_cast<uint16_t>(i);
            BiasAct k{};
            k.type = type, k.gain = gain, k.clamp = -1;
            k.outer = k.channels = 1, k.inner = 65536;
            k.x = x.data(), k.out = out.data();
            cpu::bias_act(k, workers);
            for (int i = 0; i < 65536; i++) {
                const double v = value_of(type, x[i]);
                const float product = static_cast<float>(v) * gain;
                const double got = value_of(type, out[i]);
                const bool zero = v == 0 && got == 0;  // -0 plus a bias of 0 is 0
                if (std::isnan(v) ? !std::isnan(got) : out[i] != rounded(type, product) && !zero) {
                    std::printf("  0x%04x times %g is 0x%04x, not 0x%04x\n", i, gain, out[i],
                                rounded(type, product));
                    return false;
                }
            }
        }
    }
    return true;
}

bool bias_act() {
    for (const Type type : types) {
        for (int act = 0; act < 9; act++) {
            Image x(type, false, 2, 5, 7, 9), out = x;
            x.fill();
            std::vector<float> b = {-1, 0.5, 0, 2, 0.25};
            BiasAct k{};
            k.type = type, k.act = static_cast<Act>(act);
            k.alpha = 0.2f, k.gain = 1.5f, k.clamp = 2;
            k.outer = 2, k.channels = 5, k.inner = 63;
            k.b = b.data(), k.x = x.memory.data(), k.out = out.memory.data();
            cpu::bias_act(k, workers);
            const bool right = out.is([&](int64_t n, int64_t c, int64_t y, int64_t i) {
                const double v = 1.5 * activated(k.act, x(n, c, y, i) + b[c], k.alpha);
                return std::fmax(-2, std::fmin(2, v));
            });
            if (!right) return false;
        }
    }
    return true;
}

bool upfirdn2d() {
    const std::vector<float> f = {0.125f, 0.375f, 0.375f, 0.125f};
    for (const Type type : types) {
        for (const bool channels_last : {false, true}) {
            for (const int ratio : {1, 2, -2}) {  // filter, up, down
                const int64_t up = ratio == 2 ? 2 : 1, down = ratio == -2 ? 2 : 1;
                Image x(type, channels_last, 1, 10, 11, 14);
                Image out(type, channels_last, 1, 10, 11 * up / down, 14 * up / down);
                x.fill();
                Upfirdn2d k{};
                k.type = type, k.channels_last = channels_last;
                k.n = 1, k.c = 10, k.h = 11, k.w = 14, k.out_h = out.h, k.out_w = out.w;
                k.x_image = 10 * 11 * 14, k.x_plane = 11 * 14;
                k.f = f.data(), k.filter_h = k.filter_w = 4, k.separable = true;
                k.up_x = k.up_y = up, k.down_x = k.down_y = down;
                k.pad_x = k.pad_y = up == 2 ? 2 : 1;
                k.gain = static_cast<float>(up * up);
                k.x = x.memory.data(), k.out = out.memory.data();
                cpu::upfirdn2d(k, workers);
                const bool right = out.is([&](int64_t n, int64_t c, int64_t oy, int64_t ox) {
                    double sum = 0;
                    for (int64_t i = 0; i < 4; i++)
                        for (int64_t j = 0; j < 4; j++) {
                            const int64_t y = oy * down + i - k.pad_y, z = ox * down + j - k.pad_x;
                            if (y < 0 || z < 0 || y % up != 0 || z % up != 0) continue;
                            if (y / up >= x.h || z / up >= x.w) continue;
                            sum += k.gain * f[i] * f[j] * x(n, c, y / up, z / up);
                        }
                    return sum;
                });
                if (!right) return false;
            }
        }
    }
    return true;
}

bool instance_norm_act() {
    for (const Type type : types) {
        for (const bool channels_last : {false, true}) {
            Image x(type, channels_last, 2, 13, 6, 7), y(type, channels_last, 2, 13, 8, 9);
            x.fill(3);
            std::vector<float> mean(26), rstd(26);
            InstanceNormAct k{};
            k.type = type, k.channels_last = channels_last;
            k.act = Act::relu, k.pad_mode = Pad::reflect, k.pad = 1, k.eps = 1e-5f;
            k.n = 2, k.c = 13, k.h = 6, k.w = 7;
            k.x_image = 13 * 42, k.x_plane = 42;
            k.x = x.memory.data(), k.y = y.memory.data();
            k.mean = mean.data(), k.rstd = rstd.data();
            cpu::instance_norm_act(k, workers);
            const bool right = y.is([&](int64_t n, int64_t c, int64_t oy, int64_t ox) {
                double sum = 0, squares = 0;
                for (int64_t i = 0; i < 42; i++) sum += x(n, c, i / 7, i % 7) / 42;
                for (int64_t i = 0; i < 42; i++)
                    squares += std::pow(x(n, c, i / 7, i % 7) - sum, 2) / 42;
                const double v =
                    x(n, c, reflect<int64_t>(oy - 1, 6), reflect<int64_t>(ox - 1, 7)) - sum;
                return std::fmax(0, v / std::sqrt(squares + 1e-5));
            });
            if (!right) return false;
        }
    }
    return true;
}

bool scale_act() {
    const Type pairs[][2] = {{Type::float32, Type::float32},  {Type::bfloat16, Type::bfloat16},
                             {Type::float32, Type::bfloat16}, {Type::float32, Type::float16},
                             {Type::bfloat16, Type::float32}, {Type::float16, Type::float32}};
    for (const auto& pair : pairs) {
        for (int layouts = 0; layouts < 4; layouts++) {
            const bool operand = pair[0] != pair[1] && pair[1] == Type::float32;
            Image x(pair[0], layouts & 1, 2, 11, 5, 7), out(pair[1], layouts & 2, 2, 11, 5, 7);
            x.fill();
            std::vector<float> scale(22), b(11), noise(35);
            for (int i = 0; i < 22; i++) scale[i] = 0.25f * i - 2;
            for (int i = 0; i < 11; i++) b[i] = operand ? 0 : 0.5f * i - 3;
            for (int i = 0; i < 35; i++) noise[i] = operand ? 0 : 0.125f * i - 2;
            ScaleAct k{};
            k.from = pair[0], k.to = pair[1];
            k.from_channels_last = x.channels_last, k.to_channels_last = out.channels_last;
            k.act = operand ? Act::linear : Act::lrelu;
            k.alpha = 0.2f, k.gain = operand ? 1 : 1.5f, k.clamp = operand ? -1 : 6;
            k.n = 2, k.c = 11, k.h = 5, k.w = 7, k.x_image = 11 * 35, k.x_plane = 35;
            k.scale = scale.data(), k.noise = noise.data(), k.b = b.data();
            k.x = x.memory.data(), k.out = out.memory.data();
            cpu::scale_act(k, workers);
            const bool right = out.is([&](int64_t n, int64_t c, int64_t y, int64_t i) {
                double v = x(n, c, y, i) * scale[n * 11 + c] + noise[y * 7 + i] + b[c];
                v = k.gain * activated(k.act, v, k.alpha);
                if (operand) return value_of(k.from, rounded(k.from, v));
                return std::fmax(-6, std::fmin(6, v));
            });
            if (!right) return false;
        }
    }
    return true;
}

bool scale_weight() {
    for (const Type type : types) {
        for (const bool channels_last : {false, true}) {
            Image w(type, false, 6, 5, 3, 2), out(Type::float32, channels_last, 6, 5, 3, 2);
            if (type == Type::bfloat16) out = Image(type, channels_last, 6, 5, 3, 2);
            w.fill();
            std::vector<float> first = {1, 2, -1, 0.5, 3, 0}, second = {2, 1, 0.25, -3, 1};
            ScaleWeight k{};
            k.from = type, k.to = out.type, k.channels_last = channels_last;
            const int64_t size[] = {6, 5, 3, 2}, strides[] = {30, 6, 2, 1};
            for (int i = 0; i < 4; i++) k.size[i] = size[i], k.strides[i] = strides[i];
            k.first = first.data(), k.second = second.data();
            k.w = w.memory.data(), k.out = out.memory.data();
            cpu::scale_weight(k, workers);
            const bool right = out.is([&](int64_t i, int64_t j, int64_t y, int64_t x) {
                return w(i, j, y, x) * first[i] * second[j];
            });
            if (!right) return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    std::printf("instruction set: %s\n", cpu::instruction_set());
    const struct {
        const char* name;
        bool (*right)();
    } kernels[] = {{"halves", halves},       {"bias_act", bias_act},
                   {"upfirdn2d", upfirdn2d}, {"instance_norm_act", instance_norm_act},
                   {"scale_act", scale_act}, {"scale_weight", scale_weight}};
    int wrong = 0;
    for (const auto& kernel : kernels) {
        const bool right = kernel.right();
        std::printf("%s %s\n", right ? "right" : "WRONG", kernel.name);
        wrong += !right;
    }
    return wrong;
}
