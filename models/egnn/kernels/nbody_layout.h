// What an n-body layer is given and keeps, and where it lies in memory; see nbody_step.cpp.

#pragma once

#include <cstring>

#include "rows.h"

namespace {

constexpr long H = HIDDEN, SQUARE = H * H, WIDE = 2 * H + 3;

struct Sizes {
    long points, systems, first, fixed, update, pulled, threads, tile;
    long receivers() const { return points - first; }
    long movable() const { return points - fixed; }
    long pairs() const { return receivers() * (points - 1); }  // of one system
    long position_messages() const { return movable() * (points - 1); }
    long tiles() const { return (systems + tile - 1) / tile; }
    // numbers saved of one system: z1, z2; z3, phi; phi_v's; the update's and the sums
    long saved() const {
        const long updates = update ? 2 * points * H : 0;
        return 2 * pairs() * H + position_messages() * (H + 1) + movable() * H + updates;
    }
};

// Pointers in the order in which egnn/nbody_step.py hands them over.
struct Inputs {
    const REAL *h, *now, *start, *charges, *velocities;
};
struct Weights {
    REAL *message, *message_bias, *second, *second_bias, *phi_x, *phi_x_bias, *last;
    REAL *phi_v, *phi_v_bias, *speed, *speed_bias;
    REAL *update, *update_bias, *out, *out_bias;
};

struct Saved {
    REAL *z1, *z2, *z3, *phi, *phi_v, *sums, *inner;
    Saved(REAL *at, const Sizes &n, long S) {
        z1 = at, z2 = z1 + n.pairs() * S * H, z3 = z2 + n.pairs() * S * H;
        phi_v = z3 + n.position_messages() * S * H, sums = phi_v + n.movable() * S * H;
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
    long from, S, points, receivers, movable, pairs, position_messages;
    long ahead, fixed, to_fixed;  // numbers before the first receiver, point that goes, phi_x
    Tile(const Sizes &n, long index) : n(n), from(index * n.tile) {
        S = n.tile < n.systems - from ? n.tile : n.systems - from;
        points = n.points * S, receivers = n.receivers() * S, movable = n.movable() * S;
        pairs = n.pairs() * S, position_messages = n.position_messages() * S;
        ahead = n.first * S * H, fixed = n.fixed * S * H, to_fixed = (pairs - position_messages) * H;
    }
    // where the x of the k-th row of points that go is in (P - fixed, B, 3)
    long place(long k) const { return (k / S * n.systems + from + k % S) * 3; }
};

// Weights as products of rows need them, shared by the threads.
struct Transposed {
    Work work;
    REAL *received, *sent, *second, *phi_x, *phi_v, *own, *of_sum, *out, *three;
    Transposed(const Weights &w, bool update) : work(8 * SQUARE + 3 * H) {
        received = turned(w.message, WIDE), sent = turned(w.message + H, WIDE);
        second = turned(w.second, H), phi_x = turned(w.phi_x, H), phi_v = turned(w.phi_v, H);
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
