// All loops for one instruction set. Included by isa_*.cpp, each of which defines
//   PIX2GAN_ISA    a namespace, for everything here exists once per instruction set
//   PIX2GAN_LANES  floats in a vector
//   PIX2GAN_LEVEL  which intrinsics vector.h may use
// and has told the compiler by a pragma to use the instruction set for what follows. Whatever comes
// from outside (the standard library, tasks.h) was included before that pragma, so that no function
// that other files share is compiled for a processor that the machine may lack.

#define PIX2GAN_STRING_OF(name) #name
#define PIX2GAN_STRING(name) PIX2GAN_STRING_OF(name)

// gcc 12 takes the "undefined" operands of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace pix2gan::cpu::PIX2GAN_ISA {

#include "vector.h"
// vector.h comes first: the others use it.
#include "../activation.h"
#include "bias_act_loops.h"
#include "instance_norm_loops.h"
// Uses the one before.
#include "instance_norm_grad_loops.h"
//
#include "upfirdn2d_loops.h"
//
#include "scale_act_loops.h"
//
#include "adam_loops.h"
//
#include "sum_rows_loops.h"
//
#include "thin_product_loops.h"

extern const Loops table = {
    PIX2GAN_STRING(PIX2GAN_ISA),
    lanes,
    bias_act_loops::find,
    instance_norm_loops::find,
    instance_norm_grad_loops::find,
    upfirdn2d_loops::find,
    scale_act_loops::find,
    scale_act_loops::find_weight,
    adam_loops::find,
    sum_rows_loops::find,
    thin_product_loops::find,
    instance_norm_loops::merge_sums,
    instance_norm_loops::finish_channels,
};

}  // namespace pix2gan::cpu::PIX2GAN_ISA
