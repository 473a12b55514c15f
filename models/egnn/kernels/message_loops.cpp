// EGNN's messages summed at their receivers, and their derivative, some edges at a time:
//
//     f_ij = a_i + b_j + e_ij C,   g_ij = silu(f_ij) W + c,   m_ij = silu(g_ij)
//     out_i = sum_j M_ij,          M_ij = envelope_ij sigmoid(<w, m_ij> + w0) m_ij
//     phi_ij = <q, p_ij>,          p_ij = silu(M_ij A + b)                where points move
//
// What lies between f and the sums stays in the core's cache. One thread: sums at points have no order
// that threads could share out.
//
// Compiled with -DHIDDEN=H, a multiple of 16, and -DREAL=float or double.

#include "rows.h"

#include <algorithm>

constexpr long H = HIDDEN;
constexpr long SOME = 48;  // edges at a time

struct Edges {
    long count;
    const int64_t *receivers, *senders;
};

// E edges, K numbers a distance; matrices have a row for each number that they are applied to.
struct Inputs {
    long K, Q;  // Q: 0 where no point moves
    const REAL *received, *sent;           // (P, H) a, b
    const REAL *encoded, *to_distance;     // (E, K) e, (K, H) C
    const REAL *weight, *turned, *bias;    // (H, H) W, W turned, (H,) c
    const REAL *attention, *attention_bias;  // (H,) w, (1,) w0
    const REAL *envelope;                  // (E,) or null
    const REAL *push, *push_turned;        // (H, Q) A, A turned
    const REAL *push_bias, *last;          // (Q,) b, q
};

// Derivatives, all added to but by_encoded (E, WIDE) and by_envelope (E,); null where not wanted.
struct Gradients {
    long wide;
    REAL *received, *sent;
    REAL *encoded;
    REAL *to_distance, *weight, *bias, *attention, *attention_bias, *envelope;
    REAL *push, *push_bias, *last;
    const REAL *across;  // (H, WIDE) C turned, its rows filled up with zeros
};

// What is kept of an edge for the way back: f (H,), g (H,), and M A + b (Q,).
struct Kept {
    REAL *first, *second, *third;
};

static inline REAL dot(long count, const REAL *a, const REAL *b) {
    V sum{};
    for (long k = 0; k < count; k += W) sum += load(a + k) * load(b + k);
    return total(sum);
}

static inline REAL gate_of(const Inputs *p, const REAL *m) {
    return sigmoid(V{} + (dot(H, p->attention, m) + p->attention_bias[0]))[0];
}

static inline void add_times(long count, REAL *to, REAL factor, const REAL *from) {
    for (long k = 0; k < count; k += W) store(to + k, load(to + k) + factor * load(from + k));
}

static inline REAL envelope_of(const Inputs *p, long e) {
    return p->envelope ? p->envelope[e] : REAL(1);
}

// f (edges, H) and g (edges, H) of the edges from `begin` on; y holds silu(f).
static void both(const Inputs *p, const Edges *edges, long begin, long some, REAL *f, REAL *y,
                 REAL *g) {
    for (long k = 0; k < some; ++k) {
        const REAL *a = p->received + edges->receivers[begin + k] * H;
        const REAL *b = p->sent + edges->senders[begin + k] * H;
        for (long h = 0; h < H; h += W) store(f + k * H + h, load(a + h) + load(b + h));
    }
    product(some, H, p->K, p->encoded + begin * p->K, p->K, 1, p->to_distance, H, f, H, f, H);
    activate(some * H, f, y);
    product(some, H, H, y, H, 1, p->weight, H, p->bias, 0, g, H);
}

// phi of some edges from M (edges, H); r (edges, Q) is M A + b, y as long.
static void pushes(const Inputs *p, long some, const REAL *M, REAL *r, REAL *y, REAL *phi) {
    product(some, p->Q, H, M, H, 1, p->push, p->Q, p->push_bias, 0, r, p->Q);
    activate(some * p->Q, r, y);
    for (long k = 0; k < some; ++k) phi[k] = dot(p->Q, p->last, y + k * p->Q);
}

// by (edges, H), of M, gets what comes back through phi; M (edges, H) is made of m and gates; y and
// dr are (edges, Q).
static void pushes_back(const Inputs *p, const Gradients *to, long some, const REAL *r,
                        const REAL *by_phi, const REAL *M, REAL *y, REAL *dr, REAL *by) {
    const long Q = p->Q;
    activate(some * Q, r, y, dr);
    for (long k = 0; k < some; ++k) {
        for (long q = 0; q < Q; q += W)
            store(dr + k * Q + q, load(dr + k * Q + q) * load(p->last + q) * by_phi[k]);
        if (to->last) add_times(Q, to->last, by_phi[k], y + k * Q);
        if (to->push_bias) add(Q, to->push_bias, dr + k * Q);
    }
    if (to->push) product(H, Q, some, M, 1, H, dr, Q, to->push, Q, to->push, Q);
    product(some, H, Q, dr, Q, 1, p->push_turned, H, by, H, by, H);
}

// What comes back to one edge: m and slope, silu(g) and its derivative, by (H,) of M, dg (H,) of g.
static void turn(const Inputs *p, const Gradients *to, long e, REAL gate, const REAL *m,
                 const REAL *slope, const REAL *by, REAL *dg) {
    const REAL envelope = envelope_of(p, e), along = dot(H, by, m);
    const REAL dz = along * envelope * gate * (1 - gate);
    if (to->envelope) to->envelope[e] = along * gate;
    if (to->attention_bias) to->attention_bias[0] += dz;
    if (to->attention) add_times(H, to->attention, dz, m);
    for (long h = 0; h < H; h += W)
        store(dg + h, (load(by + h) * (gate * envelope) + dz * load(p->attention + h)) *
                          load(slope + h));
}

extern "C" {

// out (P, H) is added to, phi (E,) written if Q is not 0; `kept` is filled unless it is null.
void summed(const Edges *edges, const Inputs *p, const Kept *kept, REAL *out, REAL *phi) {
    const long Q = p->Q;
    Work work(SOME * (4 * H + 2 * Q));
    REAL *f = work.rows(SOME * H), *y = work.rows(SOME * H), *g = work.rows(SOME * H),
         *m = work.rows(SOME * H), *r = work.rows(SOME * Q), *z = work.rows(SOME * Q);
    for (long begin = 0; begin < edges->count; begin += SOME) {
        const long some = std::min(SOME, edges->count - begin);
        if (kept->first) {
            f = kept->first + begin * H, g = kept->second + begin * H;
            r = kept->third + begin * Q;
        }
        both(p, edges, begin, some, f, y, g);
        activate(some * H, g, m);
        for (long k = 0; k < some; ++k) {
            const REAL t = envelope_of(p, begin + k) * gate_of(p, m + k * H);
            for (long h = 0; h < H; h += W) store(m + k * H + h, t * load(m + k * H + h));
            add(H, out + edges->receivers[begin + k] * H, m + k * H);
        }
        if (Q) pushes(p, some, m, r, z, phi + begin);
    }
}

// by_out (P, H), by_phi (E,); `kept` as `summed` left it.
void summed_back(const Edges *edges, const Inputs *p, const Kept *kept, const REAL *by_out,
                 const REAL *by_phi, const Gradients *to) {
    const long Q = p->Q;
    Work work(SOME * (8 * H + 2 * Q));
    REAL *y = work.rows(SOME * H), *dy = work.rows(SOME * H), *m = work.rows(SOME * H),
         *dm = work.rows(SOME * H), *dg = work.rows(SOME * H), *df = work.rows(SOME * H),
         *by = work.rows(SOME * H), *M = work.rows(SOME * H), *z = work.rows(SOME * Q),
         *dr = work.rows(SOME * Q);
    for (long begin = 0; begin < edges->count; begin += SOME) {
        const long some = std::min(SOME, edges->count - begin);
        REAL gates[SOME];
        activate(some * H, kept->first + begin * H, y, dy);
        activate(some * H, kept->second + begin * H, m, dm);
        for (long k = 0; k < some; ++k) {
            gates[k] = gate_of(p, m + k * H);
            const REAL t = gates[k] * envelope_of(p, begin + k);
            const REAL *row = by_out + edges->receivers[begin + k] * H;
            for (long h = 0; h < H; h += W) {
                store(by + k * H + h, load(row + h));
                if (Q) store(M + k * H + h, t * load(m + k * H + h));
            }
        }
        if (Q) pushes_back(p, to, some, kept->third + begin * Q, by_phi + begin, M, z, dr, by);
        for (long k = 0; k < some; ++k)
            turn(p, to, begin + k, gates[k], m + k * H, dm + k * H, by + k * H, dg + k * H);
        for (long k = 0; to->bias && k < some; ++k) add(H, to->bias, dg + k * H);
        if (to->weight) product(H, H, some, y, 1, H, dg, H, to->weight, H, to->weight, H);
        product(some, H, H, dg, H, 1, p->turned, H, nullptr, 0, df, H);
        multiply(some * H, df, dy);
        for (long k = 0; k < some; ++k) {
            add(H, to->received + edges->receivers[begin + k] * H, df + k * H);
            add(H, to->sent + edges->senders[begin + k] * H, df + k * H);
        }
        if (to->to_distance)
            product(p->K, H, some, p->encoded + begin * p->K, 1, p->K, df, H, to->to_distance, H,
                    to->to_distance, H);
        if (to->encoded)
            product(some, to->wide, H, df, H, 1, to->across, to->wide, nullptr, 0,
                    to->encoded + begin * to->wide, to->wide);
    }
}
}
