// Sums over the edges that atoms receive, h_i = sum_j (C r_ji) * m_ji, what comes back to m, r and C, and
// the derivative of that. Some edges at a time, so that C r and its like stay in the core's cache.
//
// Compiled with -DREAL=float or double; H is a multiple of 16.

#include "rows.h"

#include <algorithm>
#include <cstring>

constexpr long SOME = 64;  // edges at a time

struct Sums {
    long edges, H, N, wide;
    const int64_t *receivers;              // (E,)
    const REAL *radial, *factor, *across;  // (E, N) r, (N, H) C turned, (H, wide) C and zeros
};

// r or its like (edges, N) -> C r (edges, H)
static void factors(const Sums *s, const REAL *radial, long begin, long some, REAL *f) {
    product(some, s->H, s->N, radial + begin * s->N, s->N, 1, s->factor, s->H, nullptr, 0, f, s->H);
}

// by r (E, wide) and by C turned (N, H), added to, from by_f (edges, H) of C r; null where not wanted.
static void factor_back(const Sums *s, const REAL *radial, long begin, long some, const REAL *by_f,
                        REAL *by_radial, REAL *by_factor) {
    const long H = s->H, N = s->N, wide = s->wide;
    if (by_factor)
        product(N, H, some, radial + begin * N, 1, N, by_f, H, by_factor, H, by_factor, H);
    if (by_radial)
        product(some, wide, H, by_f, H, 1, s->across, wide, nullptr, 0, by_radial + begin * wide, wide);
}

// act(begin, edges, memory for three (edges, H)) for all edges.
template <class Act> static void each(const Sums *s, Act act) {
    Work work(3 * SOME * s->H);
    for (long begin = 0; begin < s->edges; begin += SOME)
        act(begin, std::min(SOME, s->edges - begin), work.next);
}

extern "C" {

// h (points, H), added to; m (E, H).
void sums(const Sums *s, const REAL *m, REAL *h) {
    const long H = s->H;
    each(s, [&](long begin, long some, REAL *f) {
        factors(s, s->radial, begin, some, f);
        for (long e = 0; e < some; ++e) {
            const REAL *row = m + (begin + e) * H;
            REAL *to = h + s->receivers[begin + e] * H;
            for (long k = 0; k < H; k += W)
                store(to + k, load(to + k) + load(f + e * H + k) * load(row + k));
        }
    });
}

// From g (points, H) by h: by m (E, H), by r and C as above.
void sums_back(const Sums *s, const REAL *m, const REAL *g, REAL *by_m, REAL *by_radial,
               REAL *by_factor) {
    const long H = s->H;
    each(s, [&](long begin, long some, REAL *f) {
        REAL *by_f = f + SOME * H;
        factors(s, s->radial, begin, some, f);
        for (long e = 0; e < some; ++e) {
            const REAL *from = g + s->receivers[begin + e] * H;
            const long row = (begin + e) * H;
            for (long k = 0; k < H; k += W) {
                const V by = load(from + k);
                store(by_m + row + k, by * load(f + e * H + k));
                store(by_f + e * H + k, by * load(m + row + k));
            }
        }
        factor_back(s, s->radial, begin, some, by_f, by_radial, by_factor);
    });
}

// The derivative of sum(u * by m) + sum(along * by r), directions u (E, H) and along (E, N): by_g
// (points, H) added to, by_m (E, H), by r and C as above.
void sums_along(const Sums *s, const REAL *m, const REAL *g, const REAL *u, const REAL *along,
                REAL *by_g, REAL *by_m, REAL *by_radial, REAL *by_factor) {
    const long H = s->H;
    each(s, [&](long begin, long some, REAL *f) {
        REAL *v = f + SOME * H, *df = v + SOME * H;
        factors(s, s->radial, begin, some, f), factors(s, along, begin, some, v);
        for (long e = 0; e < some; ++e) {
            const REAL *from = g + s->receivers[begin + e] * H;
            REAL *to = by_g + s->receivers[begin + e] * H;
            const long row = (begin + e) * H, at = e * H;
            for (long k = 0; k < H; k += W) {
                const V by = load(from + k), value = load(m + row + k), way = load(u + row + k);
                const V more = way * load(f + at + k) + load(v + at + k) * value;
                store(to + k, load(to + k) + more);
                store(by_m + row + k, load(v + at + k) * by);
                store(f + at + k, way * by), store(df + at + k, value * by);
            }
        }
        factor_back(s, s->radial, begin, some, f, by_radial, by_factor);
        factor_back(s, along, begin, some, df, nullptr, by_factor);
    });
}
}
