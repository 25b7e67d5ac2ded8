// The loops with the vectors that the compiler has everywhere: SSE2 on x86-64, NEON on arm64.

#include "loops.h"

#define PIX2GAN_ISA baseline
#define PIX2GAN_LANES 4
#define PIX2GAN_LEVEL 0
#include "isa_loops.h"
