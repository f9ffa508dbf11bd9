/* Causal attention of bfloat16 heads, a group of query positions at a time.

   Scores stay float32 and in the cache; only the logarithm of each row's sum is kept, and the
   backward pass makes the probabilities again (FlashAttention's idea, arXiv:2205.14135). What
   lies ahead of all queries of a tile is never computed. Called through native.py.

   A head has query, key and value (length, width), width even. Room that callers give, with
   stride = length and span = width, both rounded up to COLUMNS:
       panels   2 x stride x span / 2 pairs; backward 3 times that, and group x COLUMNS more
       scores   3 x group x stride floats
       left     group x (stride + ROWS) pairs
       sums     2 x length x width floats */

#include "number.h"
#include "tile.h"

#if HAS_TILES && COMPUTE_BFLOAT16

typedef struct {
    const int64_t *documents; /* of this sequence, or null: attention runs across */
    int64_t length, width, stride, group;
    float scale;
} Shape;

static int64_t round_up(int64_t value) { return (value + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* Panels whose columns are positions: the summed axis is the width. */
static void pack_positions(const number *x, const Shape *s, uint32_t *panels) {
    for (int64_t c = 0; c < s->length; c += COLUMNS)
        pack_narrow_columns(x + c * s->width, s->width / 2, s->width, s->length - c,
                            panels + c * (s->width / 2));
}

/* Panels whose columns are the width's: the summed axis is the positions. */
static void pack_width(const number *x, const Shape *s, uint32_t *panels) {
    for (int64_t c = 0; c < s->width; c += COLUMNS)
        pack_narrow_rows(x + c, s->length, s->width, least(COLUMNS, s->width - c),
                         panels + c * (s->stride / 2));
}

/* scores (count, stride) of positions first .. first + count, as far as they look. */
static void products(const number *x, const uint32_t *panels, const Shape *s, int64_t first,
                     int64_t count, float *scores) {
    for (int64_t c = 0; c < first + count; c += COLUMNS) {
        int64_t start = c > first ? c - first : 0;
        Tile t = {.left = (const uint32_t *)(x + (first + start) * s->width),
                  .row_step = s->width / 2,
                  .pair_step = 1,
                  .panel = panels + c * (s->width / 2),
                  .pairs = s->width / 2,
                  .wide = scores + start * s->stride + c,
                  .wide_step = s->stride,
                  .columns = COLUMNS};
        sweep(&t, count - start);
    }
}

/* out (length, width) of positions first .. first + count = weights (count, stride) x panels. */
static void mix(const number *weights, const uint32_t *panels, const Shape *s, int64_t first,
                int64_t count, number *out) {
    int64_t most = tile_rows(count);
    for (int64_t row = 0; row < count; row += most) {
        int64_t rows = least(most, count - row);
        for (int64_t c = 0; c < s->width; c += COLUMNS) {
            Tile t = {.left = (const uint32_t *)(weights + row * s->stride),
                      .row_step = s->stride / 2,
                      .pair_step = 1,
                      .panel = panels + c * (s->stride / 2),
                      .pairs = (first + row + rows + 1) / 2,
                      .narrow = out + (first + row) * s->width + c,
                      .narrow_step = s->width,
                      .columns = least(COLUMNS, s->width - c)};
            sweep(&t, rows);
        }
    }
}

/* sums (length, width) += weights (count, stride) transposed x the group's rows of x. */
static void mix_back(const number *weights, const number *x, const Shape *s, int64_t first,
                     int64_t count, uint32_t *left, uint32_t *panel, float *sums) {
    int64_t keys = first + count, block = tile_rows(keys), pairs = (count + 1) / 2;
    pack_left(weights, count, s->stride, keys, block, left);
    for (int64_t c = 0; c < s->width; c += COLUMNS) {
        pack_narrow_rows(x + first * s->width + c, count, s->width, least(COLUMNS, s->width - c),
                         panel);
        for (int64_t key = 0; key < keys; key += block) {
            /* Queries before this block of keys do not see it. */
            int64_t skip = key > first ? (key - first) / 2 : 0;
            Tile t = {.left = left + key * pairs + skip * block,
                      .row_step = 1,
                      .pair_step = block,
                      .panel = panel + skip * COLUMNS,
                      .pairs = pairs - skip,
                      .wide = sums + key * s->width + c,
                      .wide_step = s->width,
                      .add = 1,
                      .columns = least(COLUMNS, s->width - c)};
            sweep(&t, least(block, keys - key));
        }
    }
}

/* Scores of keys in other documents become minus infinity. */
static void hide(const Shape *s, int64_t position, float *score) {
    for (int64_t i = 0; s->documents && i <= position; i++)
        if (s->documents[i] != s->documents[position]) score[i] = -INFINITY;
}

static float softmax(const Shape *s, int64_t position, int64_t keys, float *score, number *out) {
    int64_t last = position + 1;
    float largest = -INFINITY, total = 0.0f, scale = s->scale;
    hide(s, position, score);
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < last; i++) largest = score[i] > largest ? score[i] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < last; i++) {
        /* A hidden position counts for nothing, not for e^-87. */
        float power = score[i] == -INFINITY ? 0.0f : exponential((score[i] - largest) * scale);
        score[i] = power;
        total += power;
    }
    float share = 1.0f / total;
#pragma omp simd
    for (int64_t i = 0; i < last; i++) out[i] = store(score[i] * share);
    memset(out + last, 0, (keys - last) * sizeof *out);
    return largest * scale + logf(total);
}

/* documents may be null. */
void attention_forward(const number *query, const number *key, const number *value,
                       const int64_t *documents, int64_t heads, int64_t heads_per_sequence,
                       int64_t length, int64_t width, int64_t group, float scale, uint32_t *panels,
                       float *scores, number *out, float *log_total) {
    Shape s = {0, length, width, round_up(length), group, scale};
    uint32_t *values = panels + s.stride * round_up(width) / 2;
    number *weights = (number *)(scores + group * s.stride);
    for (int64_t h = 0; h < heads; h++) {
        int64_t begin = h * length * width;
        if (documents) s.documents = documents + h / heads_per_sequence * length;
        pack_positions(key + begin, &s, panels);
        pack_width(value + begin, &s, values);
        for (int64_t first = 0; first < length; first += group) {
            int64_t count = least(group, length - first), keys = round_up(first + count);
            products(query + begin, panels, &s, first, count, scores);
            for (int64_t i = 0; i < count; i++)
                log_total[h * length + first + i] =
                    softmax(&s, first + i, keys, scores + i * s.stride, weights + i * s.stride);
            mix(weights, values, &s, first, count, out + begin);
        }
    }
}

/* One row of probabilities and of the gradient of the scores. The mean gradient is summed from
   the float32 probabilities: taken from the rounded output, as out . d_out, it is off by 2^-9 of
   itself, and all that is left of a row with one large probability is the difference to it. */
static void slopes(const Shape *s, int64_t position, int64_t keys, float log_total, float *score,
                   const float *d_weight, number *weight, number *d_score) {
    int64_t last = position + 1;
    float mean = 0.0f, total = 0.0f, scale = s->scale;
    hide(s, position, score);
#pragma omp simd reduction(+ : mean, total)
    for (int64_t i = 0; i < last; i++) {
        float power = score[i] == -INFINITY ? 0.0f : exponential(score[i] * scale - log_total);
        score[i] = power;
        total += power;
        mean += power * d_weight[i];
    }
    mean /= total;
#pragma omp simd
    for (int64_t i = 0; i < last; i++) {
        weight[i] = store(score[i]);
        d_score[i] = store(score[i] * (d_weight[i] - mean) * scale);
    }
    memset(weight + last, 0, (keys - last) * sizeof *weight);
    memset(d_score + last, 0, (keys - last) * sizeof *d_score);
}

void attention_backward(const number *query, const number *key, const number *value,
                        const number *d_out, const int64_t *documents, const float *log_total,
                        int64_t heads, int64_t heads_per_sequence, int64_t length, int64_t width,
                        int64_t group, float scale, uint32_t *panels, float *scores,
                        uint32_t *left, float *sums, number *d_query, number *d_key,
                        number *d_value) {
    Shape s = {0, length, width, round_up(length), group, scale};
    int64_t room = s.stride * round_up(width) / 2, size = length * width;
    uint32_t *values = panels + room, *keys_by_width = values + room, *rest = keys_by_width + room;
    float *d_weights = scores + group * s.stride;
    number *weights = (number *)(d_weights + group * s.stride), *d_scores = weights + group * s.stride;
    for (int64_t h = 0; h < heads; h++) {
        int64_t begin = h * size;
        if (documents) s.documents = documents + h / heads_per_sequence * length;
        pack_positions(key + begin, &s, panels);
        pack_positions(value + begin, &s, values);
        pack_width(key + begin, &s, keys_by_width);
        memset(sums, 0, 2 * size * sizeof *sums);
        for (int64_t first = 0; first < length; first += group) {
            int64_t count = least(group, length - first), keys = round_up(first + count);
            products(query + begin, panels, &s, first, count, scores);
            products(d_out + begin, values, &s, first, count, d_weights);
            for (int64_t i = 0; i < count; i++) {
                int64_t at = i * s.stride;
                slopes(&s, first + i, keys, log_total[h * length + first + i], scores + at,
                       d_weights + at, weights + at, d_scores + at);
            }
            mix(d_scores, keys_by_width, &s, first, count, d_query + begin);
            mix_back(weights, d_out + begin, &s, first, count, left, rest, sums);
            mix_back(d_scores, query + begin, &s, first, count, left, rest, sums + size);
        }
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            d_value[begin + i] = store(sums[i]);
            d_key[begin + i] = store(sums[size + i]);
        }
    }
}

#endif
