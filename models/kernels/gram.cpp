// A weight's gradient: out (M, C) = the sum over rows of g (K, M) times x (K, C), C a multiple of W.
//
// Compiled with -DREAL=float or double.

#include <cstring>

#include "rows.h"

constexpr long DEPTH = 128;  // rows of g and x that stay in a core's cache while they are used
constexpr long SHARE = 2 * ROWS;

extern "C" void gram(long K, long M, long C, long threads, const REAL *g, const REAL *x,
                     REAL *out) {
    std::memset(out, 0, M * C * sizeof(REAL));
    if (threads < 2) {
        for (long k = 0; k < K; k += DEPTH)
            product(M, C, K - k < DEPTH ? K - k : DEPTH, g + k * M, 1, M, x + k * C, C, out, C, out,
                    C);
        return;
    }
#pragma omp parallel for num_threads(threads)
    for (long m = 0; m < M; m += SHARE)
        for (long k = 0; k < K; k += DEPTH)
            product(M - m < SHARE ? M - m : SHARE, C, K - k < DEPTH ? K - k : DEPTH, g + k * M + m,
                    1, M, x + k * C, C, out + m * C, C, out + m * C, C);
}
