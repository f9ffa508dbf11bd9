/* Causal attention of float32 heads, a group of query positions at a time.

   Scores of a group stay in the cache; only the logarithm of each row's sum is kept, and the
   backward pass makes the probabilities again (FlashAttention's idea, arXiv:2205.14135). What lies
   ahead of all queries of eight is never computed. Called through attention.py.

   Sequences may lie whole, (sequence, head, position, width), or share rows, (head, token, width):
   then `spread` names the row of each position, and a sequence answers for its positions from its
   first on alone; those before are of the sequence that it shares them with.

   Every product is of eight rows, see octet.h. Width is a multiple of HALF. Room that callers
   give, in floats, padded = length rounded up to COLUMNS:
       forward   2 x padded x width + group x (2 x width + padded + HALF + 1)
       backward  5 x padded x width + group x (3 x width + 2 x COLUMNS + 2)
   group is a multiple of OCTET. begins: room for padded numbers, only with documents. */

#include "number.h"
#include "octet.h"

#if !COMPUTE_BFLOAT16

#define HALF (COLUMNS / 2)
#define DEPTH 64 /* Values that are mixed at a time: 16 KiB of width 64. */

typedef struct {
    const int64_t *rows;   /* of each position, or null: its number */
    const int32_t *begins; /* first position of each position's document, or null */
    int64_t length, width;
    float scale;
} Shape;

static int64_t row_of(const Shape *s, int64_t position) {
    return s->rows ? s->rows[position] : position;
}

/* ---- panels ---- */

/* COLUMNS positions side by side, one line a place of the width; zeros behind the end. */
static void pack_across(const float *x, const Shape *s, float *panels) {
    int64_t end = rounded(s->length, COLUMNS);
    for (int64_t t = 0; t < end; t += LANES)
        for (int64_t i = 0; i < s->width; i += LANES) {
            lanes part[LANES];
            for (int64_t k = 0; k < LANES; k++)
                part[k] = t + k < s->length ? floats(x + row_of(s, t + k) * s->width + i)
                                            : (lanes){0};
            transpose(part);
            float *panel = panels + t / COLUMNS * COLUMNS * s->width + t % COLUMNS;
            for (int64_t k = 0; k < LANES; k++) put(panel + (i + k) * COLUMNS, part[k]);
        }
}

/* Rows one after another, zeros behind the end. */
static void pack_rows(const float *x, const Shape *s, float *panel) {
    for (int64_t t = 0; t < s->length; t++)
        memcpy(panel + t * s->width, x + row_of(s, t) * s->width, s->width * sizeof *x);
    int64_t behind = rounded(s->length, COLUMNS) - s->length;
    memset(panel + s->length * s->width, 0, behind * s->width * sizeof *x);
}

/* Scaled rows of positions first .. first + count, zeros up to a whole OCTET. */
static void pack_group(const float *x, const Shape *s, int64_t first, int64_t count, float scale,
                       float *panel) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < s->width; i += LANES)
            put(panel + r * s->width + i,
                floats(x + row_of(s, first + r) * s->width + i) * scale);
    int64_t behind = rounded(count, OCTET) - count;
    memset(panel + count * s->width, 0, behind * s->width * sizeof *x);
}

/* ---- what queries look at ---- */

/* A multiple of COLUMNS before which no position first .. first + count looks. */
static int64_t begin_of(const Shape *s, int64_t first, int64_t count) {
    if (!s->begins) return 0;
    int64_t begin = first;
    for (int64_t r = 0; r < count; r++) begin = lesser(begin, s->begins[first + r]);
    return begin / COLUMNS * COLUMNS;
}

/* The same for the octet from row r on of such a group. */
static int64_t octet_begin(const Shape *s, int64_t first, int64_t count, int64_t r) {
    return begin_of(s, first + r, lesser(OCTET, count - r));
}

/* The first octet's row of which a position sees c. */
static int64_t first_octet(int64_t first, int64_t c) {
    return c > first ? (c - first) / OCTET * OCTET : 0;
}

/* Which of LANES positions from c on the query at `at` may see. */
static inline marks seen(const Shape *s, int64_t at, int64_t c) {
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    marks offsets;
    memcpy(&offsets, numbers, sizeof offsets);
    marks ahead = offsets > (int32_t)lesser(at - c, LANES);
    if (!s->begins) return ~ahead;
    marks others;
    memcpy(&others, s->begins + c, sizeof others);
    return ~ahead & (others == s->begins[at]);
}

/* Whether of LANES positions from c on some may be hidden. */
static inline int some_hidden(const Shape *s, int64_t at, int64_t c) {
    return s->begins || c + LANES > at + 1;
}

/* score[begin .. end) becomes shares of the largest; returns their sum. */
static float softmax(const Shape *s, int64_t at, int64_t begin, int64_t end, float *score,
                     float *largest_score) {
    lanes most = (lanes){0} - INFINITY, total = {0};
    for (int64_t c = begin; c <= at; c += LANES) {
        lanes x = floats(score + c);
        if (some_hidden(s, at, c)) x = where(seen(s, at, c), x, (lanes){0} - INFINITY);
        most = larger(x, most);
    }
    float largest = largest_lane(most);
    int64_t c = begin;
    for (; c <= at; c += LANES) {
        lanes share = exponentials(floats(score + c) - largest);
        if (some_hidden(s, at, c)) share = (lanes)((marks)share & seen(s, at, c));
        put(score + c, share);
        total += share;
    }
    for (; c < end; c += LANES) put(score + c, (lanes){0});
    *largest_score = largest;
    return sum_of_lanes(total);
}

/* ---- forward ---- */

typedef struct {
    const float *keys, *values; /* panels across, and rows */
    float *query, *mixed, *scores, *totals;
} Forward;

static void forward_group(const Shape *s, const Forward *f, int64_t first, int64_t count,
                          const float *query, float *out, float *log_total) {
    int64_t width = s->width, end = first + count, begin = begin_of(s, first, count);
    int64_t stride = rounded(s->length, COLUMNS) + HALF;
    pack_group(query, s, first, count, s->scale, f->query);
    for (int64_t c = begin; c < end; c += COLUMNS)
        for (int64_t r = first_octet(first, c); r < count; r += OCTET) {
            if (c < octet_begin(s, first, count, r)) continue;
            Left left = {f->query + r * width, width, 1};
            int64_t columns = first + r + OCTET <= c + HALF ? HALF : COLUMNS;
            octet(left, f->keys + c * width, COLUMNS, columns, width, 0,
                  f->scores + r * stride + c, stride);
        }
    for (int64_t r = 0; r < rounded(count, OCTET); r++) {
        int64_t whole = r / OCTET * OCTET, from = octet_begin(s, first, count, whole);
        float *score = f->scores + r * stride;
        if (r >= count)
            memset(score, 0, stride * sizeof *score);
        else
            f->totals[r] = softmax(s, first + r, from, first + whole + OCTET, score,
                                   log_total + row_of(s, first + r));
    }
    /* Apart, as each takes long and none waits for another. */
    for (int64_t r = 0; r < count; r++) log_total[row_of(s, first + r)] += logf(f->totals[r]);
    for (int64_t c = begin; c < end; c += DEPTH)
        for (int64_t r = first_octet(first, c); r < count; r += OCTET) {
            int64_t from = octet_begin(s, first, count, r), start = from > c ? from : c;
            int64_t stop = lesser(lesser(c + DEPTH, first + r + OCTET), s->length);
            if (start >= stop) continue;
            Left left = {f->scores + r * stride + start, stride, 1};
            octet(left, f->values + start * width, width, width, stop - start, start > from,
                  f->mixed + r * width, width);
        }
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < width; i += LANES)
            put(out + row_of(s, first + r) * width + i,
                floats(f->mixed + r * width + i) / f->totals[r]);
}

/* ---- backward ---- */

typedef struct {
    const float *keys, *key_rows, *values;  /* panels across, rows, panels across */
    float *d_key, *d_value;                 /* sums, of rows */
    float *query, *d_out, *d_query;         /* rows of a group */
    float *shares, *slopes, *totals, *dots; /* (group, COLUMNS) twice, (group) twice */
} Backward;

/* Scores from c on become shares, and gradients of shares those of scores. */
static void slopes_of(const Shape *s, const Backward *b, int64_t at, int64_t r, int64_t c,
                      int64_t columns) {
    for (int64_t i = 0; i < columns; i += LANES) {
        float *share = b->shares + r * COLUMNS + i, *slope = b->slopes + r * COLUMNS + i;
        lanes x = exponentials(floats(share) - b->totals[r]);
        lanes y = x * (floats(slope) - b->dots[r]);
        if (some_hidden(s, at, c + i)) {
            marks mark = seen(s, at, c + i);
            x = (lanes)((marks)x & mark);
            y = (lanes)((marks)y & mark);
        }
        put(share, x);
        put(slope, y);
    }
}

/* What the group's queries and COLUMNS keys from c on give each other. */
static void backward_columns(const Shape *s, const Backward *b, int64_t first, int64_t count,
                             int64_t c) {
    int64_t width = s->width, start = first_octet(first, c);
    for (int64_t r = start; r < count; r += OCTET) {
        int64_t end = first + r + OCTET, columns = end <= c + HALF ? HALF : COLUMNS;
        float *shares = b->shares + r * COLUMNS, *slopes = b->slopes + r * COLUMNS;
        if (c < octet_begin(s, first, count, r)) {
            memset(shares, 0, OCTET * COLUMNS * sizeof *shares);
            memset(slopes, 0, OCTET * COLUMNS * sizeof *slopes);
            continue;
        }
        Left query = {b->query + r * width, width, 1}, d_out = {b->d_out + r * width, width, 1};
        octet(query, b->keys + c * width, COLUMNS, columns, width, 0, shares, COLUMNS);
        octet(d_out, b->values + c * width, COLUMNS, columns, width, 0, slopes, COLUMNS);
        for (int64_t k = r; k < lesser(r + OCTET, count); k++)
            slopes_of(s, b, first + k, k, c, columns);
        Left left = {slopes, COLUMNS, 1};
        octet(left, b->key_rows + c * width, width, width, lesser(COLUMNS, end - c), 1,
              b->d_query + r * width, width);
    }
    for (int64_t k = c; k < lesser(c + COLUMNS, first + count); k += OCTET) {
        int64_t r = k > first ? k - first : 0;
        Left shares = {b->shares + r * COLUMNS + k - c, 1, COLUMNS};
        Left slopes = {b->slopes + r * COLUMNS + k - c, 1, COLUMNS};
        octet(shares, b->d_out + r * width, width, width, count - r, 1, b->d_value + k * width,
              width);
        octet(slopes, b->query + r * width, width, width, count - r, 1, b->d_key + k * width,
              width);
    }
}

static void backward_group(const Shape *s, const Backward *b, int64_t first, int64_t count,
                           const float *query, const float *d_out, const float *out,
                           const float *log_total, float *d_query) {
    int64_t width = s->width;
    pack_group(query, s, first, count, s->scale, b->query);
    pack_group(d_out, s, first, count, 1.0f, b->d_out);
    memset(b->d_query, 0, rounded(count, OCTET) * width * sizeof(float));
    for (int64_t r = 0; r < count; r++) {
        const float *mixed = out + row_of(s, first + r) * width;
        lanes dot = {0};
        for (int64_t i = 0; i < width; i += LANES)
            dot += floats(b->d_out + r * width + i) * floats(mixed + i);
        b->dots[r] = sum_of_lanes(dot);
        b->totals[r] = log_total[row_of(s, first + r)];
    }
    for (int64_t c = begin_of(s, first, count); c < first + count; c += COLUMNS)
        backward_columns(s, b, first, count, c);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < width; i += LANES)
            put(d_query + row_of(s, first + r) * width + i,
                floats(b->d_query + r * width + i) * s->scale);
}

/* Sums of a head's rows, each to where it came from: others may have added there. */
static void add_rows(const float *panel, const Shape *s, float *out) {
    for (int64_t t = 0; t < s->length; t++)
        for (int64_t i = 0; i < s->width; i += LANES) {
            float *to = out + row_of(s, t) * s->width + i;
            put(to, floats(to) + floats(panel + t * s->width + i));
        }
}

/* ---- all sequences and heads ---- */

/* A document's first position is its number: it may come back. */
static void find_begins(const int64_t *documents, int64_t length, int32_t *begins) {
    for (int64_t t = 0; t < length; t++) {
        int64_t first = t && documents[t] == documents[t - 1] ? begins[t - 1] : 0;
        while (documents[first] != documents[t]) first++;
        begins[t] = (int32_t)first;
    }
    /* Whole vectors are read. */
    for (int64_t t = length; t < rounded(length, COLUMNS); t++) begins[t] = -1;
}

static Shape shape_of(int64_t sequence, const int64_t *spread, const int64_t *lengths,
                      const int64_t *documents, int64_t longest, int64_t width, float scale,
                      int32_t *begins) {
    int64_t length = lengths ? lengths[sequence] : longest;
    if (documents) find_begins(documents + sequence * longest, length, begins);
    const int64_t *rows = spread ? spread + sequence * longest : 0;
    return (Shape){rows, documents ? begins : 0, length, width, scale};
}

/* spread, lengths, firsts (all or none) and documents may be null. log_total (.., heads, tokens). */
void attention_float32_forward(const float *query, const float *key, const float *value,
                               const int64_t *spread, const int64_t *lengths,
                               const int64_t *firsts, const int64_t *documents, int64_t sequences,
                               int64_t heads, int64_t key_value_heads, int64_t tokens,
                               int64_t longest, int64_t width, int64_t group, float scale,
                               float *room, int32_t *begins, float *out, float *log_total) {
    int64_t area = tokens * width, sharing = heads / key_value_heads;
    for (int64_t n = 0; n < sequences; n++) {
        Shape s = shape_of(n, spread, lengths, documents, longest, width, scale, begins);
        int64_t own = firsts ? firsts[n] : 0, padded = rounded(s.length, COLUMNS);
        float *values = room + padded * width, *rows = values + padded * width;
        float *mixed = rows + group * width, *scores = mixed + group * width;
        Forward f = {room, values, rows, mixed, scores, scores + group * (padded + HALF)};
        for (int64_t g = 0; own < s.length && g < key_value_heads; g++) {
            int64_t pair = (spread ? 0 : n * key_value_heads) + g;
            pack_across(key + pair * area, &s, room);
            pack_rows(value + pair * area, &s, values);
            for (int64_t h = pair * sharing; h < (pair + 1) * sharing; h++)
                for (int64_t first = own; first < s.length; first += group)
                    forward_group(&s, &f, first, lesser(group, s.length - first), query + h * area,
                                  out + h * area, log_total + h * tokens);
        }
    }
}

/* d_key and d_value must hold zeros, or what is to be added to. */
void attention_float32_backward(const float *query, const float *key, const float *value,
                                const float *d_out, const float *out, const float *log_total,
                                const int64_t *spread, const int64_t *lengths,
                                const int64_t *firsts, const int64_t *documents, int64_t sequences,
                                int64_t heads, int64_t key_value_heads, int64_t tokens,
                                int64_t longest, int64_t width, int64_t group, float scale,
                                float *room, int32_t *begins, float *d_query, float *d_key,
                                float *d_value) {
    int64_t area = tokens * width, sharing = heads / key_value_heads;
    for (int64_t n = 0; n < sequences; n++) {
        Shape s = shape_of(n, spread, lengths, documents, longest, width, scale, begins);
        int64_t own = firsts ? firsts[n] : 0, panel = rounded(s.length, COLUMNS) * width;
        float *rows = room + 5 * panel, *tiles = rows + 3 * group * width;
        float *places = tiles + 2 * group * COLUMNS;
        Backward b = {.keys = room,
                      .key_rows = room + panel,
                      .values = room + 2 * panel,
                      .d_key = room + 3 * panel,
                      .d_value = room + 4 * panel,
                      .query = rows,
                      .d_out = rows + group * width,
                      .d_query = rows + 2 * group * width,
                      .shares = tiles,
                      .slopes = tiles + group * COLUMNS,
                      .totals = places,
                      .dots = places + group};
        for (int64_t g = 0; own < s.length && g < key_value_heads; g++) {
            int64_t pair = (spread ? 0 : n * key_value_heads) + g;
            pack_across(key + pair * area, &s, room);
            pack_rows(key + pair * area, &s, room + panel);
            pack_across(value + pair * area, &s, room + 2 * panel);
            memset(b.d_key, 0, 2 * panel * sizeof(float));
            for (int64_t h = pair * sharing; h < (pair + 1) * sharing; h++)
                for (int64_t first = own; first < s.length; first += group)
                    backward_group(&s, &b, first, lesser(group, s.length - first),
                                   query + h * area, d_out + h * area, out + h * area,
                                   log_total + h * tokens, d_query + h * area);
            add_rows(b.d_key, &s, d_key + pair * area);
            add_rows(b.d_value, &s, d_value + pair * area);
        }
    }
}

#endif
