// What PaiNN's updates and a probe's gate do between their matrix products, and the derivatives:
//
//     |V|, <U, V>                                            meet
//     s + p + q <U, V>,  v + t U                             change
//     g = sigmoid(x):  gs s + (1 - gs) ds,  gv v + (1 - gv) dv     gate
//
// Rows of P points have H numbers, vectors 3 rows; U and V are one tensor (P, 3, 2 H).
// Compiled with -DHIDDEN=H, a multiple of 16, and -DREAL=float or double.

#include "rows.h"

#include <cmath>

constexpr long H = HIDDEN;
#define LANES _Pragma("omp simd")

// A tensor whose points' rows are some distance apart.
struct Rows {
    const REAL *first;
    long stride;
    const REAL *of(long p) const { return first + p * stride; }
};

extern "C" {
// s (P, H), both (P, 3, 2 H) -> inputs (P, 2 H) s and |V|, products (P, H). |V| is softened by
// `soft`, sqrt(V^2 + soft^2) - soft.
void meet(long P, REAL soft, const REAL *s, const REAL *both, REAL *inputs, REAL *products) {
    for (long p = 0; p < P; ++p) {
        const REAL *__restrict u = both + p * 6 * H, *__restrict own = s + p * H;
        REAL *__restrict in = inputs + p * 2 * H, *__restrict product = products + p * H;
        LANES for (long h = 0; h < H; ++h) {
            const REAL x = u[H + h], y = u[3 * H + h], z = u[5 * H + h];
            in[h] = own[h];
            in[H + h] = std::sqrt(x * x + y * y + z * z + soft * soft) - soft;
            product[h] = u[h] * x + u[2 * H + h] * y + u[4 * H + h] * z;
        }
    }
}

// From by_inputs (P, 2 H), by_products (P, H) and by_left (P, 3, H), what comes back to U on another
// way: by_s (P, H), by_both (P, 3, 2 H).
void meet_back(long P, REAL soft, const REAL *both, const REAL *inputs, const REAL *by_inputs,
               const REAL *by_products, const REAL *by_left, REAL *by_s, REAL *by_both) {
    for (long p = 0; p < P; ++p)
        for (long h = 0; h < H; h += W) {
            const REAL *u = both + p * 6 * H + h;
            REAL *by = by_both + p * 6 * H + h;
            const V length = load(inputs + (2 * p + 1) * H + h) + soft;
            const V met = load(by_products + p * H + h), g = load(by_inputs + (2 * p + 1) * H + h);
            const V along = length > 0 ? g / length : V{};
            store(by_s + p * H + h, load(by_inputs + 2 * p * H + h));
            for (long c = 0; c < 3; ++c) {
                const V left = load(u + 2 * c * H), right = load(u + (2 * c + 1) * H);
                const V more = by_left ? load(by_left + (3 * p + c) * H + h) : V{};
                store(by + 2 * c * H, met * right + more);
                store(by + (2 * c + 1) * H, met * left + along * right);
            }
        }
}

// s (P, H), v (P, 3, H), products (P, H), mixed (P, 3 H) p, q, t -> the next s and v.
void change(long P, const REAL *s, const REAL *v, const REAL *both, const REAL *products,
            const REAL *mixed, REAL *s_next, REAL *v_next) {
    for (long p = 0; p < P; ++p) {
        const REAL *__restrict x = mixed + p * 3 * H, *__restrict u = both + p * 6 * H;
        const REAL *__restrict m = products + p * H, *__restrict own = s + p * H;
        const REAL *__restrict vectors = v + p * 3 * H;
        REAL *__restrict to = s_next + p * H, *__restrict next = v_next + p * 3 * H;
        LANES for (long h = 0; h < H; ++h) to[h] = own[h] + x[h] + x[H + h] * m[h];
        for (long c = 0; c < 3; ++c)
            LANES for (long h = 0; h < H; ++h)
                next[c * H + h] = vectors[c * H + h] + x[2 * H + h] * u[c * 2 * H + h];
    }
}

// From by_s (P, H) and by_v (P, 3, H) of the next ones.
void change_back(long P, const REAL *both, const REAL *products, const REAL *mixed,
                 const REAL *by_s, const REAL *by_v, REAL *by_left, REAL *by_products,
                 REAL *by_mixed) {
    for (long p = 0; p < P; ++p) {
        const REAL *__restrict x = mixed + p * 3 * H, *__restrict u = both + p * 6 * H;
        const REAL *__restrict m = products + p * H, *__restrict g = by_s + p * H;
        const REAL *__restrict w = by_v + p * 3 * H;
        REAL *__restrict left = by_left + p * 3 * H, *__restrict met = by_products + p * H;
        REAL *__restrict by = by_mixed + p * 3 * H;
        LANES for (long h = 0; h < H; ++h) {
            by[h] = g[h];
            by[H + h] = g[h] * m[h];
            met[h] = g[h] * x[H + h];
            by[2 * H + h] = w[h] * u[h] + w[H + h] * u[2 * H + h] + w[2 * H + h] * u[4 * H + h];
        }
        for (long c = 0; c < 3; ++c)
            LANES for (long h = 0; h < H; ++h) left[c * H + h] = w[c * H + h] * x[2 * H + h];
    }
}

// x (P, 2 H), ds and dv, s (P, H) and v (P, 3, H) or null for zeros -> the next s and v.
void gate(long P, const REAL *x, const Rows *ds, const Rows *dv, const REAL *s, const REAL *v,
          REAL *s_next, REAL *v_next) {
    for (long p = 0; p < P; ++p)
        for (long row = 0; row < 4; ++row) {
            const REAL *raw = x + p * 2 * H + (row ? H : 0);
            const REAL *fresh = row ? dv->of(p) + (row - 1) * H : ds->of(p);
            const long at = row ? (3 * p + row - 1) * H : p * H;
            const REAL *own = row ? v : s;
            REAL *to = (row ? v_next : s_next) + at;
            for (long h = 0; h < H; h += W) {
                const V g = sigmoid(load(raw + h)), b = load(fresh + h);
                store(to + h, own ? b + g * (load(own + at + h) - b) : b - g * b);
            }
        }
}

// From g (P, H) and w (P, 3, H) of the next s and v; by_s and by_v null where there were none.
void gate_back(long P, const REAL *x, const Rows *ds, const Rows *dv, const REAL *s, const REAL *v,
               const REAL *g, const REAL *w, REAL *by_x, REAL *by_ds, REAL *by_dv, REAL *by_s,
               REAL *by_v) {
    for (long p = 0; p < P; ++p)
        for (long h = 0; h < H; h += W) {
            V slope{};
            for (long row = 0; row < 4; ++row) {
                const long at = (row ? (3 * p + row - 1) * H : p * H) + h;
                const REAL *own = row ? v : s;
                REAL *by_own = row ? by_v : by_s;
                const V open = sigmoid(load(x + p * 2 * H + (row ? H : 0) + h));
                const V fresh = load((row ? dv->of(p) + (row - 1) * H : ds->of(p)) + h);
                const V by = load((row ? w : g) + at), kept = by * open;
                store((row ? by_dv : by_ds) + at, by - kept);
                if (own) store(by_own + at, kept);
                slope += (own ? load(own + at) - fresh : -fresh) * kept * (1 - open);
                if (row % 3 == 0) {
                    store(by_x + p * 2 * H + (row ? H : 0) + h, slope);
                    slope = V{};
                }
            }
        }
}
}
