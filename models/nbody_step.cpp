// One layer of EGNN with velocities (see egnn_nbody.py) and its derivative, a few systems at a time.
//
// Everything between a layer's input and output lives in rows of H numbers that fit a core's own
// cache. Rows of a tile of S systems: points (p S + s), pairs ((i - first)(P - 1) + j') S + s, where
// i receives and j' counts the other points in ascending order.
//
// Compiled with -DREAL=float or double and -DHIDDEN=H, a multiple of 16.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__AVX512F__)
constexpr int BYTES = 64, COLUMNS = 4;  // 6 x 4 accumulators of 32 registers
#else
constexpr int BYTES = 32, COLUMNS = 2;  // 6 x 2 of 16
#endif
constexpr int ROWS = 6;
constexpr int W = BYTES / sizeof(REAL);
constexpr long H = HIDDEN, SQUARE = H * H, WIDE = 2 * H + 3;
typedef REAL V __attribute__((vector_size(BYTES)));
typedef REAL U __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
template <int SIZE> struct Whole { typedef int32_t type; };
template <> struct Whole<8> { typedef int64_t type; };
typedef Whole<sizeof(REAL)>::type I;
typedef I IV __attribute__((vector_size(BYTES)));

static inline V load(const REAL *at) { return *(const U *)at; }
static inline void store(REAL *at, V v) { *(U *)at = v; }
static inline REAL total(V v) {
    REAL a[W];
    store(a, v);
#pragma GCC unroll 4
    for (int half = W / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int k = 0; k < half; ++k) a[k] += a[k + half];
    return a[0];
}

// ln(2)^k / k!, the Taylor series of 2^x
struct Series {
    static constexpr int terms = sizeof(REAL) == 4 ? 6 : 13;
    REAL factor[terms + 1];
    constexpr Series() : factor{1} {
        double next = 1;
        for (int k = 1; k <= terms; ++k) factor[k] = next *= 0.69314718055994530942 / k;
    }
};

// 1 / (1 + exp(-z)), the exponential as 2^n 2^f, |f| <= 1/2. Adding ``shift`` rounds to the integer
// n and leaves it in the lowest bits, from where it is added to the exponent of 2^f.
static inline V sigmoid(V z) {
    constexpr bool single = sizeof(REAL) == 4;
    constexpr REAL shift = single ? REAL(12582912.0) : REAL(6755399441055744.0);
    constexpr Series series;
    V t = z * REAL(-1.44269504088896340736);
    t = t > 100 ? V{} + 100 : t;  // beyond, silu is 0 or z; 2^t would overflow
    t = t < -100 ? V{} - 100 : t;
    V shifted = t + shift, f = t - (shifted - shift), sum = V{} + series.factor[series.terms];
#pragma GCC unroll 13
    for (int k = series.terms - 1; k >= 0; --k) sum = sum * f + series.factor[k];
    return 1 / (1 + (V)((IV)sum + ((IV)shifted << (single ? 23 : 52))));
}
static inline V silu(V z) { return z * sigmoid(z); }
// silu and its derivative from one exponential
static inline V silu(V z, V &slope) {
    V s = sigmoid(z), y = z * s;
    slope = s + y * (1 - s);
    return y;
}

// c = start + a b for M x N vectors; a(m, k) = a[m am + k ak].
template <int M, int N>
static inline void block(long K, const REAL *a, long am, long ak, const REAL *b, long bk,
                         const REAL *start, long sm, REAL *c, long cm) {
    V sum[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[m][n] = start ? load(start + m * sm + n * W) : V{};
    for (long k = 0; k < K; ++k) {
        V row[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) row[n] = load(b + k * bk + n * W);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            V x = V{} + a[m * am + k * ak];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum[m][n] += x * row[n];
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(c + m * cm + n * W, sum[m][n]);
}

template <int N>
static void panel(long M, long K, const REAL *a, long am, long ak, const REAL *b, long bk,
                  const REAL *start, long sm, REAL *c, long cm) {
    long m = 0;
    auto at = [&](long row) { return start ? start + row * sm : nullptr; };
    for (; m + ROWS <= M; m += ROWS)
        block<ROWS, N>(K, a + m * am, am, ak, b, bk, at(m), sm, c + m * cm, cm);
    for (; m + 2 <= M; m += 2) block<2, N>(K, a + m * am, am, ak, b, bk, at(m), sm, c + m * cm, cm);
    for (; m < M; ++m) block<1, N>(K, a + m * am, am, ak, b, bk, at(m), sm, c + m * cm, cm);
}

// c (M, C) = start + a (M, K) b (K, C); start: rows sm apart (0: a bias), or null.
static void product(long M, long C, long K, const REAL *a, long am, long ak, const REAL *b, long bk,
                    const REAL *start, long sm, REAL *c, long cm) {
    long n = 0;
    for (; n + COLUMNS * W <= C; n += COLUMNS * W)
        panel<COLUMNS>(M, K, a, am, ak, b + n, bk, start ? start + n : nullptr, sm, c + n, cm);
    for (; n < C; n += W)
        panel<1>(M, K, a, am, ak, b + n, bk, start ? start + n : nullptr, sm, c + n, cm);
}

namespace {

struct Sizes {
    long points, systems, first, fixed, update, pulled, tile;
    long receivers() const { return points - first; }
    long going() const { return points - fixed; }
    long pairs() const { return receivers() * (points - 1); }  // of one system
    long pushes() const { return going() * (points - 1); }
    // numbers kept of one system: z1, z2; z3, phi; the drift's; the update's and the sums
    long kept() const {
        return 2 * pairs() * H + pushes() * (H + 1) + going() * H +
               (update ? 2 * points * H : 0);
    }
};

// Pointers in the order in which nbody_step.py hands them over.
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

template <class Do> void each_pair(const Sizes &n, const Inputs &in, long from, long S, Do act) {
    long row = 0, B = n.systems;
    for (long i = n.first; i < n.points; ++i)
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

void add(long count, REAL *to, const REAL *from) {
    for (long k = 0; k < count; k += W) store(to + k, load(to + k) + load(from + k));
}
void activate(long count, const REAL *z, REAL *y) {
    for (long k = 0; k < count; k += W) store(y + k, silu(load(z + k)));
}
void activate(long count, const REAL *z, REAL *y, REAL *slopes) {
    for (long k = 0; k < count; k += W) {
        V slope, value = silu(load(z + k), slope);
        store(y + k, value), store(slopes + k, slope);
    }
}
void multiply(long count, REAL *to, const REAL *by) {
    for (long k = 0; k < count; k += W) store(to + k, load(to + k) * load(by + k));
}
void transpose(const REAL *from, long stride, REAL *to) {
    for (long i = 0; i < H; i += 8)
        for (long j = 0; j < H; ++j)
            for (long k = i; k < i + 8; ++k) to[j * H + k] = from[k * stride + j];
}
// (P, B, H) rows of one tile, and back
void gather(const Sizes &n, const REAL *from, long begin, long S, REAL *to) {
    for (long p = 0; p < n.points; ++p)
        memcpy(to + p * S * H, from + (p * n.systems + begin) * H,
               S * H * sizeof(REAL));
}
void scatter(const Sizes &n, const REAL *from, long begin, long S, REAL *to) {
    for (long p = 0; p < n.points; ++p)
        memcpy(to + (p * n.systems + begin) * H, from + p * S * H,
               S * H * sizeof(REAL));
}

struct Work {
    std::unique_ptr<REAL[]> all;
    REAL *next;
    explicit Work(long count) : all(new REAL[count]), next(all.get()) {}
    REAL *rows(long count) {
        REAL *at = next;
        next += count;
        return at;
    }
};

void columns(const Weights &w, REAL *three) {
    for (int c = 0; c < 3; ++c)
        for (long k = 0; k < H; ++k) three[c * H + k] = w.message[k * WIDE + 2 * H + c];
}

}  // namespace

extern "C" long kept(const long *sizes) {
    const Sizes &n = *(const Sizes *)sizes;
    return n.kept() * n.systems;
}

// moved (going, B, 3), out (P, B, H); what the derivative needs goes to ``keep``.
extern "C" void forward(const long *sizes, REAL **inputs, REAL **weights, REAL *keep, REAL *moved,
                        REAL *out) {
    const Sizes &n = *(const Sizes *)sizes;
    const Inputs &in = *(const Inputs *)inputs;
    const Weights &w = *(const Weights *)weights;
    const long P = n.points, T = n.tile;
    Work work(8 * SQUARE + 3 * H + (4 * P + 2 * n.pairs()) * T * H);
    REAL *to_receiver = work.rows(SQUARE), *to_sender = work.rows(SQUARE);
    REAL *second = work.rows(SQUARE), *push = work.rows(SQUARE);
    REAL *drift = work.rows(SQUARE), *own = work.rows(SQUARE);
    REAL *of_sum = work.rows(SQUARE), *last = work.rows(SQUARE), *three = work.rows(3 * H);
    transpose(w.message, WIDE, to_receiver), transpose(w.message + H, WIDE, to_sender);
    transpose(w.second, H, second), transpose(w.push, H, push);
    transpose(w.drift, H, drift);
    if (n.update) {
        transpose(w.update, 2 * H, own), transpose(w.update + H, 2 * H, of_sum);
        transpose(w.out, H, last);
    }
    columns(w, three);
    REAL *h = work.rows(P * T * H), *received = work.rows(P * T * H), *sent = work.rows(P * T * H);
    REAL *free = work.rows(P * T * H), *m = work.rows(n.pairs() * T * H);
    REAL *y = work.rows(n.pairs() * T * H);
    for (long from = 0; from < n.systems; from += T) {
        const long S = T < n.systems - from ? T : n.systems - from;
        const long pairs = n.pairs() * S, ahead = n.first * S * H, fixed = n.fixed * S * H;
        const long going = n.going() * S, pushes = n.pushes() * S, still = (pairs - pushes) * H;
        Kept kept(keep + from * n.kept(), n, S);
        gather(n, in.h, from, S, h);
        product(n.receivers() * S, H, H, h + ahead, H, 1, to_receiver, H, w.message_bias, 0,
                received + ahead, H);
        product(P * S, H, H, h, H, 1, to_sender, H, nullptr, 0, sent, H);
        product(going, H, H, h + fixed, H, 1, drift, H, w.drift_bias, 0, kept.drift, H);
        each_pair(n, in, from, S, [&](long row, const Pair &pair) {
            const REAL *a = received + (pair.i * S + pair.s) * H;
            const REAL *b = sent + (pair.j * S + pair.s) * H;
            const REAL *c = pair.numbers;
            REAL *z = kept.z1 + row * H, *value = y + row * H;
            for (long k = 0; k < H; k += W) {
                V sum = load(a + k) + load(b + k) + c[0] * load(three + k) +
                        c[1] * load(three + H + k) + c[2] * load(three + 2 * H + k);
                store(z + k, sum), store(value + k, silu(sum));
            }
        });
        product(pairs, H, H, y, H, 1, second, H, w.second_bias, 0, kept.z2, H);
        activate(pairs * H, kept.z2, m);
        product(pushes, H, H, m + still, H, 1, push, H, w.push_bias, 0, kept.z3, H);
        for (long k = 0; k < going; ++k) {
            V sum{};
            for (long c = 0; c < H; c += W)
                sum += silu(load(kept.drift + k * H + c)) * load(w.speed + c);
            const long at = (k / S * n.systems + from + k % S) * 3;
            for (int c = 0; c < 3; ++c)
                moved[at + c] = (total(sum) + w.speed_bias[0]) * in.velocities[at + c];
        }
        each_pair(n, in, from, S, [&](long row, const Pair &pair) {
            row -= pairs - pushes;
            if (row < 0) return;
            V sum{};
            for (long k = 0; k < H; k += W)
                sum += silu(load(kept.z3 + row * H + k)) * load(w.last + k);
            const REAL phi = kept.phi[row] = total(sum);
            REAL *to = moved + ((pair.i - n.fixed) * n.systems + from + pair.s) * 3;
            for (int c = 0; c < 3; ++c) {
                REAL far = pair.apart[c] * phi;
                far = far > FARTHEST ? FARTHEST : far < -FARTHEST ? -FARTHEST : far;
                to[c] += far / (P - 1);
            }
        });
        if (!n.update) continue;
        memset(kept.sums, 0, P * S * H * sizeof(REAL));
        for (long i = 0; i < P; ++i)
            for (long k = 0; k < P - 1; ++k)
                add(S * H, kept.sums + i * S * H, m + (i * (P - 1) + k) * S * H);
        product(P * S, H, H, h, H, 1, own, H, w.update_bias, 0, kept.inner, H);
        product(P * S, H, H, kept.sums, H, 1, of_sum, H, kept.inner, H, kept.inner, H);
        activate(P * S * H, kept.inner, free);
        product(P * S, H, H, free, H, 1, last, H, w.out_bias, 0, received, H);
        add(P * S * H, received, h);
        scatter(n, received, from, S, out);
    }
}

// by_moved, by_out: the loss's derivatives by what ``forward`` gave. by_h (P, B, H), by_now
// (P, B, 3) and by_weights, shaped as the weights, are overwritten.
extern "C" void backward(const long *sizes, REAL **inputs, REAL **weights, REAL *keep,
                         const REAL *by_moved, const REAL *by_out, REAL *by_h, REAL *by_now,
                         REAL **by_weights) {
    const Sizes &n = *(const Sizes *)sizes;
    const Inputs &in = *(const Inputs *)inputs;
    const Weights &w = *(const Weights *)weights, &g = *(const Weights *)by_weights;
    const long P = n.points, T = n.tile;
    Work work(6 * H + (6 * P + 3 * n.pairs()) * T * H + 3 * n.pairs() * T + n.pushes() * T);
    REAL *three = work.rows(3 * H), *by_three = work.rows(3 * H);
    columns(w, three);
    memset(by_three, 0, 3 * H * sizeof(REAL));
    REAL *h = work.rows(P * T * H), *pulled = work.rows(P * T * H), *gh = work.rows(P * T * H);
    REAL *g_received = work.rows(P * T * H), *g_sent = work.rows(P * T * H);
    REAL *free = work.rows(P * T * H);
    REAL *a = work.rows(n.pairs() * T * H), *b = work.rows(n.pairs() * T * H);
    REAL *slope = work.rows(n.pairs() * T * H), *numbers = work.rows(3 * n.pairs() * T);
    REAL *by_phi = work.rows(n.pushes() * T);
    // to += rows^T values, for (H, H) weights
    auto learn = [&](long rows, const REAL *of_rows, const REAL *values, REAL *to, long stride) {
        product(H, H, rows, of_rows, 1, H, values, H, to, stride, to, stride);
    };
    auto sum_rows = [&](long rows, const REAL *from, REAL *to) {
        for (long c = 0; c < H; c += W) {
            V sum = load(to + c);
            for (long k = 0; k < rows; ++k) sum += load(from + k * H + c);
            store(to + c, sum);
        }
    };
    if (n.pulled) memset(by_now, 0, P * n.systems * 3 * sizeof(REAL));
    for (long from = 0; from < n.systems; from += T) {
        const long S = T < n.systems - from ? T : n.systems - from;
        const long points = P * S, pairs = n.pairs() * S, pushes = n.pushes() * S;
        const long going = n.going() * S, ahead = n.first * S * H, fixed = n.fixed * S * H;
        const long still = (pairs - pushes) * H;
        Kept kept(keep + from * n.kept(), n, S);
        gather(n, in.h, from, S, h);
        if (n.update) {
            gather(n, by_out, from, S, gh);
            product(points, H, H, gh, H, 1, w.out, H, nullptr, 0, pulled, H);
            activate(points * H, kept.inner, free, g_sent);
            multiply(points * H, pulled, g_sent);
            learn(points, gh, free, g.out, H), sum_rows(points, gh, g.out_bias);
            learn(points, pulled, h, g.update, 2 * H), sum_rows(points, pulled, g.update_bias);
            learn(points, pulled, kept.sums, g.update + H, 2 * H);
            product(points, H, H, pulled, H, 1, w.update, 2 * H, gh, H, gh, H);
            product(points, H, H, pulled, H, 1, w.update + H, 2 * H, nullptr, 0, free, H);
        } else {
            memset(gh, 0, points * H * sizeof(REAL));
        }
        // the drift; ``free`` is kept: the derivative by the sums
        for (long k = 0; k < going; ++k) {
            const long at = (k / S * n.systems + from + k % S) * 3;
            REAL sum = 0;
            for (int c = 0; c < 3; ++c) sum += by_moved[at + c] * in.velocities[at + c];
            g.speed_bias[0] += sum;
            for (long c = 0; c < H; c += W) {
                V slope, value = silu(load(kept.drift + k * H + c), slope);
                store(g.speed + c, load(g.speed + c) + sum * value);
                store(pulled + k * H + c, sum * load(w.speed + c) * slope);
            }
        }
        learn(going, pulled, h + fixed, g.drift, H), sum_rows(going, pulled, g.drift_bias);
        product(going, H, H, pulled, H, 1, w.drift, H, gh + fixed, H, gh + fixed, H);
        // the pushes: a = by z3
        each_pair(n, in, from, S, [&](long row, const Pair &pair) {
            row -= pairs - pushes;
            if (row < 0) return;
            const REAL phi = kept.phi[row];
            const long to = pair.i * n.systems + from + pair.s;
            const REAL *by = by_moved + (to - n.fixed * n.systems) * 3;
            REAL sum = 0;
            for (int c = 0; c < 3; ++c) {
                const REAL far = pair.apart[c] * phi;
                const REAL inside = (far <= FARTHEST && far >= -FARTHEST) ? by[c] / (P - 1) : 0;
                sum += inside * pair.apart[c];
                if (n.pulled) {
                    by_now[3 * to + c] += inside * phi;
                    by_now[3 * (pair.j * n.systems + from + pair.s) + c] -= inside * phi;
                }
            }
            by_phi[row] = sum;
            for (long k = 0; k < H; k += W) {
                V slope, value = silu(load(kept.z3 + row * H + k), slope);
                store(b + row * H + k, value);
                store(a + row * H + k, sum * load(w.last + k) * slope);
            }
        });
        product(1, H, pushes, by_phi, 1, 1, b, H, g.last, H, g.last, H);
        activate(pairs * H, kept.z2, b, slope);  // m
        learn(pushes, a, b + still, g.push, H), sum_rows(pushes, a, g.push_bias);
        // the messages: b = by z2
        if (n.update)
            for (long i = 0; i < P; ++i)
                for (long k = 0; k < P - 1; ++k)
                    memcpy(b + (i * (P - 1) + k) * S * H, free + i * S * H, S * H * sizeof(REAL));
        product(pushes, H, H, a, H, 1, w.push, H, n.update ? b + still : nullptr, H, b + still, H);
        multiply(pairs * H, b, slope);
        activate(pairs * H, kept.z1, a, slope);
        learn(pairs, b, a, g.second, H), sum_rows(pairs, b, g.second_bias);
        product(pairs, H, H, b, H, 1, w.second, H, nullptr, 0, a, H);
        memset(g_received, 0, points * H * sizeof(REAL));
        memset(g_sent, 0, points * H * sizeof(REAL));
        each_pair(n, in, from, S, [&](long row, const Pair &pair) {
            REAL *of_row = a + row * H;
            REAL *to = g_received + (pair.i * S + pair.s) * H;
            REAL *of = g_sent + (pair.j * S + pair.s) * H;
            V sum{};
            for (long k = 0; k < H; k += W) {
                V by = load(of_row + k) * load(slope + row * H + k);
                store(of_row + k, by);
                store(to + k, load(to + k) + by), store(of + k, load(of + k) + by);
                sum += by * load(three + k);
            }
            for (int t = 0; t < 3; ++t) numbers[3 * row + t] = pair.numbers[t];
            if (!n.pulled) return;
            const REAL by_squared = 2 * total(sum);
            REAL *x = by_now + (pair.i * n.systems + from + pair.s) * 3;
            REAL *y = by_now + (pair.j * n.systems + from + pair.s) * 3;
            for (int t = 0; t < 3; ++t)
                x[t] += by_squared * pair.apart[t], y[t] -= by_squared * pair.apart[t];
        });
        product(3, H, pairs, numbers, 1, 3, a, H, by_three, H, by_three, H);
        const long receivers = n.receivers() * S;
        learn(receivers, g_received + ahead, h + ahead, g.message, WIDE);
        sum_rows(receivers, g_received + ahead, g.message_bias);
        learn(points, g_sent, h, g.message + H, WIDE);
        product(receivers, H, H, g_received + ahead, H, 1, w.message, WIDE, gh + ahead, H,
                gh + ahead, H);
        product(points, H, H, g_sent, H, 1, w.message + H, WIDE, gh, H, gh, H);
        scatter(n, gh, from, S, by_h);
    }
    for (int t = 0; t < 3; ++t)
        for (long k = 0; k < H; ++k) g.message[k * WIDE + 2 * H + t] = by_three[t * H + k];
}
