// All kernels for one instruction set. Included by isa_*.cpp, each of which defines
//   PIX2GAN_ISA    a namespace, which gets the `table` of the kernels
//   PIX2GAN_LANES  floats in a vector
//   PIX2GAN_LEVEL  which intrinsics vector.h may use
// and has told the compiler by a pragma to use the instruction set for what follows. Everything from
// outside (standard library, tasks.h) was included before, so that no function that other files
// share is compiled for a processor that the machine may lack.

namespace pix2gan::cpu::PIX2GAN_ISA {

#include "vector.h"
//
#include "../activation.h"
//
#include "bias_act.h"
#include "instance_norm.h"

const Kernels table = {bias_act_kernel::bias_act, instance_norm_kernel::instance_norm_stats,
                       instance_norm_kernel::instance_norm_act};

}  // namespace pix2gan::cpu::PIX2GAN_ISA
