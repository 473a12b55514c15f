// F_l(c) = s_l P_l(c) of many numbers c, l = 0 .. L - 1, and what comes back to c, and the derivative of
// that. One pass over memory each:
//
//     (l+1) P_{l+1} = (2l+1) c P_l - l P_{l-1},   P'_{l+1} = (2l+1) P_l + P'_{l-1},   P'' likewise
//
// Compiled with -DREAL=float or double and -DORDERS=L, three or more.

constexpr long L = ORDERS, SOME = 64;  // numbers at a time

// P_l, or a derivative, of some numbers.
typedef REAL Rows[L][SOME];

static void polynomials(const REAL *c, Rows &P) {
    for (long k = 0; k < SOME; ++k) P[0][k] = 1, P[1][k] = c[k];
    for (long l = 1; l + 1 < L; ++l) {
        const REAL up = REAL(2 * l + 1) / (l + 1), down = REAL(l) / (l + 1);
        for (long k = 0; k < SOME; ++k) P[l + 1][k] = up * c[k] * P[l][k] - down * P[l - 1][k];
    }
}

static void slopes(const Rows &P, Rows &slope) {
    for (long k = 0; k < SOME; ++k) slope[0][k] = 0, slope[1][k] = P[0][k];
    for (long l = 1; l + 1 < L; ++l)
        for (long k = 0; k < SOME; ++k)
            slope[l + 1][k] = (2 * l + 1) * P[l][k] + slope[l - 1][k];
}

// act(begin, numbers, some of c) for all of them, the last ones filled up with zeros.
template <class Act> static void each(long count, long threads, const REAL *c, Act act) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long begin = 0; begin < count; begin += SOME) {
        const long some = count - begin < SOME ? count - begin : SOME;
        REAL own[SOME] = {};
        for (long k = 0; k < some; ++k) own[k] = c[begin + k];
        act(begin, some, own);
    }
}

extern "C" {

// F (count, L) of c (count,); s (L,).
void value(long count, long threads, const REAL *s, const REAL *c, REAL *F) {
    each(count, threads, c, [&](long begin, long some, const REAL *c) {
        Rows P;
        polynomials(c, P);
        for (long k = 0; k < some; ++k)
            for (long l = 0; l < L; ++l) F[(begin + k) * L + l] = s[l] * P[l][k];
    });
}

// by_c = sum_l g_l F'_l, g (count, L).
void first(long count, long threads, const REAL *s, const REAL *c, const REAL *g, REAL *by_c) {
    each(count, threads, c, [&](long begin, long some, const REAL *c) {
        Rows P, slope;
        polynomials(c, P), slopes(P, slope);
        for (long k = 0; k < some; ++k) {
            REAL sum = 0;
            for (long l = 1; l < L; ++l) sum += g[(begin + k) * L + l] * (s[l] * slope[l][k]);
            by_c[begin + k] = sum;
        }
    });
}

// The derivatives of that times h (count,): by_c = h sum_l g_l F''_l, by_g = h F'_l.
void second(long count, long threads, const REAL *s, const REAL *c, const REAL *g, const REAL *h,
            REAL *by_c, REAL *by_g) {
    each(count, threads, c, [&](long begin, long some, const REAL *c) {
        Rows P, slope, bend;
        polynomials(c, P), slopes(P, slope), slopes(slope, bend);
        for (long k = 0; k < some; ++k) {
            REAL sum = 0;
            for (long l = 0; l < L; ++l) {
                const long at = (begin + k) * L + l;
                sum += g[at] * (s[l] * bend[l][k]);
                by_g[at] = h[begin + k] * (s[l] * slope[l][k]);
            }
            by_c[begin + k] = h[begin + k] * sum;
        }
    });
}
}
