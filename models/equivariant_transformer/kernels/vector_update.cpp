// What the equivariant transformer does at points, beside its products: the two layouts of vectors,
// w = v f, and what a layer adds to its state, with first and second derivatives. The formulas are
// those of update.py, which does the same where there is no compiler. One pass over points
// instead of one for each operation.
//
// HIDDEN and REAL are set by the compiler's command line.

#include <cstdint>

using F = REAL;
constexpr int H = HIDDEN;

// P points; see Points in update.py.
struct Points {
    std::int64_t points, threads;
    const F *o, *w;                        // (P, 3 H) o1, o2, o3; (P, 3, 3 H) w1, w2, w3
    const F *o_t, *w_t, *y_t;              // at which rates these and y (P, 3, H) move
    const F *v, *v_t, *f, *f_t;            // (P, 3, H), (P, H)
    const F *gradient;                     // (P, 4 H) by the state, (P, 3, H) by v f
    F *state, *s, *y;                      // (P, 4 H), (P, H), (P, 3, H)
    F *by_o, *by_w, *by_y, *by_v, *by_f;   // written, like those they are the derivatives by
};

// A point's rows.
struct Row {
    const F *__restrict o1, *__restrict o2, *__restrict o3;
    const F *__restrict w1, *__restrict w2, *__restrict w3;
    Row(const F *o, const F *w, std::int64_t point)
        : o1(o + point * 3 * H), o2(o1 + H), o3(o2 + H),
          w1(w + point * 9 * H), w2(w1 + H), w3(w2 + H) {}
};

template <typename Work>
static void each(const Points &t, Work work) {
    const int threads = int(t.threads);
    _Pragma("omp parallel for num_threads(threads) if (threads > 1)")
    for (std::int64_t point = 0; point < t.points; ++point) work(point);
}

extern "C" {

// (P, 4 H), which ends in (H, 3), to (P, H) and (P, 3, H).
void unpack(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const F *__restrict from = t->state + point * 4 * H, *__restrict v = from + H;
        F *__restrict s = t->s + point * H, *__restrict y = t->y + point * 3 * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            s[x] = from[x];
            for (int c = 0; c < 3; ++c) y[c * H + x] = v[3 * x + c];
        }
    });
}

// And back.
void pack(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const F *__restrict s = t->s + point * H, *__restrict y = t->y + point * 3 * H;
        F *__restrict to = t->state + point * 4 * H, *__restrict v = to + H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            to[x] = s[x];
            for (int c = 0; c < 3; ++c) v[3 * x + c] = y[c * H + x];
        }
    });
}

// y = v f.
void scale(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const F *__restrict v = t->v + point * 3 * H, *__restrict f = t->f + point * H;
        F *__restrict y = t->y + point * 3 * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x)
            for (int c = 0; c < 3; ++c) y[c * H + x] = v[c * H + x] * f[x];
    });
}

void scale_first(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const F *__restrict v = t->v + point * 3 * H, *__restrict f = t->f + point * H;
        const F *__restrict g = t->gradient + point * 3 * H;
        F *__restrict by_v = t->by_v + point * 3 * H, *__restrict by_f = t->by_f + point * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            F dot = 0;
            for (int c = 0; c < 3; ++c) {
                dot += g[c * H + x] * v[c * H + x];
                by_v[c * H + x] = g[c * H + x] * f[x];
            }
            by_f[x] = dot;
        }
    });
}

void scale_second(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const F *__restrict v = t->v + point * 3 * H, *__restrict f = t->f + point * H;
        const F *__restrict v_t = t->v_t + point * 3 * H, *__restrict f_t = t->f_t + point * H;
        const F *__restrict g = t->gradient + point * 3 * H;
        F *__restrict by_v = t->by_v + point * 3 * H, *__restrict by_f = t->by_f + point * H;
        F *__restrict by_g = t->y + point * 3 * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            F dot = 0;
            for (int c = 0; c < 3; ++c) {
                const int k = c * H + x;
                dot += g[k] * v_t[k];
                by_v[k] = g[k] * f_t[x];
                by_g[k] = v_t[k] * f[x] + v[k] * f_t[x];
            }
            by_f[x] = dot;
        }
    });
}

void add(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const Row r(t->o, t->w, point);
        const F *__restrict y = t->y + point * 3 * H;
        F *__restrict s = t->state + point * 4 * H, *__restrict v = s + H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            F dot = 0;
            for (int c = 0; c < 3; ++c) {
                dot += r.w1[3 * c * H + x] * r.w2[3 * c * H + x];
                v[3 * x + c] += r.w3[3 * c * H + x] * r.o1[x] + y[c * H + x];
            }
            s[x] += dot * r.o2[x] + r.o3[x];
        }
    });
}

void add_first(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const Row r(t->o, t->w, point);
        const F *__restrict gs = t->gradient + point * 4 * H, *__restrict gv = gs + H;
        F *__restrict by_o = t->by_o + point * 3 * H, *__restrict by_w = t->by_w + point * 9 * H;
        F *__restrict by_y = t->by_y + point * 3 * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            const F g = gs[x] * r.o2[x];
            F dot = 0, by_o1 = 0;
            for (int c = 0; c < 3; ++c) {
                const int k = 3 * c * H + x;
                const F g_c = gv[3 * x + c];
                dot += r.w1[k] * r.w2[k];
                by_o1 += g_c * r.w3[k];
                by_w[k] = g * r.w2[k];
                by_w[k + H] = g * r.w1[k];
                by_w[k + 2 * H] = g_c * r.o1[x];
                by_y[c * H + x] = g_c;
            }
            by_o[x] = by_o1;
            by_o[H + x] = gs[x] * dot;
            by_o[2 * H + x] = gs[x];
        }
    });
}

void add_second(const Points *t) {
    each(*t, [t](std::int64_t point) {
        const Row r(t->o, t->w, point), r_t(t->o_t, t->w_t, point);
        const F *__restrict gs = t->gradient + point * 4 * H, *__restrict gv = gs + H;
        const F *__restrict y_t = t->y_t + point * 3 * H;
        F *__restrict s = t->state + point * 4 * H, *__restrict v = s + H;
        F *__restrict by_o = t->by_o + point * 3 * H, *__restrict by_w = t->by_w + point * 9 * H;
        _Pragma("omp simd")
        for (int x = 0; x < H; ++x) {
            const F g = gs[x] * r.o2[x], g_t = gs[x] * r_t.o2[x];
            F dot = 0, dot_t = 0, by_o1 = 0;
            for (int c = 0; c < 3; ++c) {
                const int k = 3 * c * H + x;
                const F g_c = gv[3 * x + c];
                dot += r.w1[k] * r.w2[k];
                dot_t += r_t.w1[k] * r.w2[k] + r.w1[k] * r_t.w2[k];
                by_o1 += g_c * r_t.w3[k];
                by_w[k] = g * r_t.w2[k] + g_t * r.w2[k];
                by_w[k + H] = g * r_t.w1[k] + g_t * r.w1[k];
                by_w[k + 2 * H] = g_c * r_t.o1[x];
                v[3 * x + c] += r_t.w3[k] * r.o1[x] + r.w3[k] * r_t.o1[x] + y_t[c * H + x];
            }
            by_o[x] = by_o1;
            by_o[H + x] = gs[x] * dot_t;
            by_o[2 * H + x] = 0;
            s[x] += dot_t * r.o2[x] + dot * r_t.o2[x] + r_t.o3[x];
        }
    });
}
}
