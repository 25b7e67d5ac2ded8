// instance_norm_stats and instance_norm_act: cut into chunks of rows, which threads sum, merge and
// write.
//
// x is read twice, y written once. Contiguous tensors: where there are many planes, a thread does
// both passes over one plane, which its cache still holds; large and few planes are cut into
// chunks. Channels-last: threads sum chunks of rows, wait for each other and write the same rows.
// Chunks depend on the shape alone and are merged in order, so results do not depend on the number
// of threads.

#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

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

// Sums are taken of so many pixels at least, so that what threads tell each other of them, lines of
// the cache that another core has just written, takes little against reading them.
constexpr int64_t least_pixels = 1024;
// Few chunks are cut into blocks of channels, whole cache lines, until there are so many tasks.
constexpr int64_t wanted_tasks = 4, block_channels = 64;

// Sums of images, by chunks of rows and, where those are few, blocks of channels.
struct ImageSums {
    const Loops& set;
    InstanceNormLoops loops;
    Type type;
    const void* x;
    int64_t c, w;
    Chunks chunks;
    int64_t blocks, width, tasks;  // width: channels of a block but the last one

    template <class Struct>
    ImageSums(const Struct& k, const Loops& set, const InstanceNormLoops& loops)
        : set(set),
          loops(loops),
          type(k.type),
          x(k.x),
          c(k.c),
          w(k.w),
          chunks(k.h, k.w * k.c, ceil_div(least_pixels, k.w)) {
        const bool small = k.n * k.h * k.w * k.c <= task_elements;
        const int64_t most = small ? 1 : ceil_div(wanted_tasks, k.n * chunks.count);
        width = ceil_div(ceil_div(k.c, most), block_channels) * block_channels;
        blocks = ceil_div(k.c, width);
        tasks = k.n * chunks.count * blocks;
    }

    int64_t size() const { return tasks * 3 * width; }

    // sums: [n, chunks, blocks, 3, channels of the block]
    void sum(int64_t task, float* sums) const {
        const int64_t rows = task / blocks, n = rows / chunks.count, chunk = rows % chunks.count;
        const int64_t begin = chunks.begin(chunk), first = task % blocks * width;
        loops.sum_pixels(at(x, (n * chunks.height + begin) * w * c + first, type),
                         (chunks.end(chunk) - begin) * w, c, smaller(width, c - first),
                         sums + task * 3 * width);
    }

    // The mean and m2 [c] of image n, in the order of its chunks.
    void merge(int64_t n, const float* sums, double* mean, double* m2) const {
        for (int64_t i = 0; i < c; i++) mean[i] = m2[i] = 0;
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            const int64_t begin = chunks.begin(chunk), rows = chunks.end(chunk) - begin;
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t first = block * width;
                const int64_t task = (n * chunks.count + chunk) * blocks + block;
                set.merge_sums(sums + task * 3 * width, smaller(width, c - first),
                               static_cast<double>(rows * w), static_cast<double>(begin * w),
                               mean + first, m2 + first);
            }
        }
    }
};

struct SumImages {
    const ImageSums& images;
    float* sums;

    void operator()(int64_t begin, int64_t end) const {
        for (int64_t task = begin; task < end; task++) images.sum(task, sums);
    }
};

// Tasks in equal shares, of which a thread takes those of its own share first and then what the
// other shares have left. Each share has a cache line of its own.
class Shares {
  public:
    Shares(int64_t tasks, int64_t shares) : tasks_(tasks), shares_(shares), taken_(shares) {
        for (int64_t i = 0; i < shares; i++) new (&taken_[i]) Line{{0}};
    }

    // Calls work(task) for tasks that nobody else has taken, until there are none; returns how
    // many. Those of a share are taken from its first one on, or from its last one back.
    template <class Work>
    int64_t take(int64_t own, bool backwards, const Work& work) const {
        int64_t count = 0;
        for (int64_t i = 0; i < shares_; i++) {
            const int64_t share = (own + i) % shares_;
            const int64_t first = share * tasks_ / shares_, last = (share + 1) * tasks_ / shares_;
            for (;; count++) {
                const int64_t n = taken_[share].count.fetch_add(1, std::memory_order_relaxed);
                if (n >= last - first) break;
                work(backwards ? last - 1 - n : first + n);
            }
        }
        return count;
    }

  private:
    struct alignas(64) Line {
        std::atomic<int64_t> count;
    };
    int64_t tasks_, shares_;
    Scratch<Line> taken_;
};

// Both passes in one parallel region. A thread writes the rows that it has summed, in reverse: the
// last ones are in its own cache still. In between it waits for the sums of other threads, which
// are all being computed by then, as it has taken what nobody had begun: the wait ends however few
// threads there are.
struct SumAndWrite {
    const InstanceNormAct& k;
    const ImageSums& images;
    const Chunks& chunks;  // of rows, to write
    float* sums;
    const Shares &to_sum, &to_write;
    std::atomic<int64_t>& summed;

    void operator()(int64_t share, int64_t) const {
        if (k.given_mean == nullptr) {
            const int64_t done =
                to_sum.take(share, false, [&](int64_t task) { images.sum(task, sums); });
            summed.fetch_add(done, std::memory_order_acq_rel);
            while (summed.load(std::memory_order_acquire) < images.tasks) pause();
        }
        Scratch<float> affine(4 * k.c);
        Scratch<double> moments(2 * k.c);
        int64_t ready = -1;  // the image that `affine` belongs to
        to_write.take(share, true, [&](int64_t task) {
            const int64_t n = task / chunks.count, chunk = task % chunks.count;
            if (n != ready) finish(ready = n, moments.get(), affine.get());
            write(n, chunk, affine.get());
        });
    }

    // Every thread does this for itself.
    void finish(int64_t n, double* mean, float* affine) const {
        double* m2 = mean + k.c;
        if (k.given_mean == nullptr)
            images.merge(n, sums, mean, m2);
        else
            for (int64_t c = 0; c < k.c; c++) mean[c] = k.given_mean[n * k.c + c];
        images.set.finish_channels(k, n, mean, m2, affine);
    }

    void write(int64_t n, int64_t chunk, const float* affine) const {
        if (chunk == 0) {
            std::memcpy(k.mean + n * k.c, affine, k.c * sizeof(float));
            std::memcpy(k.rstd + n * k.c, affine + 3 * k.c, k.c * sizeof(float));
        }
        const int64_t image = k.h * k.w * k.c;
        const int64_t out_image = (k.h + 2 * k.pad) * (k.w + 2 * k.pad) * k.c;
        images.loops.normalise_image(
            k, at(k.x, n * image, k.type),
            k.residual != nullptr ? at(k.residual, n * image, k.type) : nullptr,
            at(k.y, n * out_image, k.type), chunks.begin(chunk), chunks.end(chunk), affine);
    }

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
};

void normalise_images(const InstanceNormAct& k, const Workers& workers) {
    const Loops& set = best_loops_for_channels(k.c);
    const ImageSums images(k, set, set.instance_norm(k.type, k.act, k.residual != nullptr));
    const Chunks chunks(k.h, k.w * k.c);
    const int64_t tasks = k.n * chunks.count, shares = smaller(workers.count, tasks);
    Scratch<float> sums(k.given_mean != nullptr ? 0 : images.size());
    const Shares to_sum(images.tasks, shares), to_write(tasks, shares);
    std::atomic<int64_t> summed{0};
    run(workers, shares, SumAndWrite{k, images, chunks, sums.get(), to_sum, to_write, summed});
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
    const ImageSums images(k, set, loops);
    Scratch<float> sums(images.size());
    Scratch<double> moments(2 * k.c);
    double *mean = moments.get(), *m2 = mean + k.c;
    run(workers, images.tasks, SumImages{images, sums.get()});
    for (int64_t n = 0; n < k.n; n++) {
        images.merge(n, sums.get(), mean, m2);
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
