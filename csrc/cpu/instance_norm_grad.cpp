// instance_norm_act_grad: the same cuts as the forward pass, see instance_norm.cpp. x and dy are
// read twice, dx is written once.

#include "loops.h"

namespace pix2gan::cpu {
namespace {

float weight_of(const InstanceNormActGrad& k, int64_t n, int64_t c) {
    return k.weight != nullptr ? k.weight[n * k.weight_image + c] : 1.0f;
}

GradAffine affine_of(const InstanceNormActGrad& k, int64_t n, int64_t c) {
    const int64_t plane = n * k.c + c;
    const float bias = k.bias != nullptr ? k.bias[n * k.bias_image + c] : 0.0f;
    return {k.mean[plane], weight_of(k, n, c) * k.rstd[plane], bias, 0, 0};
}

// Writes dweight and dbias, and completes what the second pass needs.
void finish(const InstanceNormActGrad& k, int64_t plane, const GradSums& sums, GradAffine& p) {
    const double rstd = k.rstd[plane], count = static_cast<double>(k.h * k.w);
    k.dbias[plane] = static_cast<float>(sums.s1);
    k.dweight[plane] = static_cast<float>(sums.s2 * rstd);
    if (k.frozen) return;
    p.offset = static_cast<float>(sums.s1 / count);
    p.slope = static_cast<float>(rstd * rstd * sums.s2 / count);
}

// Which padded positions are copies of a pixel, along one axis.
class CopyTable {
  public:
    CopyTable(Pad mode, int64_t pad, int64_t size) : start_(size + 1), position_(size + 2 * pad) {
        int64_t count = 0;
        // Far pixels have no copies: only those within reach of an end are searched for.
        for (int64_t i = 0; i < size; i++) {
            start_[i] = count;
            position_[count++] = i + pad;
            if (mode == Pad::zeros || (i > pad && i < size - 1 - pad)) continue;
            for (int64_t j = 0; j < 2 * pad; j++) {
                const int64_t position = j < pad ? j : size + j;
                if (pad_source(mode, position, pad, size) == i) position_[count++] = position;
            }
        }
        start_[size] = count;
    }
    Copies copies() const { return {start_.get(), position_.get()}; }

  private:
    Scratch<int64_t> start_, position_;
};

struct Planes {
    const InstanceNormActGrad& k;
    InstanceNormGradLoops loops;
    Copies rows;

    int64_t padded_plane() const { return (k.h + 2 * k.pad) * (k.w + 2 * k.pad); }
    const void* x(int64_t plane) const {
        return at(k.x, plane / k.c * k.x_image + plane % k.c * k.x_plane, k.type);
    }
    GradSums sum(int64_t plane, int64_t first, int64_t last, const GradAffine& p,
                 float* buffer) const {
        return loops.sum_plane(k, rows, x(plane), at(k.dy, plane * padded_plane(), k.type), first,
                               last, p, buffer);
    }
    void write(int64_t plane, int64_t first, int64_t last, const GradAffine& p,
               float* buffer) const {
        loops.write_plane(k, rows, x(plane), at(k.dy, plane * padded_plane(), k.type),
                          at(k.dx, plane * k.h * k.w, k.type), first, last, p, buffer);
    }
    int64_t buffer_elements() const { return larger(grad_group_elements, k.w); }
};

// Both passes over whole planes.
struct WholePlanes {
    Planes planes;
    Chunks chunks;

    void operator()(int64_t begin, int64_t end) const {
        Scratch<float> buffer(planes.buffer_elements());
        for (int64_t plane = begin; plane < end; plane++) {
            GradAffine p = affine_of(planes.k, plane / planes.k.c, plane % planes.k.c);
            GradSums sums = {0, 0};
            for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                const GradSums part =
                    planes.sum(plane, chunks.begin(chunk), chunks.end(chunk), p, buffer.get());
                sums.s1 += part.s1, sums.s2 += part.s2;
            }
            finish(planes.k, plane, sums, p);
            planes.write(plane, 0, planes.k.h, p, buffer.get());
        }
    }
};

struct SumPlaneChunks {
    Planes planes;
    Chunks chunks;
    GradSums* parts;  // [planes, chunks]

    void operator()(int64_t begin, int64_t end) const {
        Scratch<float> buffer(planes.buffer_elements());
        for (int64_t i = begin; i < end; i++) {
            const int64_t plane = i / chunks.count, chunk = i % chunks.count;
            parts[i] = planes.sum(plane, chunks.begin(chunk), chunks.end(chunk),
                                  affine_of(planes.k, plane / planes.k.c, plane % planes.k.c),
                                  buffer.get());
        }
    }
};

struct WritePlaneChunks {
    Planes planes;
    Chunks chunks;
    const GradAffine* affine;  // [planes]

    void operator()(int64_t begin, int64_t end) const {
        Scratch<float> buffer(planes.buffer_elements());
        for (int64_t i = begin; i < end; i++) {
            const int64_t plane = i / chunks.count, chunk = i % chunks.count;
            planes.write(plane, chunks.begin(chunk), chunks.end(chunk), affine[plane],
                         buffer.get());
        }
    }
};

void planes_grad(const InstanceNormActGrad& k, const Workers& workers) {
    const CopyTable rows(k.pad_mode, k.pad, k.h);
    const Planes planes = {k, best_loops().instance_norm_grad(k.type, k.act), rows.copies()};
    const Chunks chunks(k.h, k.w);
    const int64_t count = k.n * k.c;
    const WholePlanes whole = {planes, chunks};
    if (count * k.h * k.w < task_elements / 2) return whole(0, count);
    if (chunks.count == 1 || count >= 4 * workers.count) return run(workers, count, whole);

    Scratch<GradSums> parts(count * chunks.count);
    Scratch<GradAffine> affine(count);
    run(workers, count * chunks.count, SumPlaneChunks{planes, chunks, parts.get()});
    for (int64_t plane = 0; plane < count; plane++) {
        GradSums sums = {0, 0};
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            const GradSums& part = parts[plane * chunks.count + chunk];
            sums.s1 += part.s1, sums.s2 += part.s2;
        }
        affine[plane] = affine_of(k, plane / k.c, plane % k.c);
        finish(k, plane, sums, affine[plane]);
    }
    run(workers, count * chunks.count, WritePlaneChunks{planes, chunks, affine.get()});
}

// ---------------------------------------------------------------------------------- channels-last

struct Images {
    const InstanceNormActGrad& k;
    InstanceNormGradLoops loops;
    Copies rows, columns;
    Chunks chunks;
    float* affine;  // [n, 5, c]
    float* sums;    // [n, chunks, 2, c + grad_extra]

    int64_t image() const { return k.h * k.w * k.c; }
    int64_t padded_image() const { return (k.h + 2 * k.pad) * (k.w + 2 * k.pad) * k.c; }
    float* sums_of(int64_t i) const { return sums + i * 2 * (k.c + grad_extra); }
};

struct SumImageChunks {
    Images images;

    void operator()(int64_t begin, int64_t end) const {
        const InstanceNormActGrad& k = images.k;
        Scratch<float> buffer(k.w * k.c);
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / images.chunks.count, chunk = i % images.chunks.count;
            images.loops.sum_image(k, images.rows, images.columns,
                                   at(k.x, n * images.image(), k.type),
                                   at(k.dy, n * images.padded_image(), k.type),
                                   images.chunks.begin(chunk), images.chunks.end(chunk),
                                   images.affine + n * 5 * k.c, images.sums_of(i), buffer.get());
        }
    }
};

struct WriteImageChunks {
    Images images;

    void operator()(int64_t begin, int64_t end) const {
        const InstanceNormActGrad& k = images.k;
        Scratch<float> buffer(k.w * k.c);
        for (int64_t i = begin; i < end; i++) {
            const int64_t n = i / images.chunks.count, chunk = i % images.chunks.count;
            images.loops.write_image(
                k, images.rows, images.columns, at(k.x, n * images.image(), k.type),
                at(k.dy, n * images.padded_image(), k.type), at(k.dx, n * images.image(), k.type),
                images.chunks.begin(chunk), images.chunks.end(chunk), images.affine + n * 5 * k.c,
                buffer.get());
        }
    }
};

void images_grad(const InstanceNormActGrad& k, const Workers& workers) {
    const Chunks chunks(k.h, k.w * k.c);
    Scratch<float> affine(k.n * 5 * k.c), sums(k.n * chunks.count * 2 * (k.c + grad_extra));
    const CopyTable rows(k.pad_mode, k.pad, k.h), columns(k.pad_mode, k.pad, k.w);
    const Images images = {k,
                           best_loops_for_channels(k.c).instance_norm_grad(k.type, k.act),
                           rows.copies(),
                           columns.copies(),
                           chunks,
                           affine.get(),
                           sums.get()};
    for (int64_t n = 0; n < k.n; n++) {
        float* a = affine.get() + n * 5 * k.c;
        for (int64_t c = 0; c < k.c; c++) {
            const GradAffine p = affine_of(k, n, c);
            a[c] = p.mean, a[k.c + c] = p.scale, a[2 * k.c + c] = p.bias;
        }
    }
    run(workers, k.n * chunks.count, SumImageChunks{images});
    Scratch<GradSums> totals(k.c);
    for (int64_t n = 0; n < k.n; n++) {
        for (int64_t c = 0; c < k.c; c++) totals[c] = {0, 0};
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            const float* s = images.sums_of(n * chunks.count + chunk);
            for (int64_t c = 0; c < k.c; c++)
                totals[c].s1 += s[c], totals[c].s2 += s[k.c + grad_extra + c];
        }
        float* a = affine.get() + n * 5 * k.c;
        for (int64_t c = 0; c < k.c; c++) {
            GradAffine p = affine_of(k, n, c);
            finish(k, n * k.c + c, totals[c], p);
            a[3 * k.c + c] = p.slope, a[4 * k.c + c] = p.offset;
        }
    }
    run(workers, k.n * chunks.count, WriteImageChunks{images});
}

}  // namespace

void instance_norm_act_grad(const InstanceNormActGrad& k, const Workers& workers) {
    if (k.n * k.c * k.h * k.w == 0) return;
    if (k.channels_last)
        images_grad(k, workers);
    else
        planes_grad(k, workers);
}

}  // namespace pix2gan::cpu
