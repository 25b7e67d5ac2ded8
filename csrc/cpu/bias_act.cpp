// bias_act on dense [outer, channels, inner]: cut into spans with one bias or a run of biases.

#include "loops.h"

namespace pix2gan::cpu {
namespace {

// Where the bias changes every few elements, it is repeated to rows of about this many.
constexpr int64_t row_elements = 1024;

// How often to repeat it: so that rows are whole vectors too, where that is cheap.
int64_t repeats(int64_t period, int64_t outer, int64_t lanes) {
    const int64_t count = ceil_div(row_elements, period);
    return smaller(count >= lanes ? ceil_div(count, lanes) * lanes : count, outer);
}

struct Spans {
    const BiasAct& k;
    BiasActLoops loops;
    int64_t total, step;  // elements in all and a task; the step is a multiple of `row`
    int64_t row;          // elements until the bias repeats
    const float* bias;    // [row], or null: one bias a plane, or none

    void operator()(int64_t first, int64_t last) const {
        const int64_t begin = first * step, end = smaller(last * step, total);
        if (bias != nullptr) {
            for (int64_t i = begin; i < end; i += row)
                loops.span(k, i, smaller(i + row, end), 0, bias);
        } else if (k.b == nullptr) {
            loops.span(k, begin, end, 0, nullptr);
        } else {
            for (int64_t i = begin, stop; i < end; i = stop) {
                const int64_t plane = i / k.inner;
                stop = smaller((plane + 1) * k.inner, end);
                loops.span(k, i, stop, k.b[plane % k.channels], nullptr);
            }
        }
    }
};

}  // namespace

void bias_act(const BiasAct& k, const Workers& workers) {
    const int64_t total = k.outer * k.channels * k.inner;
    if (total == 0) return;
    const Loops& loops = best_loops();
    const int64_t period = k.channels * k.inner;
    const bool rows = k.b != nullptr && k.inner < 2 * loops.lanes;
    const int64_t row = rows ? period * repeats(period, k.outer, loops.lanes) : 1;
    Scratch<float> bias(row);
    if (rows) {
        for (int64_t c = 0; c < k.channels; c++)
            for (int64_t i = 0; i < k.inner; i++) bias[c * k.inner + i] = k.b[c];
        for (int64_t i = period; i < row; i++) bias[i] = bias[i - period];
    }
    const int64_t step = ceil_div(task_elements / 2, row) * row;
    run(workers, ceil_div(total, step),
        Spans{k, loops.bias_act(k.order, k.type, k.act), total, step, row,
              rows ? bias.get() : nullptr});
}

}  // namespace pix2gan::cpu
