// The kernels for AVX-512 as every such server processor has it (F, BW, DQ, VL).
#if defined(__x86_64__)

#include <immintrin.h>

#include "dispatch.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#endif

#define PIX2GAN_ISA avx512
#define PIX2GAN_LANES 16
#define PIX2GAN_LEVEL 2
#include "kernels_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const pix2gan::cpu::Kernels& pix2gan::cpu::avx512_kernels() { return avx512::table; }

#endif
