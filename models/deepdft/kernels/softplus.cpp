// ssp(x) = softplus(x) - ln 2, of numbers and of the sums of an edge's two ends, and the derivatives.
//
//     ssp(x) = max(x, 0) - ln(2 s),   s = sigmoid(|x|),   ln(2 s) = 2 artanh((2 s - 1) / (2 s + 1))
//
// Compiled with -DREAL=float or double.

#include "rows.h"

// 2 artanh(z) = sum_k 2 / (2 k + 1) z^(2 k + 1), |z| <= 1/3
struct Artanh {
    static constexpr int terms = sizeof(REAL) == 4 ? 8 : 18;
    REAL factor[terms];
    constexpr Artanh() : factor{} {
        for (int k = 0; k < terms; ++k) factor[k] = REAL(2.0 / (2 * k + 1));
    }
};

static inline V ssp_of(V x) {
    constexpr Artanh series;
    const V twice = 2 * sigmoid(x > 0 ? x : -x), z = (twice - 1) / (twice + 1), q = z * z;
    V sum = V{} + series.factor[Artanh::terms - 1];
#pragma GCC unroll 18
    for (int k = Artanh::terms - 2; k >= 0; --k) sum = sum * q + series.factor[k];
    return (x > 0 ? x : V{}) - sum * z;
}

extern "C" {
// n numbers, a multiple of a vector's.
void ssp(long n, const REAL *x, REAL *y) {
    for (long k = 0; k < n; k += W) store(y + k, ssp_of(load(x + k)));
}

void ssp_back(long n, const REAL *x, const REAL *g, REAL *by) {
    for (long k = 0; k < n; k += W) store(by + k, load(g + k) * sigmoid(load(x + k)));
}

// E edges, rows of n numbers: own (A, n) of the senders and other (R, n) of the receivers.
void ends(long E, long n, const int64_t *senders, const int64_t *receivers, const REAL *own,
          const REAL *other, REAL *y) {
    for (long e = 0; e < E; ++e) {
        const REAL *a = own + senders[e] * n, *b = other + receivers[e] * n;
        for (long k = 0; k < n; k += W) store(y + e * n + k, ssp_of(load(a + k) + load(b + k)));
    }
}

// From g (E, n); by_own (A, n) and by_other (R, n) are added to.
void ends_back(long E, long n, const int64_t *senders, const int64_t *receivers, const REAL *own,
               const REAL *other, const REAL *g, REAL *by_own, REAL *by_other) {
    for (long e = 0; e < E; ++e) {
        const long from = senders[e] * n, to = receivers[e] * n;
        for (long k = 0; k < n; k += W) {
            const V by = load(g + e * n + k) * sigmoid(load(own + from + k) + load(other + to + k));
            store(by_own + from + k, load(by_own + from + k) + by);
            store(by_other + to + k, load(by_other + to + k) + by);
        }
    }
}
}
