// What ChargE3Net's probes sum over their atoms, edge by edge while its numbers are in the cache:
//
//     sum_j R_c(r_ij) (A_jc . Y_l(d_ij)),   c the channels of Y_l, one degree behind the other
//
// and, of a promolecule, spherical atoms.
//
// R is read from a table of cubic Hermite pieces: rows 2 left .. 2 left + 3 times four weights. A
// degree's channels are filled up to a multiple of 16, with zeros. The time goes into reading the
// table, which lies in the second or third cache.
//
// Compiled with -DLMAX=l; float32.

#include "exponential.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr long L = LMAX, HARMONICS = (L + 1) * (L + 1), W = 16;
constexpr long TOGETHER = 8;  // probes whose sums are in the cache together
typedef Floats V;
typedef float U __attribute__((vector_size(64), aligned(4), may_alias));

static inline V load(const float *at) { return *(const U *)at; }
static inline void store(float *at, V v) { *(U *)at = v; }

// Edges by the image that sends, from probes to atoms.
struct Edges {
    int64_t count;
    const int64_t *receivers, *senders;
    const double *vectors;
};
// R(r), and what atoms send: (A, width), block of 16 by block, 2 l + 1 rows each.
struct Sources {
    const float *table, *packed;
    int64_t bins, columns, width;
    double cutoff;
    const int64_t *blocks;  // how many a degree has, (L + 1)
};
// Spherical atoms: by type (T, gaussians) coefficients and (gaussians,) exponents, filled up to a
// multiple of 16 with zeros; no gaussians without a promolecule.
struct Spherical {
    int64_t gaussians;
    const int64_t *types;  // of atoms
    const float *exponents, *coefficients;
    float *to;

    float at(float squared, double cutoff, int64_t atom) const {
        V sum{};
        for (long k = 0; k < gaussians; k += W)
            sum += load(coefficients + types[atom] * gaussians + k) *
                   exponential(load(exponents + k) * -squared);
        float envelope = 1 - squared / float(cutoff * cutoff), total = 0;
        envelope = envelope > 0 ? envelope : 0;
        for (long k = 0; k < W; ++k) total += sum[k];
        return total * envelope * envelope;
    }
};
// Where sums go: `size` of them from `start` on, to `to` in rows of `width`.
struct Piece {
    int64_t start, size, width;
    float *to;
};

// Norms of the harmonics, sqrt((2 l + 1) (2 - delta_m0) (l - m)! / (l + m)!).
struct Norms {
    float of[L + 1][L + 1];
    Norms() {
        for (long l = 0; l <= L; ++l) {
            double ratio = 1;
            for (long m = 0; m <= l; ++m) {
                if (m) ratio /= double(l + m) * double(l - m + 1);
                of[l][m] = std::sqrt((2 * l + 1) * (m ? 2 : 1) * ratio);
            }
        }
    }
};

// W edges at once: their places in the table and their harmonics, y the pole.
struct Group {
    float weights[4][W], harmonics[HARMONICS][W], squared[W];
    int32_t left[W];

    void set(const Norms &norms, const Sources &s, const double *const *vectors) {
        // A place in the table has four digits before its point: float32 would leave three behind.
        const double steps = (s.bins - 1) / s.cutoff, last = s.bins - 1;
        float x[W], y[W], z[W], q[W];
        for (long k = 0; k < W; ++k) {
            const double a = vectors[k][0], b = vectors[k][1], c = vectors[k][2];
            const double square = a * a + b * b + c * c, length = std::sqrt(square);
            const double inverse = length > 0 ? 1 / length : 0.0, exact = length * steps;
            x[k] = a * inverse, y[k] = b * inverse, z[k] = c * inverse, squared[k] = square;
            q[k] = length > 0 ? 1.0f : 0.0f;  // of no direction, all harmonics but Y_0 are zero
            const double place = exact < last ? exact : last, whole = std::floor(place);
            const double node = whole < last - 1 ? whole : last - 1;
            const float t = place - node, c2 = t * t * (3 - 2 * t), c4 = t * t * (t - 1);
            weights[0][k] = 1 - c2, weights[1][k] = c4 - t * (t - 1);
            weights[2][k] = c2, weights[3][k] = c4;
            left[k] = node;
        }
        // d^m P_l(y) / dy^m by its recurrence, times (z + i x)^m.
        float real[W], imaginary[W], first[W];
        for (long k = 0; k < W; ++k) real[k] = 1, imaginary[k] = 0, first[k] = 1;
        for (long m = 0; m <= L; ++m) {
            float before[W], now[W];
            for (long k = 0; k < W; ++k) before[k] = 0, now[k] = first[k];
            for (long l = m; l <= L; ++l) {
                const float norm = norms.of[l][m], rise = 2 * l + 1, fall = l + m;
                const float over = 1.0f / (l + 1 - m);
                float *plus = harmonics[l * l + l + m], *minus = harmonics[l * l + l - m];
                for (long k = 0; k < W; ++k) {
                    const float part = norm * now[k];
                    minus[k] = part * imaginary[k];
                    if (m == 0) minus[k] = part;
                    else plus[k] = part * real[k];
                    const float next = (rise * y[k] * now[k] - fall * q[k] * before[k]) * over;
                    before[k] = now[k], now[k] = next;
                }
            }
            for (long k = 0; k < W; ++k) {
                const float turned = z[k] * real[k] - x[k] * imaginary[k];
                imaginary[k] = z[k] * imaginary[k] + x[k] * real[k], real[k] = turned;
                first[k] *= 2 * m + 1;
            }
        }
    }
};

// Four rows of a table, and what to multiply them by.
struct Radial {
    const float *row;
    long stride;
    V weights[4];
    Radial(const Group &group, long k, const Sources &s)
        : row(s.table + 2 * group.left[k] * s.columns), stride(s.columns) {
        for (long n = 0; n < 4; ++n) weights[n] = V{} + group.weights[n][k];
    }
    V next() {
        const V value = load(row) * weights[0] + load(row + stride) * weights[1] +
                        load(row + 2 * stride) * weights[2] + load(row + 3 * stride) * weights[3];
        row += W;
        return value;
    }
};

// Adds an edge's channels of degree D and above. What stays the same is in variables of its own:
// for all that a compiler knows, a sum is written over anything else.
template <long D>
static inline void add(Radial radial, const Group &group, long k, const int64_t *blocks,
                       const float *source, float *sums) {
    if constexpr (D <= L) {
        V harmonics[2 * D + 1];
        for (long m = 0; m < 2 * D + 1; ++m) harmonics[m] = V{} + group.harmonics[D * D + m][k];
        for (long b = blocks[D]; b; --b, source += (2 * D + 1) * W, sums += W) {
            V coupled = load(source);  // Y_0 is one
            if constexpr (D > 0) {
                coupled *= harmonics[0];
#pragma GCC unroll 32
                for (long m = 1; m < 2 * D + 1; ++m) coupled += load(source + m * W) * harmonics[m];
            }
            store(sums, load(sums) + radial.next() * coupled);
        }
        add<D + 1>(radial, group, k, blocks, source, sums);
    }
}

// Numbers of one row, to another place.
static inline void copy(long size, const float *from, float *to) {
    if (size < W) {
        std::memcpy(to, from, size * sizeof(float));
        return;
    }
    for (long k = 0; k + W <= size; k += W) store(to + k, load(from + k));
    store(to + size - W, load(from + size - W));
}

// Probes that an edge reaches, and edges by TOGETHER of them, as they were by the image that sends.
struct Order {
    std::vector<int64_t> rows, starts, edges;  // a probe's row; where a set's edges begin; which
    long points = 0;

    Order(const Edges &given, long probes, int64_t *reached)
        : rows(probes, 0), starts(probes / TOGETHER + 3, 0), edges(given.count) {
        for (long e = 0; e < given.count; ++e) rows[given.receivers[e]] = 1;
        for (long p = 0; p < probes; ++p)
            if (rows[p]) reached[points] = p, rows[p] = points++;
        for (long e = 0; e < given.count; ++e) ++starts[set(given, e) + 2];
        for (size_t n = 2; n < starts.size(); ++n) starts[n] += starts[n - 1];
        for (long e = 0; e < given.count; ++e) edges[starts[set(given, e) + 1]++] = e;
    }
    long set(const Edges &given, long e) const { return rows[given.receivers[e]] / TOGETHER; }
};

// What one thread works with.
struct Work {
    std::vector<Group> groups;
    std::vector<float> sums, spherical;

    // The sums of TOGETHER probes from row `from` on, a row of columns each.
    void sum(const Norms &norms, const Sources &s, const Spherical &atoms, const Edges &edges,
             const Order &order, long from) {
        const long first = from < order.points ? order.starts[from / TOGETHER] : 0;
        const long count = from < order.points ? order.starts[from / TOGETHER + 1] - first : 0;
        const int64_t *own = order.edges.data() + first;
        sums.assign(TOGETHER * s.columns, 0.0f), spherical.assign(TOGETHER, 0.0f);
        if ((long)groups.size() < (count + W - 1) / W) groups.resize((count + W - 1) / W);
        for (long e = 0; e < count; e += W) {
            const double *vectors[W];  // the last group is filled up with its first edge
            for (long k = 0; k < W; ++k)
                vectors[k] = edges.vectors + 3 * own[e + k < count ? e + k : e];
            groups[e / W].set(norms, s, vectors);
        }
        for (long e = 0; e < count; ++e) {
            const Group &group = groups[e / W];
            const int64_t atom = edges.senders[own[e]];
            const long row = order.rows[edges.receivers[own[e]]] - from;
            add<0>(Radial(group, e % W, s), group, e % W, s.blocks, s.packed + atom * s.width,
                   sums.data() + row * s.columns);
            if (atoms.gaussians) spherical[row] += atoms.at(group.squared[e % W], s.cutoff, atom);
        }
    }
};

extern "C" {

// Sums of those of P probes that an edge reaches (`reached`), and rows of zeros up to a multiple of
// `rounded`, itself one of TOGETHER; returns how many probes they are.
long probe_sums(long threads, long probes, long rounded, const Edges *edges, const Sources *sources,
                const Spherical *atoms, long pieces, const Piece *piece, int64_t *reached) {
    const Norms norms;
    const Order order(*edges, probes, reached);
    const long rows = (order.points + rounded - 1) / rounded * rounded;
#pragma omp parallel num_threads(threads)
    {
        Work work;
#pragma omp for schedule(static)
        for (long from = 0; from < rows; from += TOGETHER) {
            work.sum(norms, *sources, *atoms, *edges, order, from);
            copy(TOGETHER, work.spherical.data(), atoms->to + from);
            for (long p = 0; p < TOGETHER; ++p)
                for (const Piece *q = piece; q < piece + pieces; ++q)
                    copy(q->size, &work.sums[p * sources->columns + q->start],
                         q->to + (from + p) * q->width);
        }
    }
    return order.points;
}
}
