// The loops for AVX2 with FMA and F16C.

#if defined(__x86_64__)

#include <immintrin.h>

#include "loops.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define PIX2GAN_ISA avx2
#define PIX2GAN_LANES 8
#define PIX2GAN_LEVEL 1
#include "isa_loops.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
