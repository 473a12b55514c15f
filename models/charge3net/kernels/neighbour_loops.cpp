// ChargE3Net's tensor product of atoms, summed over neighbourhoods in one pass:
//
//     out_i = sum_k S_ik^T (R_ik x_ik),   S_ik (2 l1 + 1, 2 l3 + 1) = sum_m2 C_m1m2m3 Y_m2(d_ik)
//
// Few of a path's symbols C are not zero: S comes from a list of them, for W neighbours at once.
// Channels are worked through by the vector, all 2 l3 + 1 sums of one in registers. The last vector
// of a path begins before the channels' end, where there are as many, and sums some of them twice;
// else it reaches beyond them: both numbers that are read have that much room behind them.
//
// Compiled with -DREAL=float or double.

#include "rows.h"

#include <vector>

// A path: from 2 l1 + 1 rows of u channels, by some of the symbols, to 2 l3 + 1 rows.
struct Path {
    int64_t components, channels, sent, weight, symbol, symbols, width, out, out_channels, column;
};
// C where it is not zero: m2, and the place of (m1, m3).
struct Symbols {
    const int64_t *places;
    const REAL *values;
};
// Neighbourhoods of A atoms, K each; edges whose Y_0 is zero are padding.
struct Neighbourhoods {
    int64_t atoms, each, harmonics_width, sent_width, weights_width;
    const int64_t *senders, *edges;
    const REAL *harmonics, *sent, *weights;
};

// Of one atom's neighbours, in groups of W: their harmonics, and S of a path, numbers by the group.
struct Neighbours {
    const Neighbourhoods &all;
    long groups;
    std::vector<REAL> harmonics, symbols;

    explicit Neighbours(const Neighbourhoods &n)
        : all(n), groups((n.each + W - 1) / W), harmonics(n.harmonics_width * groups * W) {}

    void set(long atom) {
        const REAL *from = all.harmonics + atom * all.each * all.harmonics_width;
        for (long k = 0; k < all.each; ++k)
            for (long m = 0; m < all.harmonics_width; ++m)
                harmonics[m * groups * W + k] = from[k * all.harmonics_width + m];
    }
    void couple(const Symbols &given, const Path &p) {
        const long size = p.components * p.width;
        symbols.assign(size * groups * W, REAL(0));
        for (long n = p.symbol; n < p.symbol + p.symbols; ++n)
            for (long g = 0; g < groups; ++g) {
                REAL *to = &symbols[(g * size + given.places[2 * n + 1]) * W];
                const V own = load(&harmonics[(given.places[2 * n] * groups + g) * W]);
                store(to, load(to) + own * given.values[n]);
            }
    }
};

template <int WIDTH>
static void sum_path(const Neighbours &own, const Path &p, long atom, REAL *out) {
    const Neighbourhoods &n = own.all;
    for (long at = 0; at < p.channels; at += W) {
        const long c = at + W <= p.channels || p.channels < W ? at : p.channels - W;
        V sums[WIDTH] = {};
        for (long k = 0; k < n.each; ++k) {
            if (own.harmonics[k] == 0) continue;
            const long edge = atom * n.each + k;
            const V radial = load(n.weights + n.edges[edge] * n.weights_width + p.weight + c);
            const REAL *sent = n.sent + n.senders[edge] * n.sent_width + p.sent + c;
            const REAL *symbol = &own.symbols[k / W * p.components * WIDTH * W + k % W];
            for (long m = 0; m < p.components; ++m, sent += p.channels, symbol += WIDTH * W) {
                const V weighted = radial * load(sent);
#pragma GCC unroll 32
                for (int o = 0; o < WIDTH; ++o) sums[o] += weighted * symbol[o * W];
            }
        }
        REAL *to = out + p.out * n.atoms + atom * WIDTH * p.out_channels + p.column + c;
        for (int o = 0; o < WIDTH; ++o, to += p.out_channels)
            if (c + W <= p.channels) store(to, sums[o]);
            else for (long lane = 0; lane < p.channels; ++lane) to[lane] = sums[o][lane];
    }
}

// The function for paths to 2 l3 + 1 rows.
template <int WIDTH = 1>
static auto for_width(long width) -> void (*)(const Neighbours &, const Path &, long, REAL *) {
    if (width == WIDTH) return sum_path<WIDTH>;
    if constexpr (WIDTH < 2 * 11 + 1) return for_width<WIDTH + 2>(width);
    return nullptr;
}

extern "C" void neighbour_sums(long threads, const Neighbourhoods *all, const Symbols *symbols,
                               long paths, const Path *path, REAL *out) {
#pragma omp parallel num_threads(threads)
    {
        Neighbours own(*all);
#pragma omp for schedule(static)
        for (long atom = 0; atom < all->atoms; ++atom) {
            own.set(atom);
            for (const Path *p = path; p < path + paths; ++p) {
                own.couple(*symbols, *p);
                for_width(p->width)(own, *p, atom, out);
            }
        }
    }
}
