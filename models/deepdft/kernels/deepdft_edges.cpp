// What DeepDFT's probes sum over their atoms, and the steps between its products, each in one pass.
//
// Edges are sorted by receiver: those of point p are starts[p] .. starts[p + 1]. A filter is read
// from a table of cubic Hermite pieces: rows 2 left .. 2 left + 3 times four weights an edge.
//
// Threads share out the points: each number is written by one of them, with the same sums in the
// same order however many there are.
//
// Compiled with -DHIDDEN=H, a multiple of 16; float32.

#include "exponential.h"

#include <cmath>
#include <cstdint>

constexpr long H = HIDDEN, W = 16;
typedef Floats V;
typedef float U __attribute__((vector_size(64), aligned(4), may_alias));

static inline V load(const float *at) { return *(const U *)at; }
static inline void store(float *at, V v) { *(U *)at = v; }

struct Places {  // where edges lie in tables, and whom they join
    const int64_t *starts, *senders, *left;
    const float *weights, *directions;
};

// softplus(x) - ln 2 = max(x, 0) + ln((1 + u) / 2) with u = e^-|x|, and the latter is
// 2 artanh((u - 1) / (u + 3)).
static inline V shifted(V x) {
    V u = exponential(x > 0.0f ? -x : x);
    V z = (u - 1.0f) / (u + 3.0f), q = z * z;
    V sum = V{} + 2.0f / 15;
    sum = sum * q + 2.0f / 13;
    sum = sum * q + 2.0f / 11;
    sum = sum * q + 2.0f / 9;
    sum = sum * q + 2.0f / 7;
    sum = sum * q + 2.0f / 5;
    sum = sum * q + 2.0f / 3;
    sum = sum * q + 2.0f;
    return (x > 0.0f ? x : V{}) + sum * z;
}

static inline V filter(const float *row, long wide, const float *w) {
    return load(row) * w[0] + load(row + wide) * w[1] + load(row + 2 * wide) * w[2] +
           load(row + 3 * wide) * w[3];
}

extern "C" {

// ds (P, H) and dv (P, 3, H): table (rows, 3 H) holds a, b, g; source (A, 5 H) s g | b | v a.
void vector_sums(long threads, long points, const Places *at, const float *table,
                 const float *source, float *ds, float *dv) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p)
        for (long h = 0; h < H; h += W) {
            V s{}, x{}, y{}, z{};
            for (int64_t e = at->starts[p]; e < at->starts[p + 1]; ++e) {
                const float *row = table + 2 * at->left[e] * 3 * H + h, *w = at->weights + 4 * e;
                const float *own = source + at->senders[e] * 5 * H + h;
                const float *u = at->directions + 3 * e;
                V a = filter(row, 3 * H, w), b = filter(row + H, 3 * H, w) * load(own + H);
                s += filter(row + 2 * H, 3 * H, w) * load(own);
                x += a * load(own + 2 * H) + b * u[0];
                y += a * load(own + 3 * H) + b * u[1];
                z += a * load(own + 4 * H) + b * u[2];
            }
            store(ds + p * H + h, s);
            store(dv + (3 * p) * H + h, x);
            store(dv + (3 * p + 1) * H + h, y);
            store(dv + (3 * p + 2) * H + h, z);
        }
}

// Through the gates (P, 2 H): s = g s + (1 - g) ds and v likewise; ds, dv become s, v.
// Points without a state of their own (s is null) have one of zeros.
void gated(long threads, long points, const float *gates, const float *s, const float *v, float *ds,
           float *dv) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p) {
        const float *first = gates + 2 * p * H;
        for (long row = 0; row < 4; ++row) {
            const float *gate = row ? first + H : first, *old = row ? v : s;
            const long at = row ? (3 * p + row - 1) * H : p * H;
            float *now = (row ? dv : ds) + at;
            for (long h = 0; h < H; h += W) {
                V new_ = load(now + h), part = (1.0f - load(gate + h)) * new_;
                store(now + h, old ? part + load(gate + h) * load(old + at + h) : part);
            }
        }
    }
}

// both (P, 3, 2 H) holds U and V: pair (P, 2 H) becomes s, |V|; dot (P, H) becomes <U, V>.
void lengths(long threads, long points, const float *both, const float *s, float *pair,
             float *dot) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p)
        for (long h = 0; h < H; h += W) {
            V squared{}, inner{};
            for (long x = 0; x < 3; ++x) {
                const float *row = both + (3 * p + x) * 2 * H + h;
                V right = load(row + H);
                squared += right * right;
                inner += load(row) * right;
            }
            float root[W];
            store(root, squared);
            for (long k = 0; k < W; ++k) root[k] = std::sqrt(root[k]);
            store(pair + 2 * p * H + h, load(s + p * H + h));
            store(pair + (2 * p + 1) * H + h, load(root));
            store(dot + p * H + h, inner);
        }
}

// s += p + q <U, V> and, unless v is null, v += t U; mixed (P, 3 H) or, without v, (P, 2 H).
void updated(long threads, long points, const float *both, const float *dot, const float *mixed,
             float *s, float *v) {
    const long wide = v ? 3 * H : 2 * H;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p)
        for (long h = 0; h < H; h += W) {
            const float *mix = mixed + p * wide + h;
            store(s + p * H + h, load(s + p * H + h) + load(mix) +
                                     load(mix + H) * load(dot + p * H + h));
            for (long x = 0; v && x < 3; ++x) {
                float *now = v + (3 * p + x) * H + h;
                store(now, load(now) + load(mix + 2 * H) * load(both + (3 * p + x) * 2 * H + h));
            }
        }
}

// out (E, 2 H) = softplus(own of the sender + other of the receiver) - ln 2; rows of `wide` numbers.
void pairs(long threads, long points, const Places *at, const float *own, const float *other,
           long wide, float *out) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p)
        for (int64_t e = at->starts[p]; e < at->starts[p + 1]; ++e) {
            const float *from = own + at->senders[e] * 2 * H, *to = other + p * wide;
            for (long h = 0; h < 2 * H; h += W)
                store(out + 2 * e * H + h, shifted(load(from + h) + load(to + h)));
        }
}

// out (P, H) = sum of nodes times filters; nodes are the edges' (E, H), or (by_atom) the atoms'.
void scalar_sums(long threads, long points, const Places *at, const float *table,
                 const float *nodes, long by_atom, float *out) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < points; ++p)
        for (long h = 0; h < H; h += W) {
            V sum{};
            for (int64_t e = at->starts[p]; e < at->starts[p + 1]; ++e) {
                const float *row = table + 2 * at->left[e] * H + h;
                const int64_t node = by_atom ? at->senders[e] : e;
                sum += filter(row, H, at->weights + 4 * e) * load(nodes + node * H + h);
            }
            store(out + p * H + h, sum);
        }
}

// `columns` numbers of each row of `wide`, in place: softplus(x) - ln 2.
void softened(long threads, long rows, long wide, long columns, float *x) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < rows; ++p)
        for (long h = 0; h < columns; h += W)
            store(x + p * wide + h, shifted(load(x + p * wide + h)));
}
}
