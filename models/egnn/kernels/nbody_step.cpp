// One layer of EGNN with velocities (see egnn/nbody.py) and its derivative, a few systems at a time.
//
// Everything between a layer's input and output lives in rows of H numbers that fit a core's own
// cache. Rows of a tile of S systems: points (p S + s), pairs ((i - first)(P - 1) + j') S + s, where
// i receives and j' counts the other points in ascending order.
//
// Compiled with -DREAL=float or double and -DHIDDEN=H, a multiple of 16. Threads share out the tiles;
// each sums its own share of the weights' derivatives.


#include "nbody_layout.h"

namespace {

struct Forward {
    const Sizes &n;
    const Inputs &in;
    const Weights &w;
    const Transposed &by;
    REAL *moved, *out;
    Work work;
    REAL *h, *received, *sent, *free, *m, *y, *unkept;

    // keeps: whether a tile's numbers have memory that lasts; otherwise the next tile has it, too
    Forward(const Sizes &n, const Inputs &in, const Weights &w, const Transposed &by, REAL *moved,
            REAL *out, bool keeps)
        : n(n), in(in), w(w), by(by), moved(moved), out(out),
          work(((4 * n.points + 2 * n.pairs()) * H + (keeps ? 0 : n.saved())) * n.tile) {
        const long points = n.points * n.tile * H, pairs = n.pairs() * n.tile * H;
        h = work.rows(points), received = work.rows(points), sent = work.rows(points);
        free = work.rows(points), m = work.rows(pairs), y = work.rows(pairs), unkept = work.rows(0);
    }

    void messages(const Tile &t, Saved &saved) {
        const long S = t.S;
        rows(t.receivers, h + t.ahead, by.received, w.message_bias, received + t.ahead);
        rows(t.points, h, by.sent, nullptr, sent);
        each_pair(n, in, t.from, S, n.first, [&](long row, const Pair &pair) {
            const REAL *a = received + (pair.i * S + pair.s) * H;
            const REAL *b = sent + (pair.j * S + pair.s) * H;
            const REAL *c = pair.numbers, *three = by.three;
            REAL *z = saved.z1 + row * H, *value = y + row * H;
            for (long k = 0; k < H; k += W) {
                V sum = load(a + k) + load(b + k) + c[0] * load(three + k) +
                        c[1] * load(three + H + k) + c[2] * load(three + 2 * H + k);
                store(z + k, sum), store(value + k, silu(sum));
            }
        });
        rows(t.pairs, y, by.second, w.second_bias, saved.z2);
        activate(t.pairs * H, saved.z2, m);
    }

    void velocity_shifts(const Tile &t, Saved &saved) {
        rows(t.movable, h + t.fixed, by.phi_v, w.phi_v_bias, saved.phi_v);
        for (long k = 0; k < t.movable; ++k) {
            V sum{};
            for (long c = 0; c < H; c += W)
                sum += silu(load(saved.phi_v + k * H + c)) * load(w.speed + c);
            const REAL psi = total(sum) + w.speed_bias[0];
            for (long at = t.place(k), c = 0; c < 3; ++c)
                moved[at + c] = psi * in.velocities[at + c];
        }
    }

    void position_messages(const Tile &t, Saved &saved) {
        rows(t.position_messages, m + t.to_fixed, by.phi_x, w.phi_x_bias, saved.z3);
        each_pair(n, in, t.from, t.S, n.fixed, [&](long row, const Pair &pair) {
            const REAL *z = saved.z3 + row * H, *last = w.last;
            V sum{};
            for (long k = 0; k < H; k += W) sum += silu(load(z + k)) * load(last + k);
            const REAL phi = saved.phi[row] = total(sum);
            REAL *to = moved + ((pair.i - n.fixed) * n.systems + t.from + pair.s) * 3;
            for (int c = 0; c < 3; ++c) {
                REAL far = pair.apart[c] * phi;
                far = far > FARTHEST ? FARTHEST : far < -FARTHEST ? -FARTHEST : far;
                to[c] += far / (n.points - 1);
            }
        });
    }

    void update(const Tile &t, Saved &saved) {
        const long S = t.S, others = n.points - 1;
        memset(saved.sums, 0, t.points * H * sizeof(REAL));
        for (long i = 0; i < n.points; ++i)
            for (long k = 0; k < others; ++k)
                add(S * H, saved.sums + i * S * H, m + (i * others + k) * S * H);
        rows(t.points, h, by.own, w.update_bias, saved.inner);
        product(t.points, H, H, saved.sums, H, 1, by.of_sum, H, saved.inner, H, saved.inner, H);
        activate(t.points * H, saved.inner, free);
        rows(t.points, free, by.out, w.out_bias, received);
        add(t.points * H, received, h);
        scatter(n, received, t.from, S, out);
    }

    void operator()(const Tile &t, Saved saved) {
        gather(n, in.h, t.from, t.S, h);
        messages(t, saved), velocity_shifts(t, saved), position_messages(t, saved);
        if (n.update) update(t, saved);
    }

    static void rows(long M, const REAL *x, const REAL *turned, const REAL *bias, REAL *to) {
        product(M, H, H, x, H, 1, turned, H, bias, 0, to, H);
    }
};

struct Backward {
    const Sizes &n;
    const Inputs &in;
    const Weights &w, &g;
    const REAL *by_moved, *by_out;
    REAL *by_h, *by_now;
    Work work;
    REAL *three, *by_three, *h, *pulled, *gh, *g_received, *g_sent, *by_sums;
    REAL *a, *b, *slope, *numbers, *by_phi;

    Backward(const Sizes &n, const Inputs &in, const Weights &w, const Weights &g,
             const REAL *by_moved, const REAL *by_out, REAL *by_h, REAL *by_now)
        : n(n), in(in), w(w), g(g), by_moved(by_moved), by_out(by_out), by_h(by_h), by_now(by_now),
          work(6 * H + (6 * n.points * H + n.pairs() * (3 * H + 3) + n.position_messages()) * n.tile) {
        const long points = n.points * n.tile * H, pairs = n.pairs() * n.tile * H;
        three = work.rows(3 * H), by_three = work.rows(3 * H);
        h = work.rows(points), pulled = work.rows(points), gh = work.rows(points);
        g_received = work.rows(points), g_sent = work.rows(points), by_sums = work.rows(points);
        a = work.rows(pairs), b = work.rows(pairs), slope = work.rows(pairs);
        numbers = work.rows(3 * n.pairs() * n.tile), by_phi = work.rows(n.position_messages() * n.tile);
        columns(w, three);
        memset(by_three, 0, 3 * H * sizeof(REAL));
    }

    // What was y = x Wᵀ + bias: adds to the derivatives by W and the bias.
    static void learn(long rows, const REAL *by_y, const REAL *x, REAL *weight, long stride,
                      REAL *bias) {
        product(H, H, rows, by_y, 1, H, x, H, weight, stride, weight, stride);
        if (bias == nullptr) return;
        for (long c = 0; c < H; c += W) {
            V sum = load(bias + c);
            for (long k = 0; k < rows; ++k) sum += load(by_y + k * H + c);
            store(bias + c, sum);
        }
    }
    // by_x = start + by_y W; start is null or rows.
    static void pull(long M, const REAL *by_y, const REAL *weight, long stride, const REAL *start,
                     REAL *by_x) {
        product(M, H, H, by_y, H, 1, weight, stride, start, H, by_x, H);
    }

    void update(const Tile &t, Saved &saved) {
        REAL *inner = g_received, *slopes = g_sent;  // both are free until the end
        gather(n, by_out, t.from, t.S, gh);
        pull(t.points, gh, w.out, H, nullptr, pulled);
        activate(t.points * H, saved.inner, inner, slopes);
        multiply(t.points * H, pulled, slopes);
        learn(t.points, gh, inner, g.out, H, g.out_bias);
        learn(t.points, pulled, h, g.update, 2 * H, g.update_bias);
        learn(t.points, pulled, saved.sums, g.update + H, 2 * H, nullptr);
        pull(t.points, pulled, w.update, 2 * H, gh, gh);
        pull(t.points, pulled, w.update + H, 2 * H, nullptr, by_sums);
    }

    void velocity_shifts(const Tile &t, Saved &saved) {
        for (long k = 0; k < t.movable; ++k) {
            REAL sum = 0;
            for (long at = t.place(k), c = 0; c < 3; ++c)
                sum += by_moved[at + c] * in.velocities[at + c];
            g.speed_bias[0] += sum;
            for (long c = 0; c < H; c += W) {
                V slope, value = silu(load(saved.phi_v + k * H + c), slope);
                store(g.speed + c, load(g.speed + c) + sum * value);
                store(pulled + k * H + c, sum * load(w.speed + c) * slope);
            }
        }
        learn(t.movable, pulled, h + t.fixed, g.phi_v, H, g.phi_v_bias);
        pull(t.movable, pulled, w.phi_v, H, gh + t.fixed, gh + t.fixed);
    }

    // Leaves the derivative by z3 in ``a``.
    void position_messages(const Tile &t, Saved &saved) {
        each_pair(n, in, t.from, t.S, n.fixed, [&](long row, const Pair &pair) {
            const REAL phi = saved.phi[row];
            const long to = pair.i * n.systems + t.from + pair.s;
            const long of = pair.j * n.systems + t.from + pair.s;
            REAL sum = 0;
            for (int c = 0; c < 3; ++c) {
                const REAL far = pair.apart[c] * phi;
                const bool near = far <= FARTHEST && far >= -FARTHEST;
                const REAL g = near ? by_moved[3 * (to - n.fixed * n.systems) + c] : 0;
                sum += g / (n.points - 1) * pair.apart[c];
                if (!n.pulled) continue;
                by_now[3 * to + c] += g / (n.points - 1) * phi;
                by_now[3 * of + c] -= g / (n.points - 1) * phi;
            }
            by_phi[row] = sum;
            const REAL *z = saved.z3 + row * H, *last = w.last;
            REAL *by_z = a + row * H, *values = b + row * H;
            for (long k = 0; k < H; k += W) {
                V slope, value = silu(load(z + k), slope);
                store(values + k, value), store(by_z + k, sum * load(last + k) * slope);
            }
        });
        product(1, H, t.position_messages, by_phi, 1, 1, b, H, g.last, H, g.last, H);
    }

    // Takes the derivative by z3 in ``a`` and leaves that by silu(z1).
    void messages(const Tile &t, Saved &saved) {
        const long S = t.S, others = n.points - 1;
        activate(t.pairs * H, saved.z2, b, slope);
        learn(t.position_messages, a, b + t.to_fixed, g.phi_x, H, g.phi_x_bias);
        memset(b, 0, t.to_fixed * sizeof(REAL));
        pull(t.position_messages, a, w.phi_x, H, nullptr, b + t.to_fixed);
        if (!n.update) multiply(t.pairs * H, b, slope);
        for (long i = 0; i < n.points && n.update; ++i)
            for (long k = 0; k < others; ++k) {
                const long at = (i * others + k) * S * H;
                add_multiply(S * H, b + at, by_sums + i * S * H, slope + at);
            }
        activate(t.pairs * H, saved.z1, a, slope);
        learn(t.pairs, b, a, g.second, H, g.second_bias);
        pull(t.pairs, b, w.second, H, nullptr, a);
    }

    void points(const Tile &t) {
        const long S = t.S;
        memset(g_received, 0, t.points * H * sizeof(REAL));
        memset(g_sent, 0, t.points * H * sizeof(REAL));
        each_pair(n, in, t.from, S, n.first, [&](long row, const Pair &pair) {
            REAL *of_row = a + row * H;
            const REAL *slopes = slope + row * H, *to_z = three;
            REAL *to = g_received + (pair.i * S + pair.s) * H;
            REAL *of = g_sent + (pair.j * S + pair.s) * H;
            V sum{};
            for (long k = 0; k < H; k += W) {
                V by = load(of_row + k) * load(slopes + k);
                store(of_row + k, by);
                store(to + k, load(to + k) + by), store(of + k, load(of + k) + by);
                sum += by * load(to_z + k);
            }
            for (int c = 0; c < 3; ++c) numbers[3 * row + c] = pair.numbers[c];
            if (!n.pulled) return;
            const REAL by_squared = 2 * total(sum);
            REAL *x = by_now + (pair.i * n.systems + t.from + pair.s) * 3;
            REAL *y = by_now + (pair.j * n.systems + t.from + pair.s) * 3;
            for (int c = 0; c < 3; ++c)
                x[c] += by_squared * pair.apart[c], y[c] -= by_squared * pair.apart[c];
        });
        product(3, H, t.pairs, numbers, 1, 3, a, H, by_three, H, by_three, H);
        learn(t.receivers, g_received + t.ahead, h + t.ahead, g.message, WIDE, g.message_bias);
        learn(t.points, g_sent, h, g.message + H, WIDE, nullptr);
        pull(t.receivers, g_received + t.ahead, w.message, WIDE, gh + t.ahead, gh + t.ahead);
        pull(t.points, g_sent, w.message + H, WIDE, gh, gh);
        scatter(n, gh, t.from, S, by_h);
    }

    void operator()(const Tile &t, Saved saved) {
        gather(n, in.h, t.from, t.S, h);
        if (n.update)
            update(t, saved);
        else
            memset(gh, 0, t.points * H * sizeof(REAL));
        velocity_shifts(t, saved), position_messages(t, saved), messages(t, saved), points(t);
    }

    void finish() {
        for (int c = 0; c < 3; ++c)
            for (long k = 0; k < H; ++k) g.message[k * WIDE + 2 * H + c] = by_three[c * H + k];
    }
};

}  // namespace

extern "C" long saved(const long *sizes) {
    const Sizes &n = *(const Sizes *)sizes;
    return n.saved() * n.systems;
}

// moved (movable, B, 3), out (P, B, H); what the derivative needs goes to ``keep``, which is null where
// nobody goes back.
extern "C" void forward(const long *sizes, REAL **inputs, REAL **weights, REAL *keep, REAL *moved,
                        REAL *out) {
    const Sizes &n = *(const Sizes *)sizes;
    const Inputs &in = *(const Inputs *)inputs;
    const Weights &w = *(const Weights *)weights;
    const Transposed by(w, n.update);
#pragma omp parallel num_threads(n.threads)
    {
        Forward tile(n, in, w, by, moved, out, keep);
#pragma omp for schedule(static)
        for (long k = 0; k < n.tiles(); ++k) {
            REAL *to = keep ? keep + k * n.tile * n.saved() : tile.unkept;
            tile(Tile(n, k), Saved(to, n, Tile(n, k).S));
        }
    }
}

// by_moved, by_out: the loss's derivatives by what ``forward`` gave. by_h (P, B, H) is overwritten;
// by_now (P, B, 3) and a thread's by_weights, shaped as the weights, are added to.
extern "C" void backward(const long *sizes, REAL **inputs, REAL **weights, REAL *keep,
                         const REAL *by_moved, const REAL *by_out, REAL *by_h, REAL *by_now,
                         REAL **by_weights) {
    const Sizes &n = *(const Sizes *)sizes;
    const Inputs &in = *(const Inputs *)inputs;
    const Weights &w = *(const Weights *)weights;
    const long count = n.update ? 15 : 11;
#pragma omp parallel for schedule(static) num_threads(n.threads)
    for (long share = 0; share < n.threads; ++share) {
        const Weights &g = *(const Weights *)(by_weights + share * count);
        Backward tile(n, in, w, g, by_moved, by_out, by_h, by_now);
        for (long k = n.tiles() * share / n.threads; k < n.tiles() * (share + 1) / n.threads; ++k)
            tile(Tile(n, k), Saved(keep + k * n.tile * n.saved(), n, Tile(n, k).S));
        tile.finish();
    }
}
