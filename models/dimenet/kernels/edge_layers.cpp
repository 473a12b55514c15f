// Dense layers of edges, some edges at a time through all of them, their derivative, and the derivative
// of that:
//
//     y_n = silu(z_n) * (C r) + y_skip,   z_n = W y_of + b
//
// y_0 and y_1 are given, the first layer makes y_2; C and the skip may be missing. What lies between
// what is given and the last y stays in the core's cache; of each layer z is kept for the way back.
//
// Compiled with -DREAL=float or double; widths are multiples of 16.

#include "rows.h"

#include <algorithm>
#include <cstring>
#include <vector>

constexpr long SOME = 384;  // edges at a time

struct Layer {
    long in, out, of, skip;  // numbers of y; skip: -1 without one
    const REAL *weight, *turned;  // (out, in), (in, out)
    const REAL *bias;             // (out,) or null
    const REAL *factor, *across;  // (N, out) C turned, (out, WIDE) C and zeros, or null
    REAL *z;                      // (E, out); null where nobody goes back
    REAL *by_y;                   // (E, out) what came back to y_n; null where nobody asks for it again
    REAL *by_z;                   // (E, out) what comes back to z from the derivative's derivative, or null
    REAL *by_weight, *by_bias, *by_factor;  // (threads, ...) added to, or null
};

// E edges; what is given of them, and what comes back to it.
struct Edges {
    long count, layers, threads;
    long widths[2], N, wide;
    const REAL *given[2], *radial;  // (E, width) each, (E, N)
    const REAL *along;              // (E, N) a direction of r, where `given` are directions, too
    REAL *by_given[2], *by_radial;  // (E, width) each, (E, WIDE) added to; null where not wanted
};

typedef std::vector<REAL *> Rows;

// (threads, size) numbers of the thread
static inline REAL *own(REAL *all, long thread, long size) {
    return all ? all + thread * size : nullptr;
}

static long widest(const Edges *e, const Layer *layers) {
    long most = 0;
    for (long n = 0; n < e->layers; ++n) most = std::max(most, layers[n].out);
    return most;
}

// y_0, y_1, and memory for the others of some edges.
static Rows values(const Edges *e, const Layer *layers, Work &work, long begin) {
    Rows y;
    for (int k = 0; k < 2; ++k) y.push_back((REAL *)e->given[k] + begin * e->widths[k]);
    for (long n = 0; n < e->layers; ++n) y.push_back(work.rows(SOME * layers[n].out));
    return y;
}

static long numbers(const Edges *e, const Layer *layers) {
    long sum = 0;
    for (long n = 0; n < e->layers; ++n) sum += SOME * layers[n].out;
    return sum;
}

// y = silu(z), times f and plus more if they are there.
static void finish(long count, const REAL *z, const REAL *f, const REAL *more, REAL *y) {
    for (long k = 0; k < count; k += W) {
        V value = silu(load(z + k));
        if (f) value *= load(f + k);
        if (more) value += load(more + k);
        store(y + k, value);
    }
}

// f (edges, out) = C r of some edges, r (E, N); null without C.
static const REAL *factors(const Edges *e, const Layer *l, const REAL *r, long begin, long some,
                           REAL *f) {
    if (!l->factor) return nullptr;
    product(some, l->out, e->N, r + begin * e->N, e->N, 1, l->factor, l->out, nullptr, 0, f, l->out);
    return f;
}

// g becomes the gradient by z, with ``more`` if it is there; with f, by_f that by f, too.
static void turn(long count, const REAL *z, const REAL *f, const REAL *more, const REAL *g, REAL *by_f,
                 REAL *by_z) {
    for (long k = 0; k < count; k += W) {
        V slope, value = silu(load(z + k), slope), by = load(g + k);
        if (f) store(by_f + k, by * value), by *= load(f + k);
        by *= slope;
        if (more) by += load(more + k);
        store(by_z + k, by);
    }
}

// What some edges send back through C r: by_f (edges, out).
static void factor_back(const Edges *e, const Layer *l, long thread, long begin, long some,
                        const REAL *by_f) {
    REAL *to = own(l->by_factor, thread, e->N * l->out), *by = e->by_radial;
    if (to) product(e->N, l->out, some, e->radial + begin * e->N, 1, e->N, by_f, l->out, to, l->out,
                    to, l->out);
    if (by) by += begin * e->wide;
    if (by) product(some, e->wide, l->out, by_f, l->out, 1, l->across, e->wide, by, e->wide, by,
                    e->wide);
}

// One layer's way back: g (edges, out) of y; scratch is (3 edges, out).
static void layer_back(const Edges *e, const Layer *l, long thread, long begin, long some,
                       const REAL *x, const REAL *g, REAL *by_x, REAL *by_skip, REAL *scratch) {
    const long in = l->in, out = l->out;
    REAL *dz = scratch, *by_f = dz + SOME * out;
    const REAL *f = factors(e, l, e->radial, begin, some, by_f + SOME * out);
    turn(some * out, l->z + begin * out, f, l->by_z ? l->by_z + begin * out : nullptr, g, by_f, dz);
    if (f) factor_back(e, l, thread, begin, some, by_f);
    if (by_skip) add(some * out, by_skip, g);
    REAL *bias = own(l->by_bias, thread, out), *to = own(l->by_weight, thread, in * out);
    for (long k = 0; bias && k < some; ++k) add(out, bias, dz + k * out);
    if (to) product(out, in, some, dz, 1, out, x, in, to, in, to, in);
    product(some, in, out, dz, out, 1, l->weight, in, by_x, in, by_x, in);
}

// The last layer that reads y_k; none reads the last one.
static long last_reader(const Edges *e, const Layer *layers, long k) {
    long n = e->layers - 1;
    while (n >= 0 && layers[n].of != k && layers[n].skip != k) --n;
    return n;
}

// As values, with one memory for several y that are not wanted at the same time.
static Rows brief_values(const Edges *e, const Layer *layers, Work &work, long begin) {
    Rows y, free;
    for (int k = 0; k < 2; ++k) y.push_back((REAL *)e->given[k] + begin * e->widths[k]);
    const long wide = SOME * widest(e, layers);
    for (long n = 0; n < e->layers; ++n) {
        if (free.empty()) free.push_back(work.rows(wide));
        y.push_back(free.back());
        free.pop_back();
        for (long k = 2; k < n + 2; ++k)
            if (last_reader(e, layers, k) == n) free.push_back(y[k]);
    }
    return y;
}

static void some_forward(const Edges *e, const Layer *layers, Work &work, long begin, REAL *last) {
    const long some = std::min(SOME, e->count - begin), end = e->layers - 1;
    Rows y = brief_values(e, layers, work, begin);
    y[end + 2] = last + begin * layers[end].out;
    for (long n = 0; n <= end; ++n) {
        const Layer *l = layers + n;
        REAL *z = l->z ? l->z + begin * l->out : y[n + 2], *f = work.rows(0);
        product(some, l->out, l->in, y[l->of], l->in, 1, l->turned, l->out, l->bias, 0, z, l->out);
        finish(some * l->out, z, factors(e, l, e->radial, begin, some, f), l->skip < 0 ? nullptr : y[l->skip],
               y[n + 2]);
    }
}

// Whether the way back reads any y.
static bool learns(const Edges *e, const Layer *layers) {
    return std::any_of(layers, layers + e->layers, [](const Layer &l) { return l.by_weight; });
}

// The way back of some edges from by_last; y is made once more from z.
static void some_back(const Edges *e, const Layer *layers, Work &work, long thread, long begin,
                      const REAL *by_last) {
    const long some = std::min(SOME, e->count - begin), end = e->layers - 1;
    const bool learning = learns(e, layers);
    Rows y = values(e, layers, work, begin), g;
    for (int k = 0; k < 2; ++k) g.push_back(e->by_given[k] + begin * e->widths[k]);
    for (int k = 0; k < 2; ++k)
        if (e->by_given[k]) std::memset(g[k], 0, some * e->widths[k] * sizeof(REAL));
    for (long n = 0; n <= end; ++n)
        g.push_back(layers[n].by_y ? layers[n].by_y + begin * layers[n].out
                                   : work.rows(SOME * layers[n].out));
    REAL *scratch = work.rows(0);
    for (long n = 0; n < end; ++n) {
        const Layer *l = layers + n;
        if (learning)
            finish(some * l->out, l->z + begin * l->out,
                   factors(e, l, e->radial, begin, some, scratch),
                   l->skip < 0 ? nullptr : y[l->skip], y[n + 2]);
        std::memset(g[n + 2], 0, some * l->out * sizeof(REAL));
    }
    g[end + 2] = (REAL *)by_last + begin * layers[end].out;
    for (long n = end; n >= 0; --n) {
        const Layer *l = layers + n;
        layer_back(e, l, thread, begin, some, y[l->of], g[n + 2], g[l->of],
                   l->skip < 0 ? nullptr : g[l->skip], scratch);
    }
}

// silu and its first two derivatives
struct Bent {
    V value, slope, bend;
    explicit Bent(V z) {
        const V s = sigmoid(z), steep = s * (1 - s);
        value = z * s, slope = s + z * steep, bend = steep * (2 + z * (1 - 2 * s));
    }
};

// Rows of one layer on the way along; f, by_f and the like are null without C.
struct Along {
    const REAL *z, *g, *f, *f_along, *skip;  // g by y; C r and C of r's direction; y_skip's direction
    REAL *u;                                 // z's direction, which becomes y's
    REAL *by_z, *dz;                         // by z of (dz, u), and dz itself
    REAL *by_f, *df;                         // by f of the same, and df itself
};

static void along(long count, const Along &a) {
    for (long k = 0; k < count; k += W) {
        const Bent silu(load(a.z + k));
        const V g = load(a.g + k), u = load(a.u + k);
        V next = u * silu.slope, by_z = u * silu.bend, dz = silu.slope;
        if (a.f) {
            const V f = load(a.f + k), f_along = load(a.f_along + k);
            store(a.by_f + k, g * next), store(a.df + k, g * silu.value);
            next = f * next + f_along * silu.value, by_z = f * by_z + f_along * silu.slope, dz *= f;
        }
        store(a.by_z + k, g * by_z), store(a.dz + k, g * dz);
        if (a.skip) next += load(a.skip + k);
        store(a.u + k, next);
    }
}

// One layer on the way along; u (edges, in) and skip are directions, scratch is (5 edges, out).
static void layer_along(const Edges *e, const Layer *l, long thread, long begin, long some,
                        const REAL *u, const REAL *skip, REAL *next, REAL *scratch) {
    const long in = l->in, out = l->out, piece = SOME * out;
    REAL *dz = scratch, *by_f = dz + piece, *df = by_f + piece, *f = df + piece;
    product(some, out, in, u, in, 1, l->turned, out, nullptr, 0, next, out);
    along(some * out, {l->z + begin * out, l->by_y + begin * out,
                       factors(e, l, e->radial, begin, some, f),
                       factors(e, l, e->along, begin, some, f + piece), skip, next,
                       l->by_z + begin * out, dz, by_f, df});
    REAL *to = own(l->by_weight, thread, in * out), *by_factor = own(l->by_factor, thread, e->N * out);
    if (to) product(out, in, some, dz, 1, out, u, in, to, in, to, in);
    if (!l->factor) return;
    factor_back(e, l, thread, begin, some, by_f);
    if (by_factor) product(e->N, out, some, e->along + begin * e->N, 1, e->N, df, out, by_factor, out,
                           by_factor, out);
}

static void some_along(const Edges *e, const Layer *layers, Work &work, long thread, long begin,
                       REAL *last) {
    const long some = std::min(SOME, e->count - begin), end = e->layers - 1;
    Rows u = values(e, layers, work, begin);
    u[end + 2] = last + begin * layers[end].out;
    REAL *scratch = work.rows(0);
    for (long n = 0; n <= end; ++n) {
        const Layer *l = layers + n;
        layer_along(e, l, thread, begin, some, u[l->of], l->skip < 0 ? nullptr : u[l->skip], u[n + 2],
                    scratch);
    }
}

// work(thread, begin) for all edges: each thread has its own stretch of them.
template <class Some> static void all(const Edges *e, long memory, Some some) {
    const long pieces = (e->count + SOME - 1) / SOME;
#pragma omp parallel for num_threads(e->threads) if (e->threads > 1)
    for (long thread = 0; thread < e->threads; ++thread) {
        Work work(memory);
        REAL *start = work.next;
        for (long k = pieces * thread / e->threads; k < pieces * (thread + 1) / e->threads; ++k) {
            work.next = start;
            some(work, thread, k * SOME);
        }
    }
}

extern "C" {

// last (E, out) of the last layer.
void layered(const Edges *e, const Layer *layers, REAL *last) {
    all(e, (e->layers + 1) * SOME * widest(e, layers),
        [&](Work &work, long, long begin) { some_forward(e, layers, work, begin, last); });
}

// by_last (E, out); `z` as `layered` left it.
void layered_back(const Edges *e, const Layer *layers, const REAL *by_last) {
    all(e, 2 * numbers(e, layers) + 3 * SOME * widest(e, layers),
        [&](Work &work, long thread, long begin) {
            some_back(e, layers, work, thread, begin, by_last);
        });
}

// The derivative of sum(given * what came back), of which by_last, z and r are variables: `given` and
// `along` are directions; by_y as `layered_back` left it, of the last layer by_last. last (E, out) by
// by_last; by_z is overwritten, and all others are added to.
void layered_along(const Edges *e, const Layer *layers, REAL *last) {
    all(e, numbers(e, layers) + 5 * SOME * widest(e, layers),
        [&](Work &work, long thread, long begin) {
            some_along(e, layers, work, thread, begin, last);
        });
}
}
