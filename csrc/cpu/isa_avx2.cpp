// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)

#include <immintrin.h>

#include "dispatch.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define PIX2GAN_ISA avx2
#define PIX2GAN_LANES 8
#define PIX2GAN_LEVEL 1
#include "kernels_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const pix2gan::cpu::Kernels& pix2gan::cpu::avx2_kernels() { return avx2::table; }

#endif
