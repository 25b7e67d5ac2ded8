// upfirdn2d: makes separable terms of the filter, and cuts the output into blocks of rows.

#include <cmath>
#include <cstring>

#include "loops.h"

namespace pix2gan::cpu {
namespace {

// The filter as a sum of fy (x) fx: one term where it is separable or of rank one, as the outer
// products that resampling uses are; else one a row.
class Terms {
  public:
    explicit Terms(const Upfirdn2d& k)
        : fy_(k.filter_h * k.filter_h), fx_(k.filter_h * k.filter_w), rank_one_(k.separable) {
        if (k.separable) {
            for (int64_t i = 0; i < k.filter_w; i++) {
                fy_[i] = k.f[k.correlate ? i : k.filter_w - 1 - i];
                fx_[i] = fy_[i] * k.gain;
            }
            return;
        }
        const int64_t size = k.filter_h * k.filter_w;
        Scratch<float> f(size);
        for (int64_t i = 0; i < size; i++) f[i] = k.f[k.correlate ? i : size - 1 - i];
        rank_one_ = factor(k, f.get());
        if (rank_one_) return;
        std::memset(fy_.get(), 0, k.filter_h * k.filter_h * sizeof(float));
        for (int64_t i = 0; i < k.filter_h; i++) fy_[i * k.filter_h + i] = k.gain;
        std::memcpy(fx_.get(), f.get(), size * sizeof(float));
    }

    int64_t count(const Upfirdn2d& k) const { return rank_one_ ? 1 : k.filter_h; }
    const float* fy() const { return fy_.get(); }
    const float* fx() const { return fx_.get(); }

  private:
    // f = column (x) row through its largest element, if that is so to a rounding error. The column
    // keeps its numbers, which few bits may be enough for.
    bool factor(const Upfirdn2d& k, const float* f) {
        int64_t peak = 0;
        const int64_t size = k.filter_h * k.filter_w;
        for (int64_t i = 1; i < size; i++)
            if (std::fabs(f[i]) > std::fabs(f[peak])) peak = i;
        const double largest = f[peak];
        if (!(std::fabs(largest) > 0) || !std::isfinite(largest)) return false;
        const float *row = f + peak / k.filter_w * k.filter_w, *column = f + peak % k.filter_w;
        for (int64_t i = 0; i < k.filter_h; i++) {
            fy_[i] = column[i * k.filter_w];
            const double share = fy_[i] / largest;
            for (int64_t j = 0; j < k.filter_w; j++)
                if (!(std::fabs(f[i * k.filter_w + j] - share * row[j]) <=
                      1e-7 * std::fabs(largest)))
                    return false;
        }
        for (int64_t j = 0; j < k.filter_w; j++)
            fx_[j] = static_cast<float>(row[j] / largest * k.gain);
        return true;
    }

    Scratch<float> fy_, fx_;
    bool rank_one_;
};

// The taps of every output position of an axis that lie on one of `size` samples. Positions
// [first, last) lose none of theirs.
void clip_taps(int64_t count, int64_t up, int64_t down, int64_t pad, int64_t filter, int64_t size,
               Taps* taps, int64_t& first, int64_t& last) {
    first = last = 0;
    for (int64_t i = 0; i < count; i++) {
        const Taps t = taps_at(i, up, down, pad, filter);
        if (t.first_sample < 0) first = i + 1;
        if (t.first_sample + t.count <= size) last = i + 1;
        taps[i] = clipped(t, up, size);
    }
}

struct FilterRows {
    const Upfirdn2dPlan& p;
    Upfirdn2dLoops loops;
    int64_t rows, blocks;  // rows a block, blocks an image or plane

    void operator()(int64_t begin, int64_t end) const {
        const Upfirdn2d& k = p.k;
        Scratch<float> buffer(larger(p.terms, p.group) * p.stride);
        std::memset(buffer.get(), 0, larger(p.terms, p.group) * p.stride * sizeof(float));
        for (int64_t i = begin; i < end; i++) {
            const int64_t plane = i / blocks, first = i % blocks * rows;
            const int64_t last = smaller(first + rows, k.out_h);
            if (k.channels_last)
                loops.filter_image(p, at(k.x, plane * k.h * k.w * k.c, k.type),
                                   at(k.out, plane * k.out_h * k.out_w * k.c, k.type), first, last,
                                   buffer.get());
            else
                loops.filter_plane(
                    p, at(k.x, plane / k.c * k.x_image + plane % k.c * k.x_plane, k.type),
                    at(k.out, plane * k.out_h * k.out_w, k.type), first, last, buffer.get());
        }
    }
};

// Floats of combined rows that stay in the innermost cache while their columns are combined.
constexpr int64_t tile_elements = 6144;
// Output rows of a plane that are combined before their columns are.
constexpr int64_t group_rows = 16;

}  // namespace

void upfirdn2d(const Upfirdn2d& k, const Workers& workers) {
    if (k.n * k.c * k.out_h * k.out_w == 0) return;
    const Loops& loops = k.channels_last ? best_loops_for_channels(k.c) : best_loops();
    const Terms terms(k);
    Scratch<Taps> rows(k.out_h), columns(k.out_w);
    Upfirdn2dPlan p = {k, terms.count(k), terms.fy(), terms.fx(), rows.get(), columns.get()};
    int64_t first, last;
    clip_taps(k.out_h, k.up_y, k.down_y, k.pad_y, k.filter_h, k.h, rows.get(), p.inner_first,
              p.inner_last);
    clip_taps(k.out_w, k.up_x, k.down_x, k.pad_x, k.filter_w, k.w, columns.get(), first, last);
    const Upfirdn2dLoops found = loops.upfirdn2d(k, p.terms == 1);
    if (k.channels_last && found.windows) {
        p.stride = k.w * k.c;
    } else if (k.channels_last) {
        // Of so many columns, up / down of as many samples are needed, and those of a filter more.
        p.tile = larger(1, (tile_elements / k.c - k.filter_w / k.up_x) * k.up_x / k.down_x);
        p.tile = smaller(p.tile, k.out_w);
        const int64_t samples = (p.tile - 1) * k.down_x / k.up_x + ceil_div(k.filter_w, k.up_x) + 2;
        p.stride = samples * k.c + 2 * loops.lanes;
    } else {
        // From the first tap of the first output to the last tap of the last one, and two vectors.
        p.margin = larger(0, ceil_div(larger(0, k.pad_x), k.up_x) + 1);
        // Multiples of two vectors: what is loaded and stored most lies within cache lines then.
        const int64_t align = 2 * loops.lanes;
        p.margin = ceil_div(p.margin, align) * align;
        const int64_t reach =
            floor_div((k.out_w - 1) * k.down_x - k.pad_x + k.filter_w, k.up_x) + 1;
        p.stride = p.margin + larger(k.w, reach) + 4 * loops.lanes;
        p.stride = ceil_div(p.stride, 2 * align) * 2 * align;
        p.half = p.stride / 2;
        if (p.terms == 1 && p.direct())
            p.group = larger(1, smaller(group_rows, tile_elements / p.stride));
    }
    const int64_t row_elements = k.out_w * (k.channels_last ? k.c : 1);
    const int64_t block = larger(1, smaller(k.out_h, task_elements / 2 / row_elements));
    const int64_t blocks = ceil_div(k.out_h, block), images = k.channels_last ? k.n : k.n * k.c;
    run(workers, images * blocks, FilterRows{p, found, block, blocks});
}

}  // namespace pix2gan::cpu
