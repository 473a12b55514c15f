// exp of non-positive numbers, 16 floats at once.

#pragma once

#include <cstdint>

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));

// exp for x <= 0: 2^n times the Taylor series of what is left, |r| <= ln(2) / 2.
static inline Floats exponential(Floats x) {
    x = x < -87.0f ? Floats{} - 87.0f : x;
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds
    Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Floats sum = Floats{} + 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return sum * (Floats)((__builtin_convertvector(n, Integers) + 127) << 23);
}
