/* Matrix products of bfloat16 rows with float32 weights, expert by expert.

   Why not the BLAS: oneDNN compiles a kernel for every new number of rows, and an expert's
   number of rows is new in every step; and weights need no bfloat16 copy when they are rounded
   on their way into the cache. Called through products.py.

   Rows of expert e are ends[e - 1] .. ends[e]. */

#include "tile.h"

int64_t tiles_available(void) { return HAS_TILES; }

/* Whether the processor has a unit for whole matrices too, which PyTorch's products use. */
#ifdef __AMX_BF16__
int64_t matrix_unit_available(void) { return 1; }
#else
int64_t matrix_unit_available(void) { return 0; }
#endif

#if HAS_TILES

/* The part of the weights (experts, rows, width) that follows columns `column` of expert e. */
static Ahead next_columns(const float *w, int64_t e, int64_t num_experts, int64_t rows,
                          int64_t width, int64_t column) {
    int64_t next = column + CHUNK;
    if (next >= width) {
        next = 0;
        w += rows * width;
        if (e + 1 == num_experts) return (Ahead){0};
    }
    return (Ahead){.start = (const char *)(w + next),
                   .rows = rows,
                   .bytes = least(CHUNK, width - next) * (int64_t)sizeof *w,
                   .step = width * (int64_t)sizeof *w};
}

/* The same where the columns of the product are the rows of w (experts, width, depth). */
static Ahead next_rows(const float *w, int64_t e, int64_t num_experts, int64_t depth,
                       int64_t width, int64_t column) {
    int64_t next = column + CHUNK;
    if (next >= width) {
        next = 0;
        w += depth * width;
        if (e + 1 == num_experts) return (Ahead){0};
    }
    return (Ahead){.start = (const char *)(w + next * depth),
                   .rows = least(CHUNK, width - next),
                   .bytes = depth * (int64_t)sizeof *w,
                   .step = depth * (int64_t)sizeof *w};
}

/* out (rows, width) = x (rows, depth) times each expert's w: (depth, width), or (width, depth)
   if transposed. depth is even. panels: room for PAIRS x CHUNK; sums: for rows x CHUNK. */
void grouped_product(const uint16_t *x, const float *w, const int32_t *ends, int64_t num_experts,
                     int64_t depth, int64_t width, int64_t transposed, uint32_t *panels,
                     float *sums, uint16_t *out) {
    for (int64_t e = 0; e < num_experts; e++, w += depth * width) {
        int64_t first = e ? ends[e - 1] : 0, rows = ends[e] - first;
        if (rows == 0) continue;
        for (int64_t column = 0; column < width; column += CHUNK) {
            int64_t columns = width - column < CHUNK ? width - column : CHUNK;
            for (int64_t p = 0; p < depth / 2; p += PAIRS) {
                int64_t pairs = depth / 2 - p < PAIRS ? depth / 2 - p : PAIRS;
                if (transposed)
                    pack_columns(w + column * depth + 2 * p, pairs, depth, columns, panels);
                else
                    pack_rows(w + 2 * p * width + column, pairs, width, columns, panels);
                Tile t = {.left = (const uint32_t *)(x + first * depth) + p,
                          .row_step = depth / 2,
                          .pair_step = 1,
                          .panel = panels,
                          .pairs = pairs,
                          .wide = sums,
                          .wide_step = CHUNK,
                          .add = p > 0,
                          .narrow = p + pairs < depth / 2 ? 0 : out + first * width + column,
                          .narrow_step = width,
                          .columns = columns};
                if (p == 0)
                    t.ahead = transposed ? next_rows(w, e, num_experts, depth, width, column)
                                         : next_columns(w, e, num_experts, depth, width, column);
                sweep(&t, rows);
            }
        }
    }
}

/* out (experts, depth, width) = the sum over an expert's rows of x (depth) times y (width).
   left: room for PAIRS x (depth + ROWS), panels: for PAIRS x CHUNK. */
void grouped_weight_gradient(const uint16_t *x, const uint16_t *y, const int32_t *ends,
                             int64_t num_experts, int64_t depth, int64_t width, uint32_t *left,
                             uint32_t *panels, float *out) {
    int64_t block = tile_rows(depth);
    for (int64_t e = 0; e < num_experts; e++, out += depth * width) {
        int64_t first = e ? ends[e - 1] : 0, last = ends[e];
        if (first == last) memset(out, 0, depth * width * sizeof *out);
        for (int64_t row = first; row < last; row += 2 * PAIRS) {
            int64_t rows = last - row < 2 * PAIRS ? last - row : 2 * PAIRS;
            int64_t pairs = (rows + 1) / 2;
            pack_left(x + row * depth, rows, depth, depth, block, left);
            for (int64_t column = 0; column < width; column += CHUNK) {
                int64_t columns = width - column < CHUNK ? width - column : CHUNK;
                pack_narrow_rows(y + row * width + column, rows, width, columns, panels);
                for (int64_t i = 0; i < depth; i += block) {
                    Tile t = {.left = left + i * pairs,
                              .row_step = 1,
                              .pair_step = block,
                              .panel = panels,
                              .pairs = pairs,
                              .wide = out + i * width + column,
                              .wide_step = width,
                              .add = row > first,
                              .columns = columns};
                    sweep(&t, depth - i < block ? depth - i : block);
                }
            }
        }
    }
}

#endif
