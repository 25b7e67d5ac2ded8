// The kernels for AVX-512 with conversion to bfloat16.
#if defined(__x86_64__)

#include <immintrin.h>

#include "dispatch.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define PIX2GAN_ISA avx512_bf16
#define PIX2GAN_LANES 16
#define PIX2GAN_LEVEL 3
#include "kernels_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const pix2gan::cpu::Kernels& pix2gan::cpu::avx512_bf16_kernels() { return avx512_bf16::table; }

#endif
