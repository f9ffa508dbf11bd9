/* One step of decoding: attention over a cache, products of few rows, and the draw of the next token.

   Called through native.py and isoflop.evaluate.sampling.choose, where the definitions stand in
   PyTorch too; tests hold this file against them. */

#include "number.h"

#include <stdlib.h>

/* ---- attention over a cache ---- */

/* Turn the two halves of a head to its position's angles (see kernels.c). */
static void turned(const number *in, const float *cosine, const float *sine, int64_t width,
                   number *out) {
    int64_t half = width / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float first = load(in[i]), second = load(in[i + half]);
        out[i] = store(first * cosine[i] - second * sine[i]);
        out[i + half] = store(second * cosine[i + half] + first * sine[i + half]);
    }
}

#define LANES 16

#if defined __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#endif
#endif

#if SHUFFLES
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

#if COMPUTE_BFLOAT16
typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t))));
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t))));

static inline lanes load_lanes(const number *in) {
    halves bits;
    memcpy(&bits, in, sizeof bits);
    return (lanes)(__builtin_convertvector(bits, words) << 16);
}
#else
static inline lanes load_lanes(const number *in) {
    lanes out;
    memcpy(&out, in, sizeof out);
    return out;
}
#endif

/* Lanes hold groups of partial sums; of two vectors one, whose groups are half as long. */
#define EIGHT(a, b)                                                                                \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +       \
     __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOUR(a, b)                                                                                 \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +     \
     __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define TWO(a, b)                                                                                  \
    (__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +     \
     __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define ONE(a, b)                                                                                  \
    (__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +    \
     __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))

/* One vector of the sums of 16 vectors' lanes. */
static inline lanes sums_of(lanes *part) {
    for (int i = 0; i < 8; i++) part[i] = EIGHT(part[2 * i], part[2 * i + 1]);
    for (int i = 0; i < 4; i++) part[i] = FOUR(part[2 * i], part[2 * i + 1]);
    for (int i = 0; i < 2; i++) part[i] = TWO(part[2 * i], part[2 * i + 1]);
    return ONE(part[0], part[1]);
}
#endif

#define PADDED(count) (((count) + LANES - 1) / LANES * LANES)

/* row[t]: query . key of position t, scaled, and -infinity from count to PADDED(count); the largest.
   room: positions that keys have memory for. */
static float scores(const number *query, const number *key, int64_t count, int64_t room,
                    int64_t width, float scale, float *row) {
    int64_t done = 0;
#if SHUFFLES
    while (width % LANES == 0 && LANES <= room && done < count) {
        /* The last block begins earlier where keys would end; what lies behind count is dropped. */
        int64_t first = done + LANES <= room ? done : room - LANES;
        lanes part[LANES];
        for (int t = 0; t < LANES; t++)
            part[t] = load_lanes(query) * load_lanes(key + (first + t) * width);
        for (int64_t i = LANES; i < width; i += LANES)
            for (int t = 0; t < LANES; t++)
                part[t] += load_lanes(query + i) * load_lanes(key + (first + t) * width + i);
        lanes sums = sums_of(part) * scale;
        memcpy(row + first, &sums, sizeof sums);
        done = first + LANES;
    }
#endif
    for (int64_t t = done; t < count; t++) {
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++) dot += load(query[i]) * load(key[t * width + i]);
        row[t] = dot * scale;
    }
    int64_t end = PADDED(count);
    for (int64_t t = count; t < end; t++) row[t] = -INFINITY;
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t t = 0; t < end; t++) largest = row[t] > largest ? row[t] : largest;
    return largest;
}

/* result: the sum of weights[t] x value of position t, scaled. line: room for width floats. */
static void mixture(const float *weights, const number *value, int64_t count, int64_t width,
                    float scale, float *line, number *result) {
    int64_t i = 0;
#if SHUFFLES
    for (; i + LANES <= width; i += LANES) {
        /* Several sums, so that none waits for the one before. */
        lanes sums[4] = {{0}, {0}, {0}, {0}};
        int64_t t = 0;
        for (; t + 4 <= count; t += 4)
            for (int k = 0; k < 4; k++)
                sums[k] += weights[t + k] * load_lanes(value + (t + k) * width + i);
        for (; t < count; t++) sums[0] += weights[t] * load_lanes(value + t * width + i);
        lanes whole = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale;
        for (int k = 0; k < LANES; k++) result[i + k] = store(whole[k]);
    }
#endif
    if (i == width) return;
    memset(line, 0, width * sizeof *line);
    for (int64_t t = 0; t < count; t++) {
        float weight = weights[t];
#pragma omp simd
        for (int64_t k = i; k < width; k++) line[k] += weight * load(value[t * width + k]);
    }
    for (; i < width; i++) result[i] = store(line[i] * scale);
}

/* out (batch, heads x width) from projected (batch, heads + 2 key_value_heads, width).

   Each sequence's new key and value are stored at its position in keys and values (batch,
   key_value_heads, capacity, width); then every head looks at all positions up to there.
   cosine, sine: tables of all positions. row: room for PADDED(capacity) floats; line, for width. */
void attend_cached(const number *projected, const float *cosine, const float *sine,
                   const int64_t *positions, int64_t batch, int64_t heads, int64_t key_value_heads,
                   int64_t capacity, int64_t width, float scale, number *keys, number *values,
                   float *row, float *line, number *query, number *out) {
    int64_t groups = heads / key_value_heads, all = heads + 2 * key_value_heads;
    for (int64_t b = 0; b < batch; b++) {
        int64_t at = positions[b], count = at + 1;
        const float *c = cosine + at * width, *s = sine + at * width;
        const number *whole = projected + b * all * width;
        for (int64_t g = 0; g < key_value_heads; g++) {
            number *key = keys + ((b * key_value_heads + g) * capacity) * width;
            number *value = values + ((b * key_value_heads + g) * capacity) * width;
            turned(whole + (heads + g) * width, c, s, width, key + at * width);
            memcpy(value + at * width, whole + (heads + key_value_heads + g) * width,
                   width * sizeof(number));
            for (int64_t h = g * groups; h < (g + 1) * groups; h++) {
                turned(whole + h * width, c, s, width, query);
                float largest = scores(query, key, count, capacity, width, scale, row);
                /* Behind count: e^-87 each, which is nothing beside the largest's 1. */
                float total = 0.0f;
#pragma omp simd reduction(+ : total)
                for (int64_t t = 0; t < PADDED(count); t++) {
                    row[t] = exponential(row[t] - largest);
                    total += row[t];
                }
                mixture(row, value, count, width, 1.0f / total, line,
                        out + (b * heads + h) * width);
            }
        }
    }
}

/* ---- products of few rows ---- */

#define FEW 4

#if !COMPUTE_BFLOAT16
/* out (count, width) = rows (count, depth) x weight (depth, width), columns from `first` on. */
static void few_columns(const float *rows, const float *weight, int64_t count, int64_t depth,
                        int64_t width, int64_t first, float *out) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t c = first; c < width; c++) {
            float sum = 0.0f;
            for (int64_t i = 0; i < depth; i++) sum += rows[r * depth + i] * weight[i * width + c];
            out[r * width + c] = sum;
        }
}

#if SHUFFLES
/* One block of FEW rows and two vectors of columns, all sums in registers. */
static void few_rows_block(const float *rows, const float *weight, int64_t depth, int64_t width,
                           float *out) {
    lanes sums[FEW][2] = {{{0}}};
    for (int64_t i = 0; i < depth; i++) {
        lanes left = load_lanes(weight + i * width), right = load_lanes(weight + i * width + LANES);
        for (int r = 0; r < FEW; r++) {
            sums[r][0] += rows[r * depth + i] * left;
            sums[r][1] += rows[r * depth + i] * right;
        }
    }
    for (int r = 0; r < FEW; r++) memcpy(out + r * width, sums[r], sizeof sums[r]);
}
#endif

/* Each expert's rows, up to its end, with its weight (depth, width): many experts, few rows each. */
void few_rows_product(const float *rows, const float *weight, const int32_t *ends, int64_t experts,
                      int64_t depth, int64_t width, float *out) {
    for (int64_t e = 0, row = 0; e < experts; e++) {
        const float *own = weight + e * depth * width;
        for (; row < ends[e];) {
            int64_t count = ends[e] - row < FEW ? ends[e] - row : FEW, done = 0;
            const float *from = rows + row * depth;
            float *to = out + row * width;
#if SHUFFLES
            if (count == FEW)
                for (; done + 2 * LANES <= width; done += 2 * LANES)
                    few_rows_block(from, own + done, depth, width, to + done);
            else
                for (; done + LANES <= width; done += LANES)
                    for (int64_t r = 0; r < count; r++) {
                        lanes sum = {0};
                        for (int64_t i = 0; i < depth; i++)
                            sum += from[r * depth + i] * load_lanes(own + i * width + done);
                        memcpy(to + r * width + done, &sum, sizeof sum);
                    }
#endif
            few_columns(from, own, count, depth, width, done, to);
            row += count;
        }
    }
}
#endif

/* ---- the draw ---- */

/* Probabilities are sorted into buckets by the leading bits of their floats, which rise with the
   value: sign, exponent and two bits more. The largest, 1.0, has the last bucket. */
#define BUCKET_SHIFT 21
#define BUCKETS ((0x3f800000 >> BUCKET_SHIFT) + 1)

typedef struct {
    int32_t counts[BUCKETS];
    double sums[BUCKETS];
} Buckets;

static int64_t bucket_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits >> BUCKET_SHIFT;
}

static int falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Down from the largest until `most` values are passed or they sum up to `wanted`: the last of
   them. sum: of those passed. */
static float reach(const Buckets *buckets, const float *values, int64_t size, int64_t most,
                   double wanted, float *place, double *sum) {
    int64_t bucket = BUCKETS - 1, passed = 0, found = 0;
    *sum = 0.0;
    while (bucket > 0 && passed + buckets->counts[bucket] < most &&
           *sum + buckets->sums[bucket] < wanted) {
        passed += buckets->counts[bucket];
        *sum += buckets->sums[bucket];
        bucket--;
    }
    for (int64_t i = 0; i < size; i++) {
        place[found] = values[i];
        found += bucket_of(values[i]) == bucket;
    }
    qsort(place, found, sizeof *place, falling);
    float last = 0.0f;
    for (int64_t i = 0; i < found && passed < most && *sum < wanted; i++, passed++) {
        last = place[i];
        *sum += last;
    }
    return last;
}

/* Below this no token is drawn: see choose.py. values: probabilities over the largest, but for what
   lies below any nucleus; total: the sum of all. */
static float least_drawn(const float *values, int64_t size, double total, double top_p,
                         int64_t top_k, int limited, Buckets *buckets, float *place) {
    memset(buckets, 0, sizeof *buckets);
    for (int64_t i = 0; i < size; i++) {
        int64_t bucket = bucket_of(values[i]);
        buckets->counts[bucket]++;
        buckets->sums[bucket] += values[i];
    }
    double held = total, unused;
    float least = 0.0f;
    if (limited) least = reach(buckets, values, size, top_k, INFINITY, place, &held);
    if (top_p >= 1.0) return least;
    float nucleus = reach(buckets, values, size, top_k, top_p * held, place, &unused);
    return nucleus > least ? nucleus : least;
}

#define BLOCK 64

/* The first place at which the sum of what is at least `least` passes share x the whole sum. */
static int64_t passes(const float *values, int64_t size, float least, double share) {
    double total = 0.0, sum = 0.0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < size; i++) total += values[i] >= least ? values[i] : 0.0f;
    double wanted = share * total;
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t end = start + BLOCK < size ? start + BLOCK : size;
        double block = 0.0;
#pragma omp simd reduction(+ : block)
        for (int64_t i = start; i < end; i++) block += values[i] >= least ? values[i] : 0.0f;
        if (sum + block > wanted)
            for (int64_t i = start; i < end; i++) {
                sum += values[i] >= least ? values[i] : 0.0f;
                if (sum > wanted) return i;
            }
        else
            sum += block;
    }
    /* Rounding must not lead behind the last token that may be drawn. */
    int64_t last = size - 1;
    while (last > 0 && values[last] < least) last--;
    return last;
}

/* The token whose share of what may be drawn holds `uniform`. row: probabilities over the largest,
   total: their sum. kept, place, tokens: room for size values each. */
static int64_t drawn(const float *row, int64_t size, double total, double uniform, double top_p,
                     int64_t top_k, Buckets *buckets, float *kept, float *place, int32_t *tokens) {
    int limited = top_k < size;
    if (!limited && top_p >= 1.0) return passes(row, size, 0.0f, uniform);
    /* All values below this sum up to no more than half of what the nucleus leaves out. */
    float floor = limited ? 0.0f : (float)(0.5 * (1.0 - top_p) * total / (double)size);
    int64_t count = 0;
    for (int64_t i = 0; i < size; i++) {
        kept[count] = row[i];
        tokens[count] = (int32_t)i;
        count += row[i] >= floor;
    }
    float least = least_drawn(kept, count, total, top_p, top_k, limited, buckets, place);
    return tokens[passes(kept, count, least, uniform)];
}

/* tokens: one a row of logits (rows, vocabulary); -1 where a logit is not finite.
   inverse_temperature 0: the largest logit, of equals the first. uniform: in [0, 1).
   log_probs: none, or of the tokens at the temperature, as if all could be drawn; at 0, at 1.
   row, kept, place, kept_tokens: room for vocabulary values each. */
void draw_tokens(const float *logits, const double *uniform, int64_t rows, int64_t vocabulary,
                 float inverse_temperature, float top_p, int64_t top_k, float *row, float *kept,
                 float *place, int32_t *kept_tokens, int64_t *tokens, float *log_probs) {
    Buckets buckets;
    for (int64_t r = 0; r < rows; r++) {
        const float *logit = logits + r * vocabulary;
        float largest = -INFINITY, finite = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : finite)
        for (int64_t i = 0; i < vocabulary; i++) {
            largest = logit[i] > largest ? logit[i] : largest;
            finite += logit[i] - logit[i];
        }
        tokens[r] = -1;
        if (finite != 0.0f) continue;
        if (inverse_temperature == 0.0f) {
            int64_t first = 0;
            while (logit[first] != largest) first++;
            tokens[r] = first;
            if (!log_probs) continue;
        }
        float inverse = inverse_temperature == 0.0f ? 1.0f : inverse_temperature;
        double total = 0.0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < vocabulary; i++) {
            row[i] = exponential((logit[i] - largest) * inverse);
            total += row[i];
        }
        if (inverse_temperature != 0.0f)
            tokens[r] = drawn(row, vocabulary, total, uniform[r], top_p, top_k, &buckets, kept,
                              place, kept_tokens);
        if (log_probs)
            log_probs[r] = (logit[tokens[r]] - largest) * inverse - (float)log(total);
    }
}
