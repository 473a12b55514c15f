// DimeNet's sum over k of some atoms j with their slots (fans.py), its derivative by t, C, R and F, and
// the derivative of that:
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
    long count, L, N, T, threads, wide;
    const int64_t *atoms, *slots;        // of each fan: a, n
    const REAL *const *angular;          // of each fan (a, n, n L) [j, i, (k, l)]
    const int64_t *arriving, *leaving;   // (S,) the edge k -> j, or j -> i; -1 in an empty slot
    const REAL *radial, *to_wide;        // (S, L N) R, (L N, T) C
    const REAL *across;                  // (L, T, wide) C turned, and zeros
    const REAL *along_radial;            // a direction of R, and of F
    const REAL *const *along_angular;
    REAL *by_radial;                     // derivatives, shaped as what they are by; null where not
    REAL *const *by_angular;             // wanted
};

// One atom: n slots, of which `in` and `out` are taken, from the front.
struct Atom {
    long n, in, out, fan, slot, block;  // its first slot, and where its F begin in its fan's
    const int64_t *arriving, *leaving;
    const REAL *radial, *angular;
};

static long padded(long n) { return (n + W - 1) / W * W; }

static long taken(const int64_t *edges, long n) {
    return std::find(edges, edges + n, -1) - edges;
}

// work(thread, memory, atom) for all atoms; an atom's memory is ``rows`` (n L, T), two of (n, T), and
// what ``angular_back`` and ``radial_back`` need.
template <class Some> static void all(const Fans *f, long rows, Some some) {
    const long most = f->count ? *std::max_element(f->slots, f->slots + f->count) : 0;
    const long spare = padded(most) * (f->T + most * f->L) + most * f->wide;
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1)
    for (long thread = 0; thread < f->threads; ++thread) {
        Work work((rows * f->L + 2) * most * f->T + spare);
        long first = 0;
        for (long fan = 0; fan < f->count; first += f->atoms[fan] * f->slots[fan], ++fan) {
            const long n = f->slots[fan];
            for (long j = thread; j < f->atoms[fan]; j += f->threads) {
                const long slot = first + j * n;
                const int64_t *arriving = f->arriving + slot, *leaving = f->leaving + slot;
                some(thread, work.next,
                     Atom{n, taken(arriving, n), taken(leaving, n), fan, slot, j * n * n * f->L,
                          arriving, leaving, f->radial + slot * f->L * f->N,
                          f->angular[fan] + j * n * n * f->L});
            }
        }
    }
}

// w (in L, T) of an atom's R
static void weights(const Fans *f, const Atom &j, const REAL *radial, REAL *w) {
    const long N = f->N, T = f->T, L = f->L;
    for (long l = 0; l < L; ++l)
        product(j.in, T, N, radial + l * N, L * N, 1, f->to_wide + l * N * T, T, nullptr, 0,
                w + l * T, L * T);
}

// Sums of one atom: y (in L, T) and z (out, T) are memory.
static void sum(const Fans *f, const Atom &j, const REAL *t, REAL *y, REAL *z, REAL *summed) {
    const long L = f->L, T = f->T;
    weights(f, j, j.radial, y);
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

// z (out, T): what leaves the atom, from (E, T).
static void left(const Fans *f, const Atom &j, const REAL *values, REAL *z) {
    for (long i = 0; i < j.out; ++i)
        std::memcpy(z + i * f->T, values + j.leaving[i] * f->T, f->T * sizeof(REAL));
}

// by F_l: the products of every row of z (out, T) and of y (in L, T).
static void angular_back(const Fans *f, const Atom &j, const REAL *y, const REAL *z, REAL *memory) {
    if (!f->by_angular) return;
    const long T = f->T, rows = j.in * f->L, wide = padded(j.out);
    REAL *turned = memory, *by = memory + T * wide, *to = f->by_angular[j.fan] + j.block;
    for (long h = 0; h < T; ++h)
        for (long i = 0; i < wide; ++i) turned[h * wide + i] = i < j.out ? z[i * T + h] : 0;
    product(rows, wide, T, y, T, 1, turned, wide, nullptr, 0, by, wide);
    for (long i = 0; i < j.out; ++i)
        for (long k = 0; k < rows; ++k) to[i * j.n * f->L + k] = by[k * wide + i];
}

// by R, from that by w (in L, T).
static void radial_back(const Fans *f, const Atom &j, const REAL *dw, REAL *memory) {
    if (!f->by_radial) return;
    const long L = f->L, N = f->N, T = f->T, wide = f->wide;
    REAL *to = f->by_radial + j.slot * L * N;
    for (long l = 0; l < L; ++l) {
        product(j.in, wide, T, dw + l * T, L * T, 1, f->across + l * T * wide, wide, nullptr, 0, memory,
                wide);
        for (long k = 0; k < j.in; ++k)
            std::memcpy(to + (k * L + l) * N, memory + k * wide, N * sizeof(REAL));
    }
}

// by C, from an atom's R or a direction of it, and from what is by w of that.
static void wide_back(const Fans *f, const Atom &j, const REAL *radial, const REAL *dw, REAL *by_wide) {
    const long L = f->L, N = f->N, T = f->T;
    for (long l = 0; l < L && by_wide; ++l) {
        REAL *to = by_wide + l * N * T;
        product(N, T, j.in, radial + l * N, 1, L * N, dw + l * T, L * T, to, T, to, T);
    }
}

// One atom's way back; by_wide (L N, T) is added to. Memory: y, w and dy (in L, T), z (out, T).
static void sum_back(const Fans *f, const Atom &j, const REAL *t, const REAL *by_summed, REAL *memory,
                     REAL *by_t, REAL *by_wide) {
    const long L = f->L, T = f->T, rows = j.n * L * T;
    REAL *y = memory, *w = y + rows, *dy = w + rows, *z = dy + rows, *spare = z + j.n * T;
    weights(f, j, j.radial, w);
    left(f, j, by_summed, z);
    product(j.in * L, T, j.out, j.angular, 1, j.n * L, z, T, nullptr, 0, dy, T);
    for (long k = 0; k < j.in && f->by_angular; ++k)
        for (long l = 0; l < L; ++l) {
            const REAL *from = w + (k * L + l) * T, *times = t + j.arriving[k] * T;
            for (long h = 0; h < T; h += W)
                store(y + (k * L + l) * T + h, load(from + h) * load(times + h));
        }
    angular_back(f, j, y, z, spare);
    for (long k = 0; k < j.in; ++k)
        edge_back(L, T, t + j.arriving[k] * T, w + k * L * T, dy + k * L * T,
                  by_t + j.arriving[k] * T);
    wide_back(f, j, j.radial, dy, by_wide);
    radial_back(f, j, dy, spare);
}

// One edge k -> j: t and its direction u (T,), w and v (L, T) that of w. Of what leaves, per F and per
// F's direction: both (L, T).
static void edge_along(long L, long T, const REAL *t, const REAL *u, const REAL *w, const REAL *v,
                       REAL *by_F, REAL *by_along) {
    for (long l = 0; l < L; ++l)
        for (long h = 0; h < T; h += W) {
            const long at = l * T + h;
            store(by_F + at, load(u + h) * load(w + at) + load(t + h) * load(v + at));
            store(by_along + at, load(t + h) * load(w + at));
        }
}

// The same back: d and e (L, T) become what is by v and by w.
static void edge_along_back(long L, long T, const REAL *t, const REAL *u, const REAL *w, const REAL *v,
                            REAL *d, REAL *e, REAL *by_t) {
    for (long h = 0; h < T; h += W) {
        V by{};
        const V value = load(t + h), along = load(u + h);
        for (long l = 0; l < L; ++l) {
            const long at = l * T + h;
            const V of_F = load(d + at), of_along = load(e + at);
            by += of_F * load(v + at) + of_along * load(w + at);
            store(e + at, of_F * along + of_along * value);
            store(d + at, of_F * value);
        }
        store(by_t + h, by);
    }
}

// One atom of `summed_along`. Memory: six of (in L, T), two of (out, T).
static void sum_along(const Fans *f, const Atom &j, const REAL *t, const REAL *u, const REAL *g,
                      REAL *memory, REAL *by_g, REAL *by_t, REAL *by_wide) {
    const long L = f->L, T = f->T, rows = j.n * L * T, one = L * T;
    REAL *w = memory, *v = w + rows, *p = v + rows, *q = p + rows, *d = q + rows, *e = d + rows;
    REAL *z = e + rows, *sum = z + j.n * T, *spare = sum + j.n * T;
    const REAL *F = j.angular, *along = f->along_angular[j.fan] + j.block;
    const REAL *radial = f->along_radial + j.slot * L * f->N;
    weights(f, j, j.radial, w), weights(f, j, radial, v);
    for (long k = 0; k < j.in; ++k) {
        const long from = j.arriving[k] * T;
        edge_along(L, T, t + from, u + from, w + k * one, v + k * one, p + k * one, q + k * one);
    }
    product(j.out, T, j.in * L, F, j.n * L, 1, p, T, nullptr, 0, sum, T);
    product(j.out, T, j.in * L, along, j.n * L, 1, q, T, sum, T, sum, T);
    for (long i = 0; i < j.out; ++i)
        std::memcpy(by_g + j.leaving[i] * T, sum + i * T, T * sizeof(REAL));
    left(f, j, g, z);
    product(j.in * L, T, j.out, F, 1, j.n * L, z, T, nullptr, 0, d, T);
    product(j.in * L, T, j.out, along, 1, j.n * L, z, T, nullptr, 0, e, T);
    angular_back(f, j, p, z, spare);
    for (long k = 0; k < j.in; ++k) {
        const long from = j.arriving[k] * T;
        edge_along_back(L, T, t + from, u + from, w + k * one, v + k * one, d + k * one, e + k * one,
                        by_t + from);
    }
    wide_back(f, j, j.radial, e, by_wide), wide_back(f, j, radial, d, by_wide);
    radial_back(f, j, e, spare);
}

static REAL *own(const Fans *f, REAL *by_wide, long thread) {
    return by_wide ? by_wide + thread * f->L * f->N * f->T : nullptr;
}

extern "C" {

// t (E, T) by edge k -> j; summed (E, T) by edge j -> i.
void summed(const Fans *f, const REAL *t, REAL *summed) {
    all(f, 1, [&](long, REAL *memory, const Atom &j) {
        sum(f, j, t, memory, memory + j.n * f->L * f->T, summed);
    });
}

// by_summed (E, T); by_t (E, T), by_wide (threads, L N, T) added to, or null.
void summed_back(const Fans *f, const REAL *t, const REAL *by_summed, REAL *by_t, REAL *by_wide) {
    all(f, 3, [&](long thread, REAL *memory, const Atom &j) {
        sum_back(f, j, t, by_summed, memory, by_t, own(f, by_wide, thread));
    });
}

// The derivative of sum(directions * what `summed_back` makes of g), the directions those of t (u), of
// R and of F; by_g (E, T), by_t and by_wide as above.
void summed_along(const Fans *f, const REAL *t, const REAL *u, const REAL *g, REAL *by_g, REAL *by_t,
                  REAL *by_wide) {
    all(f, 6, [&](long thread, REAL *memory, const Atom &j) {
        sum_along(f, j, t, u, g, memory, by_g, by_t, own(f, by_wide, thread));
    });
}
}
