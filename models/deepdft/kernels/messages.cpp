// PaiNN's messages and their derivative, from functions of the edges' lengths to sums at receivers.
//
//     (a, b, g) = basis weight,   ds_i = sum_j g s_j,   dv_i = sum_j (a v_j + b u)
//
// Edges in any order from senders to receivers, the first `mutual` ones the other way, too. A filter
// (a, b, g) is made where it is used, of some edges at a time, and once more for the derivative:
// it never goes through memory, of which 3 H numbers an edge would take more than all else.
//
// Threads share out the columns: each number is written by one of them, with the same sums in the
// same order however many there are.
//
// Compiled with -DHIDDEN=H, a multiple of 16, and -DREAL=float or double.

#include "rows.h"

#include <algorithm>

constexpr long H = HIDDEN, WHOLE = 16;
constexpr long SOME = 48;  // edges whose filters and derivatives stay in a core's cache

struct Ends {
    long edges, mutual;
    const int64_t *senders, *receivers;
    const REAL *directions;
};

// Functions of K lengths an edge, basis (E, K), and what makes filters of them, weight (K, 3 H).
struct Filters {
    long K;
    const REAL *basis, *weight;
};

// The columns of a thread, and its memory for rows of 3 of their number.
struct Columns {
    long begin, count;
    Columns(long t, long threads)
        : begin(H / WHOLE * t / threads * WHOLE),
          count(H / WHOLE * (t + 1) / threads * WHOLE - begin) {}
};

// to (edges, 3 columns) = (a, b, g) of the edges from `first` on.
static void make(const Filters *filters, Columns at, long first, long edges, REAL *to) {
    const REAL *basis = filters->basis + first * filters->K;
    for (long part = 0; part < 3; ++part)
        product(edges, at.count, filters->K, basis, filters->K, 1,
                filters->weight + part * H + at.begin, 3 * H, nullptr, 0, to + part * at.count,
                3 * at.count);
}

// by_weight += the edges' basis, turned, times df.
static void weigh(const Filters *filters, Columns at, long first, long edges, const REAL *df,
                  REAL *by_weight) {
    const REAL *basis = filters->basis + first * filters->K;
    for (long part = 0; part < 3; ++part) {
        REAL *to = by_weight + part * H + at.begin;
        product(filters->K, at.count, edges, basis, 1, filters->K, df + part * at.count,
                3 * at.count, to, 3 * H, to, 3 * H);
    }
}

// A message of filter f from a source (5, H) s | 1 | v to a sum (4, H) of ds and dv; `sign` turns u.
static inline void carry(long columns, const REAL *f, const REAL *own, const REAL *u, REAL sign,
                         REAL *to) {
    const REAL x = sign * u[0], y = sign * u[1], z = sign * u[2];
    for (long h = 0; h < columns; h += W) {
        const V a = load(f + h), b = load(f + columns + h) * load(own + H + h);
        store(to + h, load(to + h) + load(f + 2 * columns + h) * load(own + h));
        store(to + H + h, load(to + H + h) + a * load(own + 2 * H + h) + b * x);
        store(to + 2 * H + h, load(to + 2 * H + h) + a * load(own + 3 * H + h) + b * y);
        store(to + 3 * H + h, load(to + 3 * H + h) + a * load(own + 4 * H + h) + b * z);
    }
}

// The way back: by (4, H) the sum's derivative, to (5, H) the source's, df the filter's and du the
// direction's (added to, unless that is null).
static inline void back(long columns, const REAL *f, const REAL *own, const REAL *u, REAL sign,
                        const REAL *by, REAL *to, REAL *df, REAL *du) {
    const REAL x = sign * u[0], y = sign * u[1], z = sign * u[2];
    V turned[3] = {};
    for (long h = 0; h < columns; h += W) {
        const V s = load(by + h), vx = load(by + H + h), vy = load(by + 2 * H + h),
                vz = load(by + 3 * H + h), a = load(f + h), along = vx * x + vy * y + vz * z;
        store(df + h, load(df + h) + vx * load(own + 2 * H + h) + vy * load(own + 3 * H + h) +
                          vz * load(own + 4 * H + h));
        store(df + columns + h, load(df + columns + h) + along * load(own + H + h));
        store(df + 2 * columns + h, load(df + 2 * columns + h) + s * load(own + h));
        store(to + h, load(to + h) + s * load(f + 2 * columns + h));
        store(to + H + h, load(to + H + h) + along * load(f + columns + h));
        store(to + 2 * H + h, load(to + 2 * H + h) + vx * a);
        store(to + 3 * H + h, load(to + 3 * H + h) + vy * a);
        store(to + 4 * H + h, load(to + 4 * H + h) + vz * a);
        if (du) {
            const V b = load(f + columns + h) * load(own + H + h);
            turned[0] += vx * b, turned[1] += vy * b, turned[2] += vz * b;
        }
    }
    for (long k = 0; du && k < 3; ++k) du[k] += sign * total(turned[k]);
}

extern "C" {

// out (R, 4, H), zeros before, holds ds and dv; source (A, 5, H) s | 1 | v, each with its factor.
void messages(long threads, const Ends *ends, const Filters *filters, const REAL *source,
              REAL *out) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long t = 0; t < threads; ++t) {
        const Columns at(t, threads);
        Work work(3 * SOME * at.count);
        REAL *f = work.rows(3 * SOME * at.count);
        for (long first = 0; first < ends->edges; first += SOME) {
            const long some = std::min(SOME, ends->edges - first);
            make(filters, at, first, some, f);
            for (long k = 0; k < some; ++k) {
                const long e = first + k;
                const int64_t from = ends->senders[e], to = ends->receivers[e];
                const REAL *own = f + 3 * k * at.count, *u = ends->directions + 3 * e;
                carry(at.count, own, source + from * 5 * H + at.begin, u, 1,
                      out + to * 4 * H + at.begin);
                if (e < ends->mutual)
                    carry(at.count, own, source + to * 5 * H + at.begin, u, -1,
                          out + from * 4 * H + at.begin);
            }
        }
    }
}

// by_weight (K, 3 H), by_source and by_directions (threads, E, 3), zeros before, are added to, and
// by_filters (E, 3 H) is written; the last two unless they are null.
void messages_back(long threads, const Ends *ends, const Filters *filters, const REAL *source,
                   const REAL *by_out, REAL *by_weight, REAL *by_source, REAL *by_filters,
                   REAL *by_directions) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long t = 0; t < threads; ++t) {
        const Columns at(t, threads);
        const long wide = 3 * at.count;
        Work work(2 * SOME * wide);
        REAL *f = work.rows(SOME * wide), *df = work.rows(SOME * wide);
        for (long first = 0; first < ends->edges; first += SOME) {
            const long some = std::min(SOME, ends->edges - first);
            make(filters, at, first, some, f);
            std::fill(df, df + some * wide, REAL(0));
            for (long k = 0; k < some; ++k) {
                const long e = first + k;
                const int64_t from = ends->senders[e], to = ends->receivers[e];
                const REAL *u = ends->directions + 3 * e;
                REAL *du = by_directions ? by_directions + 3 * (t * ends->edges + e) : nullptr;
                back(at.count, f + k * wide, source + from * 5 * H + at.begin, u, 1,
                     by_out + to * 4 * H + at.begin, by_source + from * 5 * H + at.begin,
                     df + k * wide, du);
                if (e < ends->mutual)
                    back(at.count, f + k * wide, source + to * 5 * H + at.begin, u, -1,
                         by_out + from * 4 * H + at.begin, by_source + to * 5 * H + at.begin,
                         df + k * wide, du);
            }
            weigh(filters, at, first, some, df, by_weight);
            for (long row = 0; by_filters && row < 3 * some; ++row)
                std::copy(df + row * at.count, df + (row + 1) * at.count,
                          by_filters + (3 * first + row) * H + at.begin);
        }
    }
}
}
