/* Products of eight float32 rows with a panel, in vectors; transposing, and e^x of one.

   A panel's columns lie side by side, COLUMNS or a head's width of them. */

#ifndef ISOFLOP_OCTET_H
#define ISOFLOP_OCTET_H

#include "number.h"

#define OCTET 8
#define COLUMNS 32

/* Floats of the processor's own vectors: of longer ones GCC makes loops over memory. */
#if __AVX512F__
#define LANES 16
#elif __AVX__
#define LANES 8
#else
#define LANES 4
#endif

/* Vectors of sums that are held in registers beside the factors: of 16 or 32 there are. */
#define SUMS 8

#if defined __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#endif
#endif

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t marks __attribute__((vector_size(LANES * sizeof(int32_t))));

/* Whole vectors are loaded by memcpy: a loop over lanes may be compiled to one load a lane. */
static inline lanes floats(const float *in) {
    lanes out;
    memcpy(&out, in, sizeof out);
    return out;
}

static inline void put(float *out, lanes value) { memcpy(out, &value, sizeof value); }

/* The lanes of x where the mark is all ones, of `other` where it is zero. */
static inline lanes where(marks mark, lanes x, lanes other) {
    return (lanes)((mark & (marks)x) | (~mark & (marks)other));
}

static inline int64_t rounded(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
static inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

/* A factor whose numbers lie `row` and `step` apart. */
typedef struct {
    const float *at;
    int64_t row, step;
} Left;

/* out (rows, vectors x LANES) = or += left (rows, count) x panel (count, vectors x LANES).
   Inlined, so that both sizes are known and the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(int rows, int vectors, Left left,
                                                       const float *panel, int64_t panel_step,
                                                       int64_t count, int add, float *out,
                                                       int64_t out_step) {
    lanes sums[SUMS], right[2];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sums[i * vectors + v] = add ? floats(out + i * out_step + v * LANES) : (lanes){0};
    for (int64_t k = 0; k < count; k++) {
        for (int v = 0; v < vectors; v++) right[v] = floats(panel + k * panel_step + v * LANES);
        for (int i = 0; i < rows; i++) {
            float one = left.at[i * left.row + k * left.step];
            for (int v = 0; v < vectors; v++) sums[i * vectors + v] += one * right[v];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) put(out + i * out_step + v * LANES, sums[i * vectors + v]);
}

/* The same for OCTET rows and any multiple of LANES columns. */
static inline void octet(Left left, const float *panel, int64_t panel_step, int64_t columns,
                         int64_t count, int add, float *out, int64_t out_step) {
    int64_t c = 0;
    for (; c + 2 * LANES <= columns; c += 2 * LANES)
        for (int64_t i = 0; i < OCTET; i += SUMS / 2) {
            Left part = {left.at + i * left.row, left.row, left.step};
            tile(SUMS / 2, 2, part, panel + c, panel_step, count, add, out + i * out_step + c,
                 out_step);
        }
    for (int64_t i = 0; c < columns && i < OCTET; i += SUMS) {
        Left part = {left.at + i * left.row, left.row, left.step};
        tile(SUMS, 1, part, panel + c, panel_step, count, add, out + i * out_step + c, out_step);
    }
}

#if SHUFFLES
/* Lanes of two vectors by turns, of their lower or higher halves; lanes and those `by` away change
   places. */
#if LANES == 16
#define LOW(a, b)                                                                                  \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define TURNED(x, by)                                                                              \
    __builtin_shufflevector(x, x, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by,  \
                            8 ^ by, 9 ^ by, 10 ^ by, 11 ^ by, 12 ^ by, 13 ^ by, 14 ^ by, 15 ^ by)
#elif LANES == 8
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define TURNED(x, by)                                                                              \
    __builtin_shufflevector(x, x, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by)
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define TURNED(x, by) __builtin_shufflevector(x, x, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by)
#endif

/* LANES x LANES numbers: after taking turns log2(LANES) times each row is a column. */
static inline void transpose(lanes *part) {
    for (int size = 1; size < LANES; size *= 2) {
        lanes other[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            other[2 * i] = LOW(part[i], part[i + LANES / 2]);
            other[2 * i + 1] = HIGH(part[i], part[i + LANES / 2]);
        }
        memcpy(part, other, sizeof other);
    }
}
#else
static inline void transpose(lanes *part) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            float one = part[i][j];
            part[i][j] = part[j][i];
            part[j][i] = one;
        }
}
#endif

/* Shares below e^-64 of the largest become nothing: beside it they are, and products of them would
   be denormal numbers, which cost a hundred cycles each. */
#define LEAST_EXPONENT -64.0f

/* number.h's, with what it leaves out below LEAST_EXPONENT; x must not be far above 0. */
static inline lanes exponentials(lanes x) {
    marks counts = ~(x < LEAST_EXPONENT); /* NaN counts. */
    x = where(counts, x, (lanes){0} + LEAST_EXPONENT);
    /* Added to 1.5 x 2^23 a number is rounded, and its last bits are that whole number. */
    lanes shifted = x * 1.44269504f + 12582912.0f;
    lanes n = shifted - 12582912.0f;
    lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes p = (lanes){0} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    lanes power = (lanes)(((marks)shifted << 23) + 0x3f800000);
    return (lanes)((marks)(p * power) & counts);
}

static inline lanes larger(lanes a, lanes b) { return where(a > b, a, b); }

#if SHUFFLES
static inline float largest_lane(lanes x) {
#if LANES > 8
    x = larger(x, TURNED(x, 8));
#endif
#if LANES > 4
    x = larger(x, TURNED(x, 4));
#endif
    x = larger(x, TURNED(x, 2));
    x = larger(x, TURNED(x, 1));
    return x[0];
}

static inline float sum_of_lanes(lanes x) {
#if LANES > 8
    x += TURNED(x, 8);
#endif
#if LANES > 4
    x += TURNED(x, 4);
#endif
    x += TURNED(x, 2);
    x += TURNED(x, 1);
    return x[0];
}
#else
static inline float largest_lane(lanes x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static inline float sum_of_lanes(lanes x) {
    float sum = x[0];
    for (int i = 1; i < LANES; i++) sum += x[i];
    return sum;
}
#endif

#endif
