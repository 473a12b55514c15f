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
static_assert(HIDDEN % HEADS == 0);

// T pairs, P points; n is 3 H or, with vectors, 4 H. See Tile in vector_attention_fused.py.
struct Tile {
    std::int64_t pairs, ways, threads;
    std::int64_t stride, stride_t;                         // from one point's row to the next
    const std::int64_t *first, *second;                    // (T,) points
    const F *envelope, *envelope_t;                        // (T,)
    const F *directions, *directions_t;                    // (T, 3)
    const F *points, *points_t;                            // (P, 4 H) q, k, v0, v2
    const F *vectors, *vectors_t;                          // (P, 3, H) w, or null
    const F *gradient_x, *gradient_y;                      // (P, H), (P, 3, H)
    F *before, *before_t;                                  // (T, n)
    F *sum_x, *sum_y;                                      // (P, H), (P, 3, H)
    F *by_points, *by_vectors;                             // (P, 4 H), (P, 3, H)
    F *by_bias;                                            // (n,)
    F *by_envelope, *by_directions;                        // (threads, T), (threads, T, 3)
};

#define LANES _Pragma("omp simd")

// 1 / (1 + exp(-x)), from exp(-|x|) = 2^n exp(r), |r| <= log(2) / 2, the latter by Taylor's series.
static inline F sigmoid(F x) {
    constexpr bool single = sizeof(F) == 4;
    constexpr F limit = single ? 87 : 708;  // beyond it, less than any number that is left
    constexpr F high = single ? 0.693359375 : 6.93147180369123816490e-01;
    constexpr F low = single ? -2.12194440e-4 : 1.90821492927058770002e-10;
    constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
    constexpr F by_factorial[] = {1., 1., 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040,
        1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
    constexpr int terms = single ? 7 : 13;
    const F away = std::fabs(x), y = limit < away ? limit : away;
    const F n = std::nearbyint(y * F(-1.4426950408889634));
    const F r = (-y - n * high) - n * low;
    F sum = by_factorial[terms];
    for (int k = terms - 1; k >= 0; --k) sum = by_factorial[k] + sum * r;
    const Int bits = (Int(n) + bias) << mantissa;
    F power;
    std::memcpy(&power, &bits, sizeof(F));
    const F small = sum * power, gate = 1 / (1 + small);
    return x < 0 ? small * gate : gate;
}

// The sum of N numbers in halves, which is faster than one by one, and closer.
template <int N>
static inline F total(const F *v) {
    if constexpr (N == 1) return v[0];
    else if constexpr (N % 2) return v[0] + total<N - 1>(v + 1);
    else {
        F half[N / 2];
        LANES for (int x = 0; x < N / 2; ++x) half[x] = v[x] + v[x + N / 2];
        return total<N / 2>(half);
    }
}

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

// A thread's heads, and their features.
struct Heads {
    int from, to;
    int begin() const { return from * D; }
    int end() const { return to * D; }
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
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x)
            r.filter[x] = c * before[x] * sigmoid(before[x]);
    }
}

template <bool V>
static void messages_way(const Tile &t, const Way &w, Heads heads, const F *__restrict f) {
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
static void first_scalars(const Tile &t, const Way &w, Heads heads, Rows &r) {
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
static void first_vectors(const Tile &t, const Way &w, Heads heads, Rows &r) {
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

// Adds to by_u the sum of g v2 D2 over features: what a derivative by u comes to.
static void turning(
    const F *__restrict g, const F *__restrict v2, const F *__restrict d2, Heads heads, F *by_u) {
    F u0 = 0, u1 = 0, u2 = 0;
    _Pragma("omp simd reduction(+ : u0, u1, u2)")
    for (int x = heads.begin(); x < heads.end(); ++x) {
        const F sent = v2[x] * d2[x];
        u0 += g[x] * sent;
        u1 += g[H + x] * sent;
        u2 += g[2 * H + x] * sent;
    }
    by_u[0] += u0;
    by_u[1] += u1;
    by_u[2] += u2;
}

static void add_to_bias(const Tile &t, int block, Heads heads, const F *__restrict by_before) {
    if (!t.by_bias) return;
    F *__restrict by_bias = t.by_bias;
    LANES for (int x = block * H + heads.begin(); x < block * H + heads.end(); ++x)
        by_bias[x] += by_before[x];
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

// And by C: its sum over the features of the blocks that C multiplies.
template <bool V>
static F by_envelope(Heads heads, const F *__restrict by, const F *__restrict value) {
    F sum = 0;
    _Pragma("omp simd reduction(+ : sum)")
    for (int x = heads.begin(); x < heads.end(); ++x) {
        sum += by[H + x] * value[H + x];
        if (SMOOTH) sum += by[2 * H + x] * value[2 * H + x];
        if (SMOOTH && V) sum += by[3 * H + x] * value[3 * H + x];
    }
    return sum;
}

template <bool V>
static void first_of(const Tile &t, Heads heads, int thread) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        const std::int64_t place = thread * t.pairs + pair;
        filters_and_slopes<V>(t, pair, heads, r);
        F by_u[2][3] = {};
        for (int k = 0; k < t.ways; ++k) {
            const Way way(t, pair, k, false);
            first_scalars(t, way, heads, r);
            first_vectors<V>(t, way, heads, r);
            const F *g = t.gradient_y + way.i * 3 * H, *v2 = t.points + way.j * t.stride + 3 * H;
            if (t.by_directions) turning(g, v2, r.filter + 2 * H, heads, by_u[k]);
        }
        if (t.by_envelope) t.by_envelope[place] = by_envelope<V>(heads, r.by, r.value);
        if (t.by_directions)
            for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
        first_radial<V>(t, pair, heads, r);
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
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x) {
            const Silu silu(before[x]);
            const F value_t = silu.slope * before_t[x];
            r.value[x] = silu.value;
            r.value_t[x] = value_t;
            r.slope[x] = silu.slope;
            r.bend[x] = silu.bend * before_t[x];
            r.filter[x] = c * silu.value;
            r.filter_t[x] = c * value_t + c_t * silu.value;
            r.by[x] = 0;
            r.by_t[x] = 0;
        }
    }
}

// The part of the scalar messages: q, k, dk and v0, dv0.
static void second_scalars(const Tile &t, const Way &w, Heads heads, Rows &r) {
    const F *__restrict q = t.points + w.i * t.stride, *__restrict q_t = t.points_t + w.i * t.stride_t;
    const F *__restrict k = t.points + w.j * t.stride + H, *__restrict v = k + H;
    const F *__restrict k_t = t.points_t + w.j * t.stride_t + H, *__restrict v_t = k_t + H;
    const F *__restrict dk = r.filter, *__restrict dk_t = r.filter_t;
    const F *__restrict dv = r.filter + H, *__restrict dv_t = r.filter_t + H;
    const F *__restrict g = t.gradient_x + w.i * H;
    F *__restrict by_q = t.by_points + w.i * 4 * H, *__restrict by_g = t.sum_x + w.i * H;
    F *__restrict by_k = t.by_points + w.j * 4 * H + H, *__restrict by_v = by_k + H;
    F *__restrict by = r.by, *__restrict by_t = r.by_t;
    F z[HEADS], z_t[HEADS], beta[HEADS], beta_t[HEADS];
    F a[HEADS], a_t[HEADS], gamma[HEADS], gamma_t[HEADS];
    for (int h = heads.from; h < heads.to; ++h) {
        F each[4][D];
        LANES for (int e = 0; e < D; ++e) {
            const int x = h * D + e;
            const F kd = k[x] * dk[x], kd_t = k_t[x] * dk[x] + k[x] * dk_t[x];
            each[0][e] = q[x] * kd;
            each[1][e] = q_t[x] * kd + q[x] * kd_t;
            each[2][e] = g[x] * (v[x] * dv[x]);
            each[3][e] = g[x] * (v_t[x] * dv[x] + v[x] * dv_t[x]);
        }
        z[h] = total<D>(each[0]);
        z_t[h] = total<D>(each[1]);
        beta[h] = total<D>(each[2]);
        beta_t[h] = total<D>(each[3]);
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
static void second_vectors(const Tile &t, const Way &w, Heads heads, Rows &r) {
    const F *__restrict v2 = t.points + w.j * t.stride + 3 * H;
    const F *__restrict v2_t = t.points_t + w.j * t.stride_t + 3 * H;
    const F *__restrict v = t.vectors + w.j * 3 * H, *__restrict v_t = t.vectors_t + w.j * 3 * H;
    const F *__restrict f = r.filter, *__restrict f_t = r.filter_t;
    const F *__restrict g = t.gradient_y + w.i * 3 * H;
    F *__restrict by_g = t.sum_y + w.i * 3 * H, *__restrict by_v = t.by_vectors + w.j * 3 * H;
    F *__restrict by_v2 = t.by_points + w.j * 4 * H + 3 * H;
    F *__restrict by = r.by, *__restrict by_t = r.by_t;
    LANES for (int x = heads.begin(); x < heads.end(); ++x) {
        const F g0 = g[x], g1 = g[H + x], g2 = g[2 * H + x];
        const F d2 = f[2 * H + x], d2_t = f_t[2 * H + x];
        const F b = g0 * w.u[0] + g1 * w.u[1] + g2 * w.u[2];
        const F b_t = g0 * w.u_t[0] + g1 * w.u_t[1] + g2 * w.u_t[2];
        const F sent = v2[x] * d2, sent_t = v2_t[x] * d2 + v2[x] * d2_t;
        F y0 = sent * w.u_t[0] + sent_t * w.u[0];
        F y1 = sent * w.u_t[1] + sent_t * w.u[1];
        F y2 = sent * w.u_t[2] + sent_t * w.u[2];
        by_v2[x] += b_t * d2 + b * d2_t;
        by[2 * H + x] += b_t * v2[x] + b * v2_t[x];
        by_t[2 * H + x] += b * v2[x];
        if (V) {
            const F w0 = v[x], w1 = v[H + x], w2 = v[2 * H + x];
            const F w0_t = v_t[x], w1_t = v_t[H + x], w2_t = v_t[2 * H + x];
            const F d1 = f[3 * H + x], d1_t = f_t[3 * H + x];
            by[3 * H + x] += g0 * w0_t + g1 * w1_t + g2 * w2_t;
            by_t[3 * H + x] += g0 * w0 + g1 * w1 + g2 * w2;
            by_v[x] += g0 * d1_t;
            by_v[H + x] += g1 * d1_t;
            by_v[2 * H + x] += g2 * d1_t;
            y0 += w0_t * d1 + w0 * d1_t;
            y1 += w1_t * d1 + w1 * d1_t;
            y2 += w2_t * d1 + w2 * d1_t;
        }
        by_g[x] += y0;
        by_g[H + x] += y1;
        by_g[2 * H + x] += y2;
    }
}

// Overwrites W e + b and its rate with the derivatives by them; the rate does not know b.
template <bool V>
static void second_radial(const Tile &t, std::int64_t pair, Heads heads, const Rows &r) {
    constexpr int blocks = V ? 4 : 3;
    F *before = t.before + pair * blocks * H, *before_t = t.before_t + pair * blocks * H;
    for (int b = 0; b < blocks; ++b) {
        const F c = enveloped(b) ? t.envelope[pair] : F(1);
        const F c_t = enveloped(b) ? t.envelope_t[pair] : F(0);
        LANES for (int x = b * H + heads.begin(); x < b * H + heads.end(); ++x) {
            const F by_value = c * r.by[x] + c_t * r.by_t[x], by_value_t = c * r.by_t[x];
            before[x] = by_value * r.slope[x] + by_value_t * r.bend[x];
            before_t[x] = by_value_t * r.slope[x];
        }
        add_to_bias(t, b, heads, before);
    }
}

template <bool V>
static void second_of(const Tile &t, Heads heads, int thread) {
    Rows r;
    for (std::int64_t pair = 0; pair < t.pairs; ++pair) {
        const std::int64_t place = thread * t.pairs + pair;
        moving_filters<V>(t, pair, heads, r);
        F by_u[2][3] = {};
        for (int k = 0; k < t.ways; ++k) {
            const Way way(t, pair, k, true);
            second_scalars(t, way, heads, r);
            second_vectors<V>(t, way, heads, r);
            if (!t.by_directions) continue;
            const F *g = t.gradient_y + way.i * 3 * H;
            const F *v2 = t.points + way.j * t.stride + 3 * H;
            const F *v2_t = t.points_t + way.j * t.stride_t + 3 * H;
            turning(g, v2, r.filter_t + 2 * H, heads, by_u[k]);
            turning(g, v2_t, r.filter + 2 * H, heads, by_u[k]);
        }
        if (t.by_envelope)
            t.by_envelope[place] = by_envelope<V>(heads, r.by, r.value)
                                   + by_envelope<V>(heads, r.by_t, r.value_t);
        if (t.by_directions)
            for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
        second_radial<V>(t, pair, heads, r);
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
