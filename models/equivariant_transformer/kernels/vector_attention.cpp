// The equivariant transformer's attention, its first and its second derivative, for a tile of
// pairs of points. The formulas are those of attention_tiles.py and attention_radial.py
// in equivariant_transformer/, which do the same where there is no compiler; the names are theirs.
//
// A pair goes through all steps, both directions included, before the next one begins: what it
// needs besides the points' rows stays in the first cache, points' rows are read and added to
// where they lie, and nothing an edge is ever written. HIDDEN, HEADS, REAL and SMOOTH are set by
// the compiler's command line, so that all loops have known lengths.
//
// Threads share out the heads, and with them the features: none of them writes what another one
// reads, except for the few sums over features, which each keeps apart.

#include "vector_attention.h"
#include "vector_attention_second.h"

// Messages.

template <bool V>
static void filters(const Tile &t, std::int64_t pair, Heads heads, Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    const F *before = t.before + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x)
            r.filter[x] = c * before[x] * sigmoid(before[x]);
    }
}

template <bool V>
static void messages_along(const Tile &t, const EdgeDirection &w, Heads heads, const F *__restrict f) {
    const F *__restrict q = t.points + w.i * t.stride, *__restrict s = t.points + w.j * t.stride + H;
    const F *__restrict v = t.vectors + w.j * 3 * H;
    F *__restrict out = t.sum_x + w.i * H, *__restrict y = t.sum_y + w.i * 3 * H;
    F z[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        const int o = h * D;
        F each[D];
        LANES for (int x = 0; x < D; ++x) each[x] = q[o + x] * s[o + x] * f[o + x];
        z[h] = total<D>(each);
    }
    LANES for (int h = heads.from; h < heads.to; ++h) z[h] *= sigmoid(z[h]);
    for (int h = heads.from; h < heads.to; ++h) {
        LANES for (int x = h * D; x < h * D + D; ++x) {
            out[x] += z[h] * s[H + x] * f[H + x];
            const F t2 = s[2 * H + x] * f[2 * H + x];
            F y0 = w.u[0] * t2, y1 = w.u[1] * t2, y2 = w.u[2] * t2;
            if (V) {
                y0 += v[x] * f[3 * H + x];
                y1 += v[H + x] * f[3 * H + x];
                y2 += v[2 * H + x] * f[3 * H + x];
            }
            y[x] += y0;
            y[H + x] += y1;
            y[2 * H + x] += y2;
        }
    }
}

template <bool V>
static void messages_of(const Tile &t, Heads heads, int) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        filters<V>(t, pair, heads, r);
        for (int k = 0; k < t.ways * t.kinds; ++k)
            messages_along<V>(t, EdgeDirection(t, pair, k, false), heads, r.filter);
    }
}

// First derivatives.

template <bool V>
static void filters_and_slopes(const Tile &t, std::int64_t pair, Heads heads, Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    const F *before = t.before + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x) {
            const Silu silu(before[x]);
            r.value[x] = silu.value;
            r.filter[x] = c * silu.value;
            r.slope[x] = c * silu.slope;
            r.by[x] = 0;
        }
    }
}

// The part of the scalar messages: q, k, dk and v0, dv0.
static void first_scalars(const Tile &t, const EdgeDirection &w, Heads heads, Rows &r) {
    const F *__restrict q = t.points + w.i * t.stride, *__restrict g = t.gradient_x + w.i * H;
    const F *__restrict k = t.points + w.j * t.stride + H, *__restrict v = k + H;
    const F *__restrict dk = r.filter, *__restrict dv = r.filter + H;
    F *__restrict by_q = t.by_points + w.i * 4 * H, *__restrict by = r.by;
    F *__restrict by_k = t.by_points + w.j * 4 * H + H, *__restrict by_v = by_k + H;
    F z[HEADS], beta[HEADS], a[HEADS], gamma[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        F each[2][D];
        LANES for (int e = 0; e < D; ++e) {
            const int x = h * D + e;
            each[0][e] = q[x] * k[x] * dk[x];
            each[1][e] = g[x] * v[x] * dv[x];
        }
        z[h] = total<D>(each[0]);
        beta[h] = total<D>(each[1]);
    }
    LANES for (int h = heads.from; h < heads.to; ++h) {
        const Silu silu(z[h]);
        a[h] = silu.value;
        gamma[h] = beta[h] * silu.slope;
    }
    for (int h = heads.from; h < heads.to; ++h) {
        const F a_h = a[h], gamma_h = gamma[h];
        LANES for (int x = h * D; x < h * D + D; ++x) {
            const F b_q = gamma_h * q[x], b_g = a_h * g[x];
            by_q[x] += gamma_h * k[x] * dk[x];
            by_k[x] += b_q * dk[x];
            by_v[x] += b_g * dv[x];
            by[x] += b_q * k[x];
            by[H + x] += b_g * v[x];
        }
    }
}

// The part of the vector messages: v2, dv2, u and w, dv1.
template <bool V>
static void first_vectors(const Tile &t, const EdgeDirection &w, Heads heads, Rows &r) {
    const F *__restrict v2 = t.points + w.j * t.stride + 3 * H, *__restrict d2 = r.filter + 2 * H;
    const F *__restrict v = t.vectors + w.j * 3 * H, *__restrict d1 = r.filter + 3 * H;
    const F *__restrict g = t.gradient_y + w.i * 3 * H;
    F *__restrict by_v2 = t.by_points + w.j * 4 * H + 3 * H, *__restrict by_d2 = r.by + 2 * H;
    F *__restrict by_v = t.by_vectors + w.j * 3 * H, *__restrict by_d1 = r.by + 3 * H;
    LANES for (int x = heads.begin(); x < heads.end(); ++x) {
        const F g0 = g[x], g1 = g[H + x], g2 = g[2 * H + x];
        const F along = g0 * w.u[0] + g1 * w.u[1] + g2 * w.u[2];
        by_v2[x] += along * d2[x];
        by_d2[x] += along * v2[x];
        if (V) {
            by_d1[x] += g0 * v[x] + g1 * v[H + x] + g2 * v[2 * H + x];
            by_v[x] += g0 * d1[x];
            by_v[H + x] += g1 * d1[x];
            by_v[2 * H + x] += g2 * d1[x];
        }
    }
}

// What a derivative by R comes to, by W e + b, which it overwrites, and by b.
template <bool V>
static void first_radial(const Tile &t, std::int64_t pair, Heads heads, const Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    F *before = t.before + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x)
            before[x] = r.by[x] * r.slope[x];
        add_to_bias(t, b, heads, before);
    }
}

template <bool V>
static void first_of(const Tile &t, Heads heads, int thread) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        const std::int64_t place = thread * t.pairs + pair;
        filters_and_slopes<V>(t, pair, heads, r);
        F by_u[2][3] = {};
        for (int k = 0; k < t.ways * t.kinds; ++k) {
            const EdgeDirection way(t, pair, k, false);
            first_scalars(t, way, heads, r);
            first_vectors<V>(t, way, heads, r);
            const F *g = t.gradient_y + way.i * 3 * H, *v2 = t.points + way.j * t.stride + 3 * H;
            if (t.by_directions) turning(g, v2, r.filter + 2 * H, heads, by_u[way.way]);
        }
        if (t.by_envelope) t.by_envelope[place] = by_envelope<V>(heads, r.by, r.value);
        if (t.by_directions)
            for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
        first_radial<V>(t, pair, heads, r);
    }
}

// Each thread at work on its heads.
template <typename Work>
static void shared_out(const Tile &t, Work work) {
    const int threads = int(t.threads);
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)")
    for (int k = 0; k < threads; ++k)
        work(t, Heads{k * HEADS / threads, (k + 1) * HEADS / threads}, k);
}

extern "C" {
void messages(const Tile *t) {
    t->vectors ? shared_out(*t, messages_of<true>) : shared_out(*t, messages_of<false>);
}

void first(const Tile *t) {
    t->vectors ? shared_out(*t, first_of<true>) : shared_out(*t, first_of<false>);
}

void second(const Tile *t) {
    t->vectors ? shared_out(*t, second_of<true>) : shared_out(*t, second_of<false>);
}
}
