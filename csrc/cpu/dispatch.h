// The kernels of one instruction set, as dispatch.cpp chooses between them.

#pragma once

#include "../elements.h"
#include "../kernels.h"
#include "tasks.h"

namespace pix2gan::cpu {

struct Kernels {
    void (*bias_act)(const BiasAct&, const Workers&);
    void (*instance_norm_stats)(const InstanceNormStats&, const Workers&);
    void (*instance_norm_act)(const InstanceNormAct&, const Workers&);
};

const Kernels& baseline_kernels();  // 4 lanes, on any processor
#if defined(__x86_64__)
const Kernels& avx2_kernels();         // 8 lanes
const Kernels& avx512_kernels();       // 16 lanes
const Kernels& avx512_bf16_kernels();  // 16 lanes
#endif

}  // namespace pix2gan::cpu
