// One step of Adam on a row of weights, cut into spans.

#include "loops.h"

namespace pix2gan::cpu {
namespace {

constexpr int64_t step_elements = task_elements / 4;  // five arrays pass through a core's cache

struct Spans {
    const AdamStep& k;
    AdamLoop loop;

    void operator()(int64_t first, int64_t last) const {
        loop(k, first * step_elements, smaller(last * step_elements, k.n));
    }
};

}  // namespace

void adam_step(const AdamStep& k, const Workers& workers) {
    run(workers, ceil_div(k.n, step_elements), Spans{k, best_loops().adam(k)});
}

}  // namespace pix2gan::cpu
