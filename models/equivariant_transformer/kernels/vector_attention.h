// What the loops over pairs have in common: what they are given, and what belongs to one pair.

#pragma once

#include "silu.h"

constexpr int H = HIDDEN, D = HIDDEN / HEADS;
static_assert(HIDDEN % HEADS == 0);

// T pairs, P points; n is 3 H or, with vectors, 4 H. See Tile in attention_fused.py.
struct Tile {
    std::int64_t pairs, ways, kinds, copies, threads;      // see UniqueEdges
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

// For each way through a pair of each kind: who receives, who sends, and the direction.
struct EdgeDirection {
    std::int64_t way, i, j;
    F u[3], u_t[3];
    EdgeDirection(const Tile &t, std::int64_t pair, int which, bool moving) {
        const std::int64_t kind = which / t.ways;
        way = which % t.ways;
        i = (way ? t.second[pair] : t.first[pair]) + kind % 2 * t.copies;
        j = (way ? t.first[pair] : t.second[pair]) + kind / 2 * t.copies;
        for (int c = 0; c < 3; ++c) {
            u[c] = way ? -t.directions[3 * pair + c] : t.directions[3 * pair + c];
            u_t[c] = !moving ? 0 : way ? -t.directions_t[3 * pair + c] : t.directions_t[3 * pair + c];
        }
    }
};

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

// And by b.
static void add_to_bias(const Tile &t, int block, Heads heads, const F *__restrict by_before) {
    if (!t.by_bias) return;
    F *__restrict by_bias = t.by_bias;
    LANES for (int x = block * H + heads.begin(); x < block * H + heads.end(); ++x)
        by_bias[x] += by_before[x];
}

// What a derivative by R comes to, by C: the sum over features of the blocks that C multiplies.
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
