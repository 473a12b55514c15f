// What an n-body layer is given and keeps, and where it lies in memory; see nbody_step.cpp.

#pragma once

#include <cstring>

#include "rows.h"

namespace {

constexpr long H = HIDDEN, SQUARE = H * H, WIDE = 2 * H + 3;

struct Sizes {
    long points, systems, first, fixed, update, pulled, threads, tile;
    long receivers() const { return points - first; }
    long going() const { return points - fixed; }
    long pairs() const { return receivers() * (points - 1); }  // of one system
    long pushes() const { return going() * (points - 1); }
    long tiles() const { return (systems + tile - 1) / tile; }
    // numbers kept of one system: z1, z2; z3, phi; the drift's; the update's and the sums
    long kept() const {
        return 2 * pairs() * H + pushes() * (H + 1) + going() * H + (update ? 2 * points * H : 0);
    }
};

// Pointers in the order in which egnn/nbody_step.py hands them over.
struct Inputs {
    const REAL *h, *now, *start, *charges, *velocities;
};
struct Weights {
    REAL *message, *message_bias, *second, *second_bias, *push, *push_bias, *last;
    REAL *drift, *drift_bias, *speed, *speed_bias;
    REAL *update, *update_bias, *out, *out_bias;
};

struct Kept {
    REAL *z1, *z2, *z3, *phi, *drift, *sums, *inner;
    Kept(REAL *at, const Sizes &n, long S) {
        z1 = at, z2 = z1 + n.pairs() * S * H, z3 = z2 + n.pairs() * S * H;
        drift = z3 + n.pushes() * S * H, sums = drift + n.going() * S * H;
        inner = sums + (n.update ? n.points * S * H : 0);
        phi = inner + (n.update ? n.points * S * H : 0);
    }
};

// One pair's geometry.
struct Pair {
    long i, j, s;      // receiver, sender, system in the tile
    REAL apart[3];     // from sender to receiver, now
    REAL numbers[3];   // squared distance now, product of charges, squared distance at the start
};

// The pairs that point ``first`` or a later one receives, and their number in this order.
template <class Do>
void each_pair(const Sizes &n, const Inputs &in, long from, long S, long first, Do act) {
    long row = 0, B = n.systems;
    for (long i = first; i < n.points; ++i)
        for (long k = 0; k + 1 < n.points; ++k) {
            long j = k < i ? k : k + 1;
            for (long s = 0; s < S; ++s, ++row) {
                long a = i * B + from + s, b = j * B + from + s;
                Pair pair{i, j, s, {}, {0, in.charges[a] * in.charges[b], 0}};
                for (int c = 0; c < 3; ++c) {
                    REAL d = in.now[3 * a + c] - in.now[3 * b + c];
                    REAL d0 = in.start[3 * a + c] - in.start[3 * b + c];
                    pair.apart[c] = d, pair.numbers[0] += d * d, pair.numbers[2] += d0 * d0;
                }
                act(row, pair);
            }
        }
}

constexpr REAL FARTHEST = 100;

// (P, B, H) rows of one tile, and back
void gather(const Sizes &n, const REAL *from, long begin, long S, REAL *to) {
    for (long p = 0; p < n.points; ++p)
        memcpy(to + p * S * H, from + (p * n.systems + begin) * H, S * H * sizeof(REAL));
}
void scatter(const Sizes &n, const REAL *from, long begin, long S, REAL *to) {
    for (long p = 0; p < n.points; ++p)
        memcpy(to + (p * n.systems + begin) * H, from + p * S * H, S * H * sizeof(REAL));
}

void columns(const Weights &w, REAL *three) {
    for (int c = 0; c < 3; ++c)
        for (long k = 0; k < H; ++k) three[c * H + k] = w.message[k * WIDE + 2 * H + c];
}

// The systems ``from`` to ``from + S``, and where their rows begin.
struct Tile {
    const Sizes &n;
    long from, S, points, receivers, going, pairs, pushes;
    long ahead, fixed, still;  // numbers before the first receiver, point that goes, push
    Tile(const Sizes &n, long index) : n(n), from(index * n.tile) {
        S = n.tile < n.systems - from ? n.tile : n.systems - from;
        points = n.points * S, receivers = n.receivers() * S, going = n.going() * S;
        pairs = n.pairs() * S, pushes = n.pushes() * S;
        ahead = n.first * S * H, fixed = n.fixed * S * H, still = (pairs - pushes) * H;
    }
    // where the x of the k-th row of points that go is in (P - fixed, B, 3)
    long place(long k) const { return (k / S * n.systems + from + k % S) * 3; }
};

// Weights as products of rows need them, shared by the threads.
struct Transposed {
    Work work;
    REAL *received, *sent, *second, *push, *drift, *own, *of_sum, *out, *three;
    Transposed(const Weights &w, bool update) : work(8 * SQUARE + 3 * H) {
        received = turned(w.message, WIDE), sent = turned(w.message + H, WIDE);
        second = turned(w.second, H), push = turned(w.push, H), drift = turned(w.drift, H);
        own = update ? turned(w.update, 2 * H) : nullptr;
        of_sum = update ? turned(w.update + H, 2 * H) : nullptr;
        out = update ? turned(w.out, H) : nullptr;
        three = work.rows(3 * H);
        columns(w, three);
    }
    REAL *turned(const REAL *from, long stride) {
        REAL *to = work.rows(SQUARE);
        transpose<H>(from, stride, to);
        return to;
    }
};

}  // namespace
