// Chooses the instruction set, at the first call and by what the processor has.

#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace pix2gan::cpu {
namespace {

struct InstructionSet {
    const char* name;
    int64_t lanes;
    bool (*available)();
    const Kernels& (*kernels)();
};

// Best first.
const InstructionSet instruction_sets[] = {
#if defined(__x86_64__)
    {"avx512_bf16", 16,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("fma");
     },
     avx512_bf16_kernels},
    {"avx512", 16,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("fma");
     },
     avx512_kernels},
    // Every processor with AVX2 and FMA has F16C, which gcc 10 cannot ask for.
    {"avx2", 8, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     avx2_kernels},
#endif
    {"baseline", 4, [] { return true; }, baseline_kernels},
};

std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet& active() {
    const InstructionSet* set = chosen.load(std::memory_order_relaxed);
    if (set == nullptr) {
        set = instruction_sets;
        while (!set->available()) set++;
        chosen.store(set, std::memory_order_relaxed);
    }
    return *set;
}

// Vectors of channels must not be longer than there are channels: a narrower set then.
const Kernels& kernels_for(bool channels_last, int64_t channels) {
    const InstructionSet* set = &active();
    while (channels_last && set->lanes > channels && set->lanes > 4) set++;
    return set->kernels();
}

}  // namespace

const char* instruction_set() { return active().name; }

bool use_instruction_set(const char* name) {
    for (const InstructionSet& set : instruction_sets) {
        if (std::strcmp(set.name, name) == 0 && set.available()) {
            chosen.store(&set, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

void bias_act(const BiasAct& k, const Workers& workers) {
    if (k.outer * k.channels * k.inner > 0) active().kernels().bias_act(k, workers);
}

void instance_norm_stats(const InstanceNormStats& k, const Workers& workers) {
    if (k.n * k.c > 0) kernels_for(k.channels_last, k.c).instance_norm_stats(k, workers);
}

void instance_norm_act(const InstanceNormAct& k, const Workers& workers) {
    if (k.n * k.c > 0) kernels_for(k.channels_last, k.c).instance_norm_act(k, workers);
}

}  // namespace pix2gan::cpu
