/* How values are stored, and an exponential that compilers vectorise.

   Every source is compiled once for float32 and once for bfloat16 (COMPUTE_BFLOAT16). Arithmetic
   is float32 throughout; `number` is only how values are stored. */

#ifndef ISOFLOP_NUMBER_H
#define ISOFLOP_NUMBER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if COMPUTE_BFLOAT16
typedef uint16_t number;

static inline float load(number bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline number store(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    /* Round to nearest, ties to even; a NaN must not round up into infinity. */
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (number)(value == value ? rounded : 0x7fc0u);
}
#else
typedef float number;

static inline float load(number value) { return value; }
static inline number store(float value) { return value; }
#endif

/* `other` where it holds, x elsewhere; by bits. Of "holds ? other : x" compilers make two branches and
   compute what follows for both: with the constant e^88 that is a denormal number in every lane,
   and each costs a hundred cycles. */
static inline float x_or(float x, float other, int holds) {
    int32_t bits, others, mask = -(int32_t)holds;
    memcpy(&bits, &x, sizeof bits);
    memcpy(&others, &other, sizeof others);
    bits = (bits & ~mask) | (others & mask);
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^x to about one unit in the last place, written so that compilers vectorise it.
   2^n times a polynomial in r, x = n ln 2 + r; NaN stays NaN, both ends are clamped. */
static inline float exponential(float x) {
    x = x_or(x, -87.0f, x < -87.0f);
    x = x_or(x, 88.0f, x > 88.0f);
    float n = floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

#endif
