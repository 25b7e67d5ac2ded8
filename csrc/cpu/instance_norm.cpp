// instance_norm_stats and instance_norm_act: cut into chunks of rows, which threads sum, merge and
// write.
//
// x is read twice, y written once. Contiguous tensors: where there are many planes, a thread does
// both passes over one plane, which its cache still holds; large and few planes are cut into
// chunks. Channels-last: one pass sums, another writes chunks of rows. What is summed is chunks of
// rows for all channels or, where there are enough of them, blocks of channels for all chunks of
// rows: then only means and scales go from thread to thread. Chunks depend on the shape alone and
// are merged in order, so results do not depend on the number of threads.

#include <cmath>

#include "loops.h"

namespace pix2gan::cpu {
namespace {

// From the exact mean: what rounding it to a float leaves out goes into the shift.
Affine affine_of(const InstanceNormAct& k, int64_t n, int64_t c, double mean, float rstd) {
    const float weight = k.weight != nullptr ? k.weight[n * k.weight_image + c] : 1.0f;
    const float bias = k.bias != nullptr ? k.bias[n * k.bias_image + c] : 0.0f;
    const float rounded = static_cast<float>(mean), scale = weight * rstd;
    return {rounded, scale, static_cast<float>(bias - (mean - rounded) * scale)};
}

float rstd_of(double m2, double count, double eps) {
    return static_cast<float>(1 / std::sqrt(m2 / count + eps));
}

// ------------------------------------------------------------------------------ contiguous planes

struct PlaneChunks {
    InstanceNormLoops loops;
    Type type;
    const void* x;
    int64_t c, w, x_image, x_plane;
    Chunks chunks;

    template <class Struct>
    PlaneChunks(const Struct& k, const InstanceNormLoops& loops)
        : loops(loops),
          type(k.type),
          x(k.x),
          c(k.c),
          w(k.w),
          x_image(k.x_image),
          x_plane(k.x_plane),
          chunks(k.h, k.w) {}

    const void* plane_at(int64_t plane) const {
        return at(x, plane / c * x_image + plane % c * x_plane, type);
    }
    Moments sum(int64_t plane, int64_t chunk) const {
        const int64_t first = chunks.begin(chunk), last = chunks.end(chunk);
        return loops.moments(at(plane_at(plane), first * w, type), (last - first) * w);
    }
    Moments sum(int64_t plane) const {
        Moments m;
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) m.merge(sum(plane, chunk));
        return m;
    }
};

struct NormalisePlanes {
    const InstanceNormAct& k;
    PlaneChunks planes;

    // Returns the exact mean; the rounded statistics go to the outputs.
    double statistics(int64_t plane, const Moments& m) const {
        const bool given = k.given_mean != nullptr;
        const double mean = given ? k.given_mean[plane] : m.mean;
        k.rstd[plane] = given ? k.given_rstd[plane] : rstd_of(m.m2, m.count, k.eps);
        k.mean[plane] = static_cast<float>(mean);
        return mean;
    }

    void write(int64_t plane, int64_t first, int64_t last, double mean) const {
        const int64_t out_plane = (k.h + 2 * k.pad) * (k.w + 2 * k.pad);
        planes.loops.normalise_plane(
            k, planes.plane_at(plane),
            k.residual != nullptr ? at(k.residual, plane * k.h * k.w, k.type) : nullptr,
            at(k.y, plane * out_plane, k.type), first, last,
            affine_of(k, plane / k.c, plane % k.c, mean, k.rstd[plane]));
    }

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t plane = begin; plane < end; plane++) {
            const Moments m = k.given_mean != nullptr ? Moments() : planes.sum(plane);
            write(plane, 0, k.h, statistics(plane, m));
        }
    }
};

struct SumPlaneChunks {
    PlaneChunks planes;
    Moments* parts;  // [planes, chunks]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++)
            parts[i] = planes.sum(i / planes.chunks.count, i % planes.chunks.count);
    }
};

struct WritePlaneChunks {
    NormalisePlanes planes;
    Chunks chunks;
    const double* means;  // [planes]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++) {
            const int64_t plane = i / chunks.count, chunk = i % chunks.count;
            planes.write(plane, chunks.begin(chunk), chunks.end(chunk), means[plane]);
        }
    }
};

void normalise_planes(const InstanceNormAct& k, const Workers& workers) {
    const InstanceNormLoops loops =
        best_loops().instance_norm(k.type, k.act, k.residual != nullptr);
    const NormalisePlanes task = {k, PlaneChunks(k, loops)};
    const Chunks& chunks = task.planes.chunks;
    const int64_t planes = k.n * k.c;
    if (planes * k.h * k.w < task_elements / 2) return task(0, planes);
    if (chunks.count == 1 || planes >= 4 * workers.count) return run(workers, planes, task);

    const bool given = k.given_mean != nullptr;
    Scratch<double> means(planes);
    Scratch<Moments> parts(given ? 0 : planes * chunks.count);
    if (!given) run(workers, planes * chunks.count, SumPlaneChunks{task.planes, parts.get()});
    for (int64_t plane = 0; plane < planes; plane++) {
        Moments m;
        for (int64_t chunk = 0; !given && chunk < chunks.count; chunk++)
            m.merge(parts[plane * chunks.count + chunk]);
        means[plane] = task.statistics(plane, m);
    }
    run(workers, planes * chunks.count, WritePlaneChunks{task, chunks, means.get()});
}

// ---------------------------------------------------------------------------------- channels-last

// Sums of chunks of rows, for channels [first, first + channels).
struct RowSums {
    const Loops& set;
    InstanceNormLoops loops;
    Type type;
    const void* x;
    int64_t c, w;
    Chunks chunks;

    template <class Struct>
    RowSums(const Struct& k, const Loops& set, const InstanceNormLoops& loops)
        : set(set), loops(loops), type(k.type), x(k.x), c(k.c), w(k.w), chunks(k.h, k.w * k.c) {}

    // sums: [3, channels]
    void sum(int64_t n, int64_t chunk, int64_t first, int64_t channels, float* sums) const {
        const int64_t begin = chunks.begin(chunk), rows = chunks.end(chunk) - begin;
        loops.sum_pixels(at(x, (n * chunks.height + begin) * w * c + first, type), rows * w, c,
                         channels, sums);
    }

    // Adds a chunk to the mean and m2 [channels] of those before it.
    void merge(int64_t chunk, const float* sums, int64_t channels, double* mean, double* m2) const {
        const int64_t begin = chunks.begin(chunk), rows = chunks.end(chunk) - begin;
        for (int64_t i = 0; chunk == 0 && i < channels; i++) mean[i] = m2[i] = 0;
        set.merge_sums(sums, channels, static_cast<double>(rows * w),
                       static_cast<double>(begin * w), mean, m2);
    }
};

struct SumRows {
    RowSums rows;
    float* sums;  // [n, chunks, 3, c]

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i++)
            rows.sum(i / rows.chunks.count, i % rows.chunks.count, 0, rows.c,
                     sums + i * 3 * rows.c);
    }

    // The mean and m2 [c] of image n.
    void merge(int64_t n, double* mean, double* m2) const {
        for (int64_t chunk = 0; chunk < rows.chunks.count; chunk++)
            rows.merge(chunk, sums + (n * rows.chunks.count + chunk) * 3 * rows.c, rows.c, mean,
                       m2);
    }
};

// Whole cache lines, and as many channels as leave what the inner loops need in registers.
constexpr int64_t block_channels = 64;

struct SumBlocks {
    const InstanceNormAct& k;
    RowSums rows;
    float* affine;  // [n, 3, c]

    int64_t tasks() const { return k.n * (k.c / block_channels); }

    void operator()(int64_t begin, int64_t end) const {
        alignas(64) float sums[3 * block_channels];
        double mean[block_channels], m2[block_channels];
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / (k.c / block_channels);
            const int64_t first = i % (k.c / block_channels) * block_channels;
            for (int64_t chunk = 0; chunk < rows.chunks.count; chunk++) {
                rows.sum(n, chunk, first, block_channels, sums);
                rows.merge(chunk, sums, block_channels, mean, m2);
            }
            rows.set.finish_channels(k, n, first, block_channels, mean, m2, affine + n * 3 * k.c);
        }
    }
};

struct WriteRows {
    const InstanceNormAct& k;
    InstanceNormLoops loops;
    Chunks chunks;
    const float* affine;  // [n, 3, c]

    void operator()(int64_t begin, int64_t end) const {
        const int64_t image = k.h * k.w * k.c;
        const int64_t out_image = (k.h + 2 * k.pad) * (k.w + 2 * k.pad) * k.c;
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / chunks.count, chunk = i % chunks.count;
            loops.normalise_image(
                k, at(k.x, n * image, k.type),
                k.residual != nullptr ? at(k.residual, n * image, k.type) : nullptr,
                at(k.y, n * out_image, k.type), chunks.begin(chunk), chunks.end(chunk),
                affine + n * 3 * k.c);
        }
    }
};

void normalise_images(const InstanceNormAct& k, const Workers& workers) {
    const Loops& set = best_loops_for_channels(k.c);
    const InstanceNormLoops loops = set.instance_norm(k.type, k.act, k.residual != nullptr);
    const RowSums rows(k, set, loops);
    const Chunks& chunks = rows.chunks;
    Scratch<float> affine(k.n * 3 * k.c);
    const SumBlocks blocks = {k, rows, affine.get()};
    const bool given = k.given_mean != nullptr;
    // Blocks are taken where they keep the threads as busy as rows do.
    const int64_t most = ceil_div(blocks.tasks(), workers.count) * workers.count;
    if (!given && k.c % block_channels == 0 && 4 * most <= 5 * blocks.tasks()) {
        if (chunks.count == 1)
            blocks(0, blocks.tasks());
        else
            run(workers, blocks.tasks(), blocks);
    } else {
        Scratch<float> parts(given ? 0 : k.n * chunks.count * 3 * k.c);
        Scratch<double> moments(2 * k.c);
        double *mean = moments.get(), *m2 = mean + k.c;
        const SumRows sum = {rows, parts.get()};
        if (!given) run(workers, k.n * chunks.count, sum);
        for (int64_t n = 0; n < k.n; n++) {
            if (!given) sum.merge(n, mean, m2);
            for (int64_t c = 0; given && c < k.c; c++) mean[c] = k.given_mean[n * k.c + c];
            set.finish_channels(k, n, 0, k.c, mean, m2, affine.get() + n * 3 * k.c);
        }
    }
    run(workers, k.n * chunks.count, WriteRows{k, loops, chunks, affine.get()});
}

struct PlaneMoments {
    const InstanceNormStats& k;
    PlaneChunks planes;

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t plane = begin; plane < end; plane++) {
            const Moments m = planes.sum(plane);
            k.mean[plane] = static_cast<float>(m.mean);
            k.m2[plane] = static_cast<float>(m.m2);
        }
    }
};

}  // namespace

void instance_norm_stats(const InstanceNormStats& k, const Workers& workers) {
    if (k.n * k.c * k.h * k.w == 0) return;
    const Loops& set = k.channels_last ? best_loops_for_channels(k.c) : best_loops();
    const InstanceNormLoops loops = set.instance_norm(k.type, Act::linear, false);
    if (!k.channels_last) return run(workers, k.n * k.c, PlaneMoments{k, PlaneChunks(k, loops)});
    const RowSums rows(k, set, loops);
    Scratch<float> parts(k.n * rows.chunks.count * 3 * k.c);
    Scratch<double> moments(2 * k.c);
    double *mean = moments.get(), *m2 = mean + k.c;
    const SumRows sum = {rows, parts.get()};
    run(workers, k.n * rows.chunks.count, sum);
    for (int64_t n = 0; n < k.n; n++) {
        sum.merge(n, mean, m2);
        for (int64_t c = 0; c < k.c; c++) {
            k.mean[n * k.c + c] = static_cast<float>(mean[c]);
            k.m2[n * k.c + c] = static_cast<float>(m2[c]);
        }
    }
}

void instance_norm_act(const InstanceNormAct& k, const Workers& workers) {
    if (k.n * k.c * k.h * k.w == 0) return;
    if (k.channels_last)
        normalise_images(k, workers);
    else
        normalise_planes(k, workers);
}

}  // namespace pix2gan::cpu
