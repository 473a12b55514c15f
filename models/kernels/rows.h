// Arithmetic on rows of numbers whose length is a multiple of the vector's: products, silu and its
// derivative. For whoever defines REAL as float or double. Vectors are the compiler's own, as long
// as the processor's, or two of them.

#pragma once

#include <cstdint>
#include <memory>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int BYTES = 64, COLUMNS = 4;  // 6 x 4 accumulators of 32 registers
#else
constexpr int BYTES = 32, COLUMNS = 2;  // 6 x 2 of 16
#endif
constexpr int ROWS = 6;
constexpr int W = BYTES / sizeof(REAL);
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

// x, but within +-most; NaN stays. Compilers make two operations of each `?` and one of each of these.
static inline V clamped(V x, V most) {
#if defined(__AVX512F__)
    if constexpr (sizeof(REAL) == 4)
        return (V)_mm512_max_ps((__m512)-most, _mm512_min_ps((__m512)most, (__m512)x));
    else
        return (V)_mm512_max_pd((__m512d)-most, _mm512_min_pd((__m512d)most, (__m512d)x));
#else
    x = x > most ? most : x;
    return x < -most ? -most : x;
#endif
}

// 1 / (1 + exp(-z)), the exponential as 2^n 2^f, |f| <= 1/2. Adding ``shift`` rounds to the integer
// n and leaves it in the lowest bits, from where it is added to the exponent of 2^f.
static inline V sigmoid(V z) {
    constexpr bool single = sizeof(REAL) == 4;
    constexpr REAL shift = single ? REAL(12582912.0) : REAL(6755399441055744.0);
    constexpr Series series;
    V t = z * REAL(-1.44269504088896340736);
    t = clamped(t, V{} + 100);  // beyond, silu is 0 or z; 2^t would overflow
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

static inline void add(long count, REAL *to, const REAL *from) {
    for (long k = 0; k < count; k += W) store(to + k, load(to + k) + load(from + k));
}
static inline void activate(long count, const REAL *z, REAL *y) {
    for (long k = 0; k < count; k += W) store(y + k, silu(load(z + k)));
}
static inline void activate(long count, const REAL *z, REAL *y, REAL *slopes) {
    for (long k = 0; k < count; k += W) {
        V slope, value = silu(load(z + k), slope);
        store(y + k, value), store(slopes + k, slope);
    }
}
static inline void multiply(long count, REAL *to, const REAL *by) {
    for (long k = 0; k < count; k += W) store(to + k, load(to + k) * load(by + k));
}
// to = (to + more) by
static inline void add_multiply(long count, REAL *to, const REAL *more, const REAL *by) {
    for (long k = 0; k < count; k += W)
        store(to + k, (load(to + k) + load(more + k)) * load(by + k));
}
// A square of H rows, ``stride`` apart, into one of H rows without gaps.
template <int H> void transpose(const REAL *from, long stride, REAL *to) {
    for (long i = 0; i < H; i += 8)
        for (long j = 0; j < H; ++j)
            for (long k = i; k < i + 8; ++k) to[j * H + k] = from[k * stride + j];
}
// Memory for rows, on whole lines of the cache.
struct Work {
    std::unique_ptr<char[]> all;
    REAL *next;
    explicit Work(long count) : all(new char[count * sizeof(REAL) + 64]) {
        next = (REAL *)(((uintptr_t)all.get() + 63) / 64 * 64);
    }
    REAL *rows(long count) {
        REAL *at = next;
        next += count;
        return at;
    }
};
