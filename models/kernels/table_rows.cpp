// Rows of a table, four neighbours for each of E edges, weighted and added; and the derivative.
//
//     out_e = sum_n w_en T_{2 l_e + n},   n = 0 .. 3
//
// Compiled with -DREAL=float or double.

#include "rows.h"

#define LANES _Pragma("omp simd")

static inline void weighted(long C, const REAL *__restrict rows, const REAL *w, REAL *__restrict out) {
    const REAL a = w[0], b = w[1], c = w[2], d = w[3];
    LANES for (long k = 0; k < C; ++k)
        out[k] = a * rows[k] + b * rows[C + k] + c * rows[2 * C + k] + d * rows[3 * C + k];
}

// Some edges of the same rows.
struct Run {
    long count;
    const int64_t *edges;
    const REAL *w;  // (E, 4)
};

// Adds what N vectors of columns of g (E, C) come to; sums wait in registers for the last edge.
template <int N>
static inline void spread(long C, const Run &run, const REAL *g, REAL *rows) {
    V sum[4][N] = {};
    for (long k = 0; k < run.count; ++k) {
        const REAL *w = run.w + 4 * run.edges[k], *own = g + run.edges[k] * C;
#pragma GCC unroll 8
        for (int x = 0; x < N; ++x) {
            const V v = load(own + x * W);
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) sum[n][x] += w[n] * v;
        }
    }
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n)
#pragma GCC unroll 8
        for (int x = 0; x < N; ++x) {
            REAL *at = rows + n * C + x * W;
            store(at, load(at) + sum[n][x]);
        }
}

static void spread_all(long C, const Run &run, const REAL *g, REAL *rows) {
    long c = 0;
    for (; c + 4 * W <= C; c += 4 * W) spread<4>(C, run, g + c, rows + c);
    for (; c + W <= C; c += W) spread<1>(C, run, g + c, rows + c);
    for (; c < C; ++c)
        for (long k = 0; k < run.count; ++k)
            for (int n = 0; n < 4; ++n)
                rows[n * C + c] += run.w[4 * run.edges[k] + n] * g[run.edges[k] * C + c];
}

static inline void dots(long C, const REAL *__restrict g, const REAL *__restrict rows, REAL *by) {
    REAL a = 0, b = 0, c = 0, d = 0;
    _Pragma("omp simd reduction(+ : a, b, c, d)")
    for (long k = 0; k < C; ++k) {
        a += g[k] * rows[k];
        b += g[k] * rows[C + k];
        c += g[k] * rows[2 * C + k];
        d += g[k] * rows[3 * C + k];
    }
    by[0] = a, by[1] = b, by[2] = c, by[3] = d;
}

extern "C" {
// table (2 bins, C), left (E,), w (E, 4) -> out (E, C)
void read_rows(long E, long C, const int64_t *left, const REAL *w, const REAL *table, REAL *out) {
    for (long e = 0; e < E; ++e) weighted(C, table + 2 * left[e] * C, w + 4 * e, out + e * C);
}

// From g (E, C), for the derivatives by the table, added to, and by w, each null if not wanted. In
// the order of `left`, so that the rows that are added to stay in the first cache.
void read_rows_back(long E, long C, const int64_t *order, const int64_t *left, const REAL *w,
               const REAL *table, const REAL *g, REAL *by_table, REAL *by_w) {
    for (long k = 0, next; k < E; k = next) {
        for (next = k + 1; next < E && left[order[next]] == left[order[k]];) ++next;
        const long row = 2 * left[order[k]] * C;
        if (by_table) spread_all(C, Run{next - k, order + k, w}, g, by_table + row);
        for (long at = k; by_w && at < next; ++at)
            dots(C, g + order[at] * C, table + row, by_w + 4 * order[at]);
    }
}
}
