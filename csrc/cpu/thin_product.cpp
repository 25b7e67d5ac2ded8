// Products of a few rows with a large matrix, cut by its rows or its columns.

#include "loops.h"

namespace pix2gan::cpu {
namespace {

struct Parts {
    const ThinProduct& k;
    ThinProductLoop loop;

    void operator()(int64_t first, int64_t last) const { loop(k, first, last); }
};

}  // namespace

void thin_product(const ThinProduct& k, const Workers& workers) {
    const int64_t parts = k.form == ThinProduct::Form::times ? ceil_div(k.k, thin_product_tile)
                                                             : k.n / thin_product_block;
    run(workers, parts, Parts{k, best_loops().thin_product(k.form)});
}

}  // namespace pix2gan::cpu
