// The kernels with the vectors that the compiler has everywhere: SSE2 on x86-64, NEON on arm64.

#include "dispatch.h"

#define PIX2GAN_ISA baseline
#define PIX2GAN_LANES 4
#define PIX2GAN_LEVEL 0
#include "kernels_of_isa.h"

const pix2gan::cpu::Kernels& pix2gan::cpu::baseline_kernels() { return baseline::table; }
