// silu and its derivatives for whatever REAL is, in loops that the compiler turns into vectors.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

using F = REAL;
using Int = std::conditional_t<sizeof(F) == 4, std::int32_t, std::int64_t>;

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
