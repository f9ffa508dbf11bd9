/* Products of float32 matrices: tiles, and the packing of their factors.

   A panel is PANEL columns of the right factor, row after row. Sums are made in the order of the
   summed axis, whatever the number of rows. */

#ifndef ISOFLOP_PANELS_H
#define ISOFLOP_PANELS_H

#include "number.h"
#include "octet.h"

/* 6 rows x 2 vectors of sums, 2 of the panel, 1 of the left factor: 15 of 16 registers. */
#define TILE_ROWS 6
#define PANEL (2 * LANES)
/* Summed at a time: a panel of it, 16 KiB, is half of the nearest cache. */
#define DEPTH 256
/* Columns packed at a time, 256 KiB, and rows that meet them: both fit in the next cache. */
#define CHUNK 256
#define BLOCK 72
/* Room for the numbers of a tile's rows side by side. */
#define LEFT 8

/* What a row of tiles has in common. */
typedef struct {
    Left left;
    const float *panel;
    int64_t count; /* of the summed axis */
    int add;
    float *out; /* rows out_step apart */
    int64_t out_step, columns;
} Tiles;

static inline __attribute__((always_inline)) void product_tile(const Tiles *t, int64_t first,
                                                               const int rows) {
    lanes sums[TILE_ROWS][2];
    float *out = t->out + first * t->out_step, edge[PANEL];
    int whole = t->columns >= PANEL;
    int64_t columns = lesser(t->columns, PANEL);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        sums[i][0] = sums[i][1] = (lanes){0};
        if (!t->add) continue;
        const float *from = out + i * t->out_step;
        if (!whole) from = memcpy(edge, from, columns * sizeof *edge);
        sums[i][0] = floats(from);
        sums[i][1] = floats(from + LANES);
    }
    const float *left = t->left.at + first * t->left.row, *panel = t->panel;
    int64_t row = t->left.row, step = t->left.step;
    for (int64_t k = 0; k < t->count; k++, left += step, panel += PANEL) {
        lanes right0 = floats(panel), right1 = floats(panel + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            float one = left[i * row];
            sums[i][0] += one * right0;
            sums[i][1] += one * right1;
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        float *to = whole ? out + i * t->out_step : edge;
        put(to, sums[i][0]);
        put(to + LANES, sums[i][1]);
        if (!whole) memcpy(out + i * t->out_step, edge, columns * sizeof *edge);
    }
}

/* Rows of a tile, as equal as can be: few rows cost as much as many. */
static inline int64_t tile_rows(int64_t rows) {
    int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    return tiles ? (rows + tiles - 1) / tiles : 1;
}

/* `rows` rows in tiles of `most` with all panels of t->columns columns. A panel stays near while
   the rows meet it. left_tile: from a tile's left factor to the next one's. */
static inline void sweep(Tiles t, int64_t rows, int64_t most, int64_t left_tile) {
    for (; t.columns > 0; t.columns -= PANEL, t.panel += t.count * PANEL, t.out += PANEL) {
        Tiles one = t;
        for (int64_t first = 0; first < rows; first += most) {
            one.left.at = t.left.at + first / most * left_tile;
            one.out = t.out + first * t.out_step;
            switch (lesser(most, rows - first)) {
            case 1: product_tile(&one, 0, 1); break;
            case 2: product_tile(&one, 0, 2); break;
            case 3: product_tile(&one, 0, 3); break;
            case 4: product_tile(&one, 0, 4); break;
            case 5: product_tile(&one, 0, 5); break;
            default: product_tile(&one, 0, 6); break;
            }
        }
    }
}

/* Panels of w (count, width); zeros behind the last column. */
static void pack_rows(const float *w, int64_t count, int64_t width, int64_t columns, float *panels) {
    for (int64_t k = 0; k < count; k++) {
        const float *from = w + k * width;
        int64_t c = 0;
        for (; c + PANEL <= columns; c += PANEL) {
            float *to = panels + c * count + k * PANEL;
            put(to, floats(from + c));
            put(to + LANES, floats(from + c + LANES));
        }
        if (c == columns) continue;
        float *to = panels + c * count + k * PANEL;
        memset(to, 0, PANEL * sizeof *to);
        memcpy(to, from + c, (columns - c) * sizeof *to);
    }
}

/* Panels of the transpose of w (columns, depth), `count` of its depth. */
static void pack_columns(const float *w, int64_t count, int64_t depth, int64_t columns,
                         float *panels) {
    int64_t whole = count / LANES * LANES;
    for (int64_t c = 0; c < rounded(columns, PANEL); c += LANES) {
        float *panel = panels + c / PANEL * PANEL * count + c % PANEL;
        for (int64_t k = 0; k < whole; k += LANES) {
            lanes part[LANES];
            for (int64_t i = 0; i < LANES; i++)
                part[i] = c + i < columns ? floats(w + (c + i) * depth + k) : (lanes){0};
            transpose(part);
            for (int64_t i = 0; i < LANES; i++) put(panel + (k + i) * PANEL, part[i]);
        }
        for (int64_t k = whole; k < count; k++)
            for (int64_t i = 0; i < LANES; i++)
                panel[k * PANEL + i] = c + i < columns ? w[(c + i) * depth + k] : 0.0f;
    }
}

/* `rows` columns of x (count, depth) from column `from` on as tiles of `most`, LEFT numbers apart
   along the summed axis, so that each tile reads on. What stands behind a tile's own is not used. */
static void pack_left(const float *x, int64_t count, int64_t depth, int64_t from, int64_t rows,
                      int64_t most, float *left) {
    x += from;
    for (int64_t k = 0; k < count; k++, x += depth, left += LEFT) {
        float *to = left;
        int64_t i = 0;
        for (; i < rows && from + i + LEFT <= depth; i += most, to += count * LEFT)
            memcpy(to, x + i, LEFT * sizeof *to);
        for (; i < rows; i += most, to += count * LEFT)
            for (int64_t j = 0; j < lesser(most, rows - i); j++) to[j] = x[i + j];
    }
}

#endif
