// The equivariant transformer's attention, its first and its second derivative, for a tile of
// pairs of points. The formulas are those of vector_attention_tiles.py and
// vector_attention_radial.py, which do the same where there is no compiler; the names are theirs.
//
// A pair goes through all steps, both directions included, before the next one begins: what it
// needs besides the points' rows stays in the first cache, points' rows are read and added to
// where they lie, and nothing an edge is ever written. HIDDEN, HEADS, REAL and SMOOTH are set by
// the compiler's command line, so that all loops have known lengths.
//
// Threads share out the heads, and with them the features: none of them writes what another one
// reads, except for the few sums over features, which each keeps apart.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

using F = REAL;
using Int = std::conditional_t<sizeof(F) == 4, std::int32_t, std::int64_t>;
constexpr int H = HIDDEN, D = HIDDEN / HEADS;

// T pairs, P points; n is 3 H or, with vectors, 4 H. See Tile in vector_attention_fused.py.
struct Tile {
    std::int64_t pairs, ways, vectors, threads;
    const std::int64_t *first, *second;                    // (T,) points
    const F *envelope, *envelope_t;                        // (T,)
    const F *directions, *directions_t;                    // (T, 3)
    const F *query, *query_t;                              // (P, H)
    const F *sent, *sent_t;                                // (P, 3 H or 6 H)
    const F *gradient;                                     // (P, 4, H)
    F *before, *before_t;                                  // (T, n)
    F *sum, *by_query, *by_sent;                           // (P, 4, H), (P, H), (P, 3 H or 6 H)
    F *by_envelope, *by_directions;                        // (threads, T), (threads, T, 3)
};

#define LANES _Pragma("omp simd")

// exp(x) = 2^n exp(r), |r| <= log(2) / 2, by Taylor's series; saturates where F would overflow.
static inline F exponential(F x) {
    constexpr bool single = sizeof(F) == 4;
    constexpr F limit = single ? 87 : 708;
    constexpr F high = single ? 0.693359375 : 6.93147180369123816490e-01;
    constexpr F low = single ? -2.12194440e-4 : 1.90821492927058770002e-10;
    constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const F n = std::nearbyint(x * F(1.4426950408889634));
    const F r = (x - n * high) - n * low;
    F sum = 1;
    for (int k = single ? 7 : 13; k > 0; --k) sum = 1 + sum * r * (F(1) / F(k));
    const Int bits = (Int(n) + bias) << mantissa;
    F power;
    std::memcpy(&power, &bits, sizeof(F));
    return sum * power;
}

static inline F sigmoid(F x) { return 1 / (1 + exponential(-x)); }

// silu and its first two derivatives.
struct Silu {
    F value, slope, bend;
    explicit Silu(F x) {
        const F gate = sigmoid(x), rest = 1 - gate;
        value = x * gate;
        slope = gate + value * rest;
        bend = gate * rest * (2 + x * (1 - 2 * gate));
    }
};

// Which blocks of the radial part, in the order dk, dv0, dv2, dv1, the envelope multiplies.
constexpr bool enveloped(int block) { return block == 1 || (block > 1 && SMOOTH); }

struct Heads {
    int from, to;
};

// R of a pair and its derivatives, (4, H) each, of which a layer without vectors leaves the last.
struct Rows {
    alignas(64) F value[4 * H], slope[4 * H], bend[4 * H], filter[4 * H], by[4 * H];
    alignas(64) F value_t[4 * H], filter_t[4 * H], by_t[4 * H];
};

// For each way through a pair: who receives, who sends, and the direction.
struct Way {
    std::int64_t i, j;
    F u[3], u_t[3];
    Way(const Tile &t, std::int64_t pair, int way, bool moving) {
        i = way ? t.second[pair] : t.first[pair];
        j = way ? t.first[pair] : t.second[pair];
        for (int c = 0; c < 3; ++c) {
            u[c] = way ? -t.directions[3 * pair + c] : t.directions[3 * pair + c];
            u_t[c] = !moving ? 0 : way ? -t.directions_t[3 * pair + c] : t.directions_t[3 * pair + c];
        }
    }
};

// Messages.

template <bool V>
static void filters(const Tile &t, std::int64_t pair, Heads heads, Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    const F *before = t.before + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        for (int h = heads.from; h < heads.to; ++h) {
            const int o = b * H + h * D;
            LANES for (int x = o; x < o + D; ++x) r.filter[x] = c * before[x] * sigmoid(before[x]);
        }
    }
}

template <bool V>
static void messages_way(const Tile &t, const Way &w, Heads heads, const F *__restrict f) {
    const F *__restrict q = t.query + w.i * H, *__restrict s = t.sent + w.j * (V ? 6 : 3) * H;
    F *__restrict out = t.sum + w.i * 4 * H;
    F z[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        F total = 0;
        _Pragma("omp simd reduction(+ : total)")
        for (int x = h * D; x < h * D + D; ++x) total += q[x] * s[x] * f[x];
        z[h] = total;
    }
    LANES for (int h = heads.from; h < heads.to; ++h) z[h] *= sigmoid(z[h]);
    for (int h = heads.from; h < heads.to; ++h) {
        LANES for (int x = h * D; x < h * D + D; ++x) {
            out[x] += z[h] * s[H + x] * f[H + x];
            const F t2 = s[2 * H + x] * f[2 * H + x];
            F y0 = w.u[0] * t2, y1 = w.u[1] * t2, y2 = w.u[2] * t2;
            if (V) {
                y0 += s[3 * H + x] * f[3 * H + x];
                y1 += s[4 * H + x] * f[3 * H + x];
                y2 += s[5 * H + x] * f[3 * H + x];
            }
            out[H + x] += y0;
            out[2 * H + x] += y1;
            out[3 * H + x] += y2;
        }
    }
}

template <bool V>
static void messages_of(const Tile &t, Heads heads, int) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        filters<V>(t, pair, heads, r);
        for (int way = 0; way < t.ways; ++way)
            messages_way<V>(t, Way(t, pair, way, false), heads, r.filter);
    }
}

// First derivatives.

template <bool V>
static void filters_and_slopes(const Tile &t, std::int64_t pair, Heads heads, Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    const F *before = t.before + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        for (int h = heads.from; h < heads.to; ++h) {
            const int o = b * H + h * D;
            LANES for (int x = o; x < o + D; ++x) {
                const Silu silu(before[x]);
                r.value[x] = silu.value;
                r.filter[x] = c * silu.value;
                r.slope[x] = c * silu.slope;
                r.by[x] = 0;
            }
        }
    }
}

template <bool V>
static void first_way(const Tile &t, const Way &w, Heads heads, Rows &r, F *by_u) {
    constexpr int S = (V ? 6 : 3) * H;
    const F *__restrict q = t.query + w.i * H, *__restrict s = t.sent + w.j * S;
    const F *__restrict g = t.gradient + w.i * 4 * H, *__restrict f = r.filter;
    F *__restrict by_q = t.by_query + w.i * H, *__restrict by_s = t.by_sent + w.j * S;
    F *__restrict by = r.by;
    F z[HEADS], beta[HEADS], a[HEADS], gamma[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        F z_sum = 0, beta_sum = 0;
        _Pragma("omp simd reduction(+ : z_sum, beta_sum)")
        for (int x = h * D; x < h * D + D; ++x) {
            z_sum += q[x] * s[x] * f[x];
            beta_sum += g[x] * s[H + x] * f[H + x];
        }
        z[h] = z_sum;
        beta[h] = beta_sum;
    }
    LANES for (int h = heads.from; h < heads.to; ++h) {
        const Silu silu(z[h]);
        a[h] = silu.value;
        gamma[h] = beta[h] * silu.slope;
    }
    F t0 = 0, t1 = 0, t2 = 0;
    for (int h = heads.from; h < heads.to; ++h) {
        const F a_h = a[h], gamma_h = gamma[h];
        _Pragma("omp simd reduction(+ : t0, t1, t2)")
        for (int x = h * D; x < h * D + D; ++x) {
            by_q[x] += gamma_h * s[x] * f[x];
            by_s[x] += gamma_h * q[x] * f[x];
            by[x] += gamma_h * q[x] * s[x];
            by_s[H + x] += a_h * g[x] * f[H + x];
            by[H + x] += a_h * g[x] * s[H + x];
            const F g0 = g[H + x], g1 = g[2 * H + x], g2 = g[3 * H + x];
            const F along = g0 * w.u[0] + g1 * w.u[1] + g2 * w.u[2];
            const F sent = s[2 * H + x] * f[2 * H + x];
            by_s[2 * H + x] += along * f[2 * H + x];
            by[2 * H + x] += along * s[2 * H + x];
            t0 += g0 * sent;
            t1 += g1 * sent;
            t2 += g2 * sent;
            if (V) {
                const F d1 = f[3 * H + x];
                by[3 * H + x] += g0 * s[3 * H + x] + g1 * s[4 * H + x] + g2 * s[5 * H + x];
                by_s[3 * H + x] += g0 * d1;
                by_s[4 * H + x] += g1 * d1;
                by_s[5 * H + x] += g2 * d1;
            }
        }
    }
    by_u[0] += t0;
    by_u[1] += t1;
    by_u[2] += t2;
}

template <bool V>
static void first_of(const Tile &t, Heads heads, int thread) {
    constexpr int blocks = V ? 4 : 3;
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        filters_and_slopes<V>(t, pair, heads, r);
        F by_u[2][3] = {};
        for (int way = 0; way < t.ways; ++way)
            first_way<V>(t, Way(t, pair, way, false), heads, r, by_u[way]);
        F by_c = 0;
        F *before = t.before + pair * blocks * H;
        for (int b = 0; b < blocks; ++b) {
            const F counts = enveloped(b) ? 1 : 0;
            for (int h = heads.from; h < heads.to; ++h) {
                const int o = b * H + h * D;
                _Pragma("omp simd reduction(+ : by_c)")
                for (int x = o; x < o + D; ++x) {
                    by_c += counts * r.by[x] * r.value[x];
                    before[x] = r.by[x] * r.slope[x];
                }
            }
        }
        const std::int64_t place = thread * t.pairs + pair;
        t.by_envelope[place] = by_c;
        for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
    }
}

// Second derivatives.

template <bool V>
static void moving_filters(const Tile &t, std::int64_t pair, Heads heads, Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    const F *before = t.before + pair * blocks * H, *before_t = t.before_t + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        const F c_t = enveloped(b) ? t.envelope_t[pair] : F(0);
        for (int h = heads.from; h < heads.to; ++h) {
            const int o = b * H + h * D;
            LANES for (int x = o; x < o + D; ++x) {
                const Silu silu(before[x]);
                r.value[x] = silu.value;
                r.slope[x] = silu.slope;
                r.bend[x] = silu.bend * before_t[x];
                r.value_t[x] = silu.slope * before_t[x];
                r.filter[x] = c * silu.value;
                r.filter_t[x] = c * r.value_t[x] + c_t * silu.value;
                r.by[x] = 0;
                r.by_t[x] = 0;
            }
        }
    }
}

// The part of the scalar messages: q, k, dk and v0, dv0.
template <bool V>
static void second_scalars(const Tile &t, const Way &w, Heads heads, Rows &r) {
    constexpr int S = (V ? 6 : 3) * H;
    const F *__restrict q = t.query + w.i * H, *__restrict q_t = t.query_t + w.i * H;
    const F *__restrict k = t.sent + w.j * S, *__restrict k_t = t.sent_t + w.j * S;
    const F *__restrict v = k + H, *__restrict v_t = k_t + H;
    const F *__restrict dk = r.filter, *__restrict dk_t = r.filter_t;
    const F *__restrict dv = r.filter + H, *__restrict dv_t = r.filter_t + H;
    const F *__restrict g = t.gradient + w.i * 4 * H;
    F *__restrict by_q = t.by_query + w.i * H, *__restrict by_g = t.sum + w.i * 4 * H;
    F *__restrict by_k = t.by_sent + w.j * S, *__restrict by_v = by_k + H;
    F *__restrict by = r.by, *__restrict by_t = r.by_t;
    F z[HEADS], z_t[HEADS], beta[HEADS], beta_t[HEADS];
    F a[HEADS], a_t[HEADS], gamma[HEADS], gamma_t[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        F z_sum = 0, z_t_sum = 0, beta_sum = 0, beta_t_sum = 0;
        _Pragma("omp simd reduction(+ : z_sum, z_t_sum, beta_sum, beta_t_sum)")
        for (int x = h * D; x < h * D + D; ++x) {
            const F kd = k[x] * dk[x], kd_t = k_t[x] * dk[x] + k[x] * dk_t[x];
            z_sum += q[x] * kd;
            z_t_sum += q_t[x] * kd + q[x] * kd_t;
            beta_sum += g[x] * (v[x] * dv[x]);
            beta_t_sum += g[x] * (v_t[x] * dv[x] + v[x] * dv_t[x]);
        }
        z[h] = z_sum;
        z_t[h] = z_t_sum;
        beta[h] = beta_sum;
        beta_t[h] = beta_t_sum;
    }
    LANES for (int h = heads.from; h < heads.to; ++h) {
        const Silu silu(z[h]);
        a[h] = silu.value;
        a_t[h] = silu.slope * z_t[h];
        gamma[h] = beta[h] * silu.slope;
        gamma_t[h] = beta_t[h] * silu.slope + beta[h] * z_t[h] * silu.bend;
    }
    for (int h = heads.from; h < heads.to; ++h) {
        const F a_h = a[h], a_th = a_t[h], gamma_h = gamma[h], gamma_th = gamma_t[h];
        LANES for (int x = h * D; x < h * D + D; ++x) {
            const F b = gamma_h * q[x], b_t = gamma_th * q[x] + gamma_h * q_t[x];
            by_q[x] += gamma_th * k[x] * dk[x] + gamma_h * (k_t[x] * dk[x] + k[x] * dk_t[x]);
            by_k[x] += b_t * dk[x] + b * dk_t[x];
            by[x] += b_t * k[x] + b * k_t[x];
            by_t[x] += b * k[x];
        }
        LANES for (int x = h * D; x < h * D + D; ++x) {
            const F b = a_h * g[x], b_t = a_th * g[x];
            by_g[x] += a_th * v[x] * dv[x] + a_h * (v_t[x] * dv[x] + v[x] * dv_t[x]);
            by_v[x] += b_t * dv[x] + b * dv_t[x];
            by[H + x] += b_t * v[x] + b * v_t[x];
            by_t[H + x] += b * v[x];
        }
    }
}

// The part of the vector messages: v2, dv2, u and w, dv1.
template <bool V>
static void second_vectors(const Tile &t, const Way &w, Heads heads, Rows &r, F *by_u) {
    constexpr int S = (V ? 6 : 3) * H;
    const F *__restrict s = t.sent + w.j * S, *__restrict s_t = t.sent_t + w.j * S;
    const F *__restrict f = r.filter, *__restrict f_t = r.filter_t;
    const F *__restrict g = t.gradient + w.i * 4 * H;
    F *__restrict by_g = t.sum + w.i * 4 * H, *__restrict by_s = t.by_sent + w.j * S;
    F *__restrict by = r.by, *__restrict by_t = r.by_t;
    F t0 = 0, t1 = 0, t2 = 0;
    _Pragma("omp simd reduction(+ : t0, t1, t2)")
    for (int x = heads.from * D; x < heads.to * D; ++x) {
        const F g0 = g[H + x], g1 = g[2 * H + x], g2 = g[3 * H + x];
        const F v = s[2 * H + x], v_t = s_t[2 * H + x], d = f[2 * H + x], d_t = f_t[2 * H + x];
        const F b = g0 * w.u[0] + g1 * w.u[1] + g2 * w.u[2];
        const F b_t = g0 * w.u_t[0] + g1 * w.u_t[1] + g2 * w.u_t[2];
        const F sent = v * d, sent_t = v_t * d + v * d_t;
        F y0 = sent * w.u_t[0] + sent_t * w.u[0];
        F y1 = sent * w.u_t[1] + sent_t * w.u[1];
        F y2 = sent * w.u_t[2] + sent_t * w.u[2];
        by_s[2 * H + x] += b_t * d + b * d_t;
        by[2 * H + x] += b_t * v + b * v_t;
        by_t[2 * H + x] += b * v;
        t0 += g0 * sent_t;
        t1 += g1 * sent_t;
        t2 += g2 * sent_t;
        if (V) {
            const F w0 = s[3 * H + x], w1 = s[4 * H + x], w2 = s[5 * H + x];
            const F w0_t = s_t[3 * H + x], w1_t = s_t[4 * H + x], w2_t = s_t[5 * H + x];
            const F d1 = f[3 * H + x], d1_t = f_t[3 * H + x];
            by[3 * H + x] += g0 * w0_t + g1 * w1_t + g2 * w2_t;
            by_t[3 * H + x] += g0 * w0 + g1 * w1 + g2 * w2;
            by_s[3 * H + x] += g0 * d1_t;
            by_s[4 * H + x] += g1 * d1_t;
            by_s[5 * H + x] += g2 * d1_t;
            y0 += w0_t * d1 + w0 * d1_t;
            y1 += w1_t * d1 + w1 * d1_t;
            y2 += w2_t * d1 + w2 * d1_t;
        }
        by_g[H + x] += y0;
        by_g[2 * H + x] += y1;
        by_g[3 * H + x] += y2;
    }
    by_u[0] += t0;
    by_u[1] += t1;
    by_u[2] += t2;
}

// Overwrites W e + b and its rate with the derivatives by them.
template <bool V>
static F second_radial(const Tile &t, std::int64_t pair, Heads heads, const Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    F *before = t.before + pair * blocks * H, *before_t = t.before_t + pair * blocks * H;
    F by_c = 0;
    for (int b = 0; b < blocks; ++b) {
        const F counts = enveloped(b) ? 1 : 0;
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        const F c_t = enveloped(b) ? t.envelope_t[pair] : F(0);
        for (int h = heads.from; h < heads.to; ++h) {
            const int o = b * H + h * D;
            _Pragma("omp simd reduction(+ : by_c)")
            for (int x = o; x < o + D; ++x) {
                const F by_value = c * r.by[x] + c_t * r.by_t[x], by_value_t = c * r.by_t[x];
                by_c += counts * (r.by[x] * r.value[x] + r.by_t[x] * r.value_t[x]);
                before[x] = by_value * r.slope[x] + by_value_t * r.bend[x];
                before_t[x] = by_value_t * r.slope[x];
            }
        }
    }
    return by_c;
}

template <bool V>
static void second_of(const Tile &t, Heads heads, int thread) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        moving_filters<V>(t, pair, heads, r);
        F by_u[2][3] = {};
        for (int k = 0; k < t.ways; ++k) {
            const Way way(t, pair, k, true);
            second_scalars<V>(t, way, heads, r);
            second_vectors<V>(t, way, heads, r, by_u[k]);
        }
        const std::int64_t place = thread * t.pairs + pair;
        t.by_envelope[place] = second_radial<V>(t, pair, heads, r);
        for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
    }
}

// A thread's heads.
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
