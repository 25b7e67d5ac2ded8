// Sums of picked rows, some rows a task.

#include "loops.h"

namespace pix2gan::cpu {
namespace {

struct Rows {
    const SumRows& k;
    SumRowsLoop loop;
    int64_t step;  // rows of a task

    void operator()(int64_t begin, int64_t end) const {
        loop(k, begin * step, smaller(end * step, k.count));
    }
};

}  // namespace

void sum_rows(const SumRows& k, const Workers& workers) {
    const int64_t row = k.terms * k.columns;
    const int64_t step = larger(1, task_elements / larger(1, row));
    const Rows rows = {k, best_loops().sum_rows(k), step};
    if (k.count * row < task_elements) return rows.loop(k, 0, k.count);
    run(workers, ceil_div(k.count, step), rows);
}

}  // namespace pix2gan::cpu
