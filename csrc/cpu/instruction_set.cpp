// Chooses the instruction set, at the first call and by what the processor has.

#include <atomic>
#include <cstring>

#include "loops.h"

namespace pix2gan::cpu {
namespace {

#if defined(__x86_64__)
bool has_avx512_bf16() { return __builtin_cpu_supports("avx512bf16"); }
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
// F16C, which older compilers cannot ask for, came a generation before AVX2.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

// Best first; the last one runs everywhere.
struct InstructionSet {
    const Loops& loops;
    bool available;
};

const InstructionSet* instruction_sets() {
    static const InstructionSet sets[] = {
#if defined(__x86_64__)
        {avx512_bf16::table, has_avx2() && has_avx512() && has_avx512_bf16()},
        {avx512::table, has_avx2() && has_avx512()},
        {avx2::table, has_avx2()},
#endif
        {baseline::table, true},
    };
    return sets;
}

const InstructionSet* first_available(const InstructionSet* set) {
    while (!set->available) set++;
    return set;
}

std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet* active() {
    const InstructionSet* set = chosen.load(std::memory_order_relaxed);
    if (set == nullptr) {
        set = first_available(instruction_sets());
        chosen.store(set, std::memory_order_relaxed);
    }
    return set;
}

}  // namespace

const Loops& best_loops() { return active()->loops; }

const Loops& best_loops_for_channels(int64_t channels) {
    const InstructionSet* set = active();
    while (set->loops.lanes > channels && set->loops.lanes > baseline::table.lanes) set++;
    return set->loops;
}

const char* instruction_set() { return best_loops().name; }

bool convolves(Type type) {
    if (type == Type::float32) return true;
#if defined(__x86_64__)
    if (type == Type::bfloat16) return &best_loops() == &avx512_bf16::table;
#endif
    return false;  // float16 takes 5 to 600 times as long as float32 where it is emulated
}

bool use_instruction_set(const char* name) {
    for (const InstructionSet* set = instruction_sets();; set++) {
        if (std::strcmp(set->loops.name, name) == 0) {
            if (set->available) chosen.store(set, std::memory_order_relaxed);
            return set->available;
        }
        if (&set->loops == &baseline::table) return false;
    }
}

}  // namespace pix2gan::cpu
