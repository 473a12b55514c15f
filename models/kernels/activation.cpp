// silu(x) = x / (1 + exp(-x)) and its first two derivatives over any numbers, one pass each.
//
// Compiled with -DREAL=float or double.

#include <cstring>

#include "rows.h"

constexpr long PIECE = 1024;  // vectors a thread takes at a time

// act(inputs, outputs) on every W numbers; the last few in rows of their own.
template <int INS, int OUTS, class Act>
static void over(long count, long threads, const REAL *const *from, REAL *const *to, Act act) {
    const long pieces = (count + PIECE * W - 1) / (PIECE * W);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long piece = 0; piece < pieces; ++piece) {
        const long end = piece + 1 < pieces ? (piece + 1) * PIECE * W : count;
        for (long k = piece * PIECE * W; k < end; k += W) {
            V in[INS], out[OUTS];
            REAL some[W] = {};
            const long left = end - k;
            for (int n = 0; n < INS; ++n) {
                if (left < W) std::memcpy(some, from[n] + k, left * sizeof(REAL));
                in[n] = load(left < W ? some : from[n] + k);
            }
            act(in, out);
            for (int n = 0; n < OUTS; ++n) {
                store(left < W ? some : to[n] + k, out[n]);
                if (left < W) std::memcpy(to[n] + k, some, left * sizeof(REAL));
            }
        }
    }
}

extern "C" {

// y = silu(x), plus ``more`` if there is any
void value(long count, long threads, const REAL *x, const REAL *more, REAL *y) {
    const REAL *from[] = {x, more};
    REAL *to[] = {y};
    if (more)
        over<2, 1>(count, threads, from, to, [](V *in, V *out) { out[0] = silu(in[0]) + in[1]; });
    else
        over<1, 1>(count, threads, from, to, [](V *in, V *out) { out[0] = silu(in[0]); });
}

// by_x = g silu'(x), plus ``more`` if there is any
void first(long count, long threads, const REAL *x, const REAL *g, const REAL *more, REAL *by_x) {
    const REAL *from[] = {x, g, more};
    REAL *to[] = {by_x};
    const auto sloped = [](V *in) {
        V slope;
        silu(in[0], slope);
        return in[1] * slope;
    };
    if (more)
        over<3, 1>(count, threads, from, to, [&](V *in, V *out) { out[0] = sloped(in) + in[2]; });
    else
        over<2, 1>(count, threads, from, to, [&](V *in, V *out) { out[0] = sloped(in); });
}

// The derivatives of g silu'(x) times h: by_x = h g silu''(x), by_g = h silu'(x).
void second(long count, long threads, const REAL *x, const REAL *g, const REAL *h, REAL *by_x,
            REAL *by_g) {
    const REAL *from[] = {x, g, h};
    REAL *to[] = {by_x, by_g};
    over<3, 2>(count, threads, from, to, [](V *in, V *out) {
        V s = sigmoid(in[0]), steep = s * (1 - s);
        out[0] = in[2] * in[1] * steep * (2 + in[0] * (1 - 2 * s));
        out[1] = in[2] * (s + in[0] * steep);
    });
}
}
