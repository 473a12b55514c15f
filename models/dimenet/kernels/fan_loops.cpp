// DimeNet's sum over k of some atoms j with their slots (fans.py), and its derivative by t and C:
//
//     t_ji = sum_k t_kj * sum_l F_l(angle_kji) w_kl,   w_kl = sum_n C_ln R_ln(r_kj)
//
// One atom's numbers stay in the core's cache. An edge arrives at one atom and leaves one: threads
// share the atoms out.
//
// Compiled with -DREAL=float or double.

#include "rows.h"

#include <algorithm>
#include <cstring>

// a atoms with n slots each, S in all, L degrees, N numbers a degree, T wide (a multiple of 16).
struct Fans {
    long count, L, N, T, threads;
    const int64_t *atoms, *slots;        // of each fan: a, n
    const REAL *const *angular;          // of each fan (a, n, n L) [j, i, (k, l)]
    const int64_t *arriving, *leaving;   // (S,) the edge k -> j, or j -> i; -1 in an empty slot
    const REAL *radial, *to_wide;        // (S, L N) R, (L N, T) C
};

// One atom: n slots, of which `in` and `out` are taken, from the front.
struct Atom {
    long n, in, out;
    const int64_t *arriving, *leaving;
    const REAL *radial, *angular;
};

static long taken(const int64_t *edges, long n) {
    return std::find(edges, edges + n, -1) - edges;
}

// work(thread, memory, atom) for all atoms; an atom's memory is 2 n L + n rows of T numbers.
template <class Some> static void all(const Fans *f, Some some) {
    const long most = f->count ? *std::max_element(f->slots, f->slots + f->count) : 0;
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1)
    for (long thread = 0; thread < f->threads; ++thread) {
        Work work((2 * f->L + 1) * most * f->T);
        long first = 0;
        for (long fan = 0; fan < f->count; first += f->atoms[fan] * f->slots[fan], ++fan) {
            const long n = f->slots[fan];
            for (long j = thread; j < f->atoms[fan]; j += f->threads) {
                const long slot = first + j * n;
                const int64_t *arriving = f->arriving + slot, *leaving = f->leaving + slot;
                some(thread, work.next,
                     Atom{n, taken(arriving, n), taken(leaving, n), arriving, leaving,
                          f->radial + slot * f->L * f->N, f->angular[fan] + j * n * n * f->L});
            }
        }
    }
}

// w (in L, T)
static void weights(const Fans *f, const Atom &j, REAL *w) {
    const long N = f->N, T = f->T, L = f->L;
    for (long l = 0; l < L; ++l)
        product(j.in, T, N, j.radial + l * N, L * N, 1, f->to_wide + l * N * T, T, nullptr, 0,
                w + l * T, L * T);
}

// Sums of one atom: y (in L, T) and z (out, T) are memory.
static void sum(const Fans *f, const Atom &j, const REAL *t, REAL *y, REAL *z, REAL *summed) {
    const long L = f->L, T = f->T;
    weights(f, j, y);
    for (long k = 0; k < j.in; ++k)
        for (long l = 0; l < L; ++l) multiply(T, y + (k * L + l) * T, t + j.arriving[k] * T);
    product(j.out, T, j.in * L, j.angular, j.n * L, 1, y, T, nullptr, 0, z, T);
    for (long i = 0; i < j.out; ++i)
        std::memcpy(summed + j.leaving[i] * T, z + i * T, T * sizeof(REAL));
}

// One edge k -> j back: dy (L, T) of w t becomes that of w; w (L, T).
static void edge_back(long L, long T, const REAL *t, const REAL *w, REAL *dy, REAL *by_t) {
    for (long h = 0; h < T; h += W) {
        V by{}, value = load(t + h);
        for (long l = 0; l < L; ++l) {
            V slope = load(dy + l * T + h);
            by += slope * load(w + l * T + h);
            store(dy + l * T + h, slope * value);
        }
        store(by_t + h, by);
    }
}

// One atom's way back: w and dy (in L, T) and z (out, T) are memory; by_wide (L N, T) is added to.
static void sum_back(const Fans *f, const Atom &j, const REAL *t, const REAL *by_summed, REAL *w,
                     REAL *dy, REAL *z, REAL *by_t, REAL *by_wide) {
    const long L = f->L, N = f->N, T = f->T;
    weights(f, j, w);
    for (long i = 0; i < j.out; ++i)
        std::memcpy(z + i * T, by_summed + j.leaving[i] * T, T * sizeof(REAL));
    product(j.in * L, T, j.out, j.angular, 1, j.n * L, z, T, nullptr, 0, dy, T);
    for (long k = 0; k < j.in; ++k)
        edge_back(L, T, t + j.arriving[k] * T, w + k * L * T, dy + k * L * T,
                  by_t + j.arriving[k] * T);
    for (long l = 0; l < L; ++l) {
        REAL *to = by_wide + l * N * T;
        product(N, T, j.in, j.radial + l * N, 1, L * N, dy + l * T, L * T, to, T, to, T);
    }
}

extern "C" {

// t (E, T) by edge k -> j; summed (E, T) by edge j -> i.
void summed(const Fans *f, const REAL *t, REAL *summed) {
    all(f, [&](long, REAL *memory, const Atom &j) {
        sum(f, j, t, memory, memory + j.n * f->L * f->T, summed);
    });
}

// by_summed (E, T); by_t (E, T), by_wide (threads, L N, T) added to.
void summed_back(const Fans *f, const REAL *t, const REAL *by_summed, REAL *by_t, REAL *by_wide) {
    all(f, [&](long thread, REAL *memory, const Atom &j) {
        const long rows = j.n * f->L * f->T;
        sum_back(f, j, t, by_summed, memory, memory + rows, memory + 2 * rows, by_t,
                 by_wide + thread * f->L * f->N * f->T);
    });
}
}
