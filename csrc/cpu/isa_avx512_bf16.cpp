// The loops for AVX-512 with conversion to bfloat16.

#if defined(__x86_64__)

#include <immintrin.h>

#include "loops.h"

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define PIX2GAN_ISA avx512_bf16
#define PIX2GAN_LANES 16
#define PIX2GAN_LEVEL 3
#include "isa_loops.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
