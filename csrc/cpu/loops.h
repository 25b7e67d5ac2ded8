// The innermost loops, compiled once per instruction set, and how the rest finds them.
//
// <op>.cpp cuts an op into tasks and merges what they return; it is compiled once, for any processor.
// <op>_loops.h holds what takes the time, for one element type and activation; it is compiled for
// every instruction set (isa_*.cpp), and `Loops` is the table of the results.

#pragma once

#include "../elements.h"
#include "../kernels.h"
#include "tasks.h"

namespace pix2gan::cpu {

// Count, mean and sum of squared deviations from the mean.
struct Moments {
    double count = 0, mean = 0, m2 = 0;

    void merge(const Moments& other) {
        const double total = count + other.count, delta = other.mean - mean;
        mean += delta * (other.count / total);
        m2 += other.m2 + delta * delta * (count * other.count / total);
        count = total;
    }
};

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
    // Channels-last: sums is [3, channels], the shift and the sums of x - shift and its square.
    void (*sum_pixels)(const void* x, int64_t pixels, int64_t channels, float* sums);
    // affine is [3, channels]: mean, scale, shift.
    void (*normalise_image)(const InstanceNormAct&, const void* x, const void* residual, void* y,
                            int64_t first, int64_t last, const float* affine);
};

struct Loops {
    const char* name;
    int64_t lanes;
    BiasActLoops (*bias_act)(int32_t order, Type, Act);
    InstanceNormLoops (*instance_norm)(Type, Act, bool with_residual);
    // One more chunk of `pixels` sums as above into the mean and m2 [channels] of `count` pixels.
    void (*merge_sums)(const float* sums, int64_t channels, double pixels, double count,
                       double* mean, double* m2);
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

inline int64_t size_of(Type type) { return type == Type::float32 ? 4 : 2; }

inline const void* at(const void* from, int64_t elements, Type type) {
    return static_cast<const char*>(from) + elements * size_of(type);
}
inline void* at(void* to, int64_t elements, Type type) {
    return static_cast<char*>(to) + elements * size_of(type);
}

}  // namespace pix2gan::cpu
