// The second derivative: of the rate at which the first one moves; see attention_tiles.py.

#pragma once

#include "vector_attention.h"

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
static void second_scalars(const Tile &t, const EdgeDirection &w, Heads heads, Rows &r) {
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
static void second_vectors(const Tile &t, const EdgeDirection &w, Heads heads, Rows &r) {
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
        for (int k = 0; k < t.ways * t.kinds; ++k) {
            const EdgeDirection way(t, pair, k, true);
            second_scalars(t, way, heads, r);
            second_vectors<V>(t, way, heads, r);
            if (!t.by_directions) continue;
            const F *g = t.gradient_y + way.i * 3 * H;
            const F *v2 = t.points + way.j * t.stride + 3 * H;
            const F *v2_t = t.points_t + way.j * t.stride_t + 3 * H;
            turning(g, v2, r.filter_t + 2 * H, heads, by_u[way.way]);
            turning(g, v2_t, r.filter + 2 * H, heads, by_u[way.way]);
        }
        if (t.by_envelope)
            t.by_envelope[place] = by_envelope<V>(heads, r.by, r.value)
                                   + by_envelope<V>(heads, r.by_t, r.value_t);
        if (t.by_directions)
            for (int c = 0; c < 3; ++c) t.by_directions[3 * place + c] = by_u[0][c] - by_u[1][c];
        second_radial<V>(t, pair, heads, r);
    }
}
