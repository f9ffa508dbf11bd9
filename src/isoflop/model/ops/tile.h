/* One tile of a bfloat16 matrix product, and the packing of its factors.

   Only for x86 with AVX512_BF16: elsewhere HAS_TILES is 0 and PyTorch's products are used. Where
   the processor has AMX too, products.py chooses by the product's size.

   Two neighbours along the summed axis make one "pair" of 32 bits, which the processor
   multiplies and adds at once. A "panel" is COLUMNS columns of the right factor, pair after
   pair. Sums are float32. */

#ifndef ISOFLOP_TILE_H
#define ISOFLOP_TILE_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define HAS_TILES 1
#include <immintrin.h>

#define COLUMNS 32
/* 12 rows x 2 registers of columns, 2 of the panel, 1 of the left factor: 27 of 32 registers. */
#define ROWS 12
/* Pairs summed at a time, and columns packed at a time: 256 KiB stay close to the processor. */
#define PAIRS 256
#define CHUNK 256

/* Bytes of a cache line, and how many are fetched ahead at most: half of a cache of 1 MiB. */
#define LINE 64
#define MOST_LINES 8192

#define INLINE static inline __attribute__((always_inline))

/* What will be read next: `rows` of `bytes`, `step` bytes apart. */
typedef struct {
    const char *start;
    int64_t rows, bytes, step;
} Ahead;

typedef struct {
    const uint32_t *left; /* pair (row, p) at row * row_step + p * pair_step */
    int64_t row_step, pair_step;
    const uint32_t *panel;
    int64_t pairs;
    float *wide; /* begin from the sums here if `add` */
    int64_t wide_step;
    int add;
    uint16_t *narrow; /* store here, or into wide if null */
    int64_t narrow_step;
    int64_t columns;
    Ahead ahead; /* brought near between the tiles: weights come from memory, which is slow */
} Tile;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE __mmask16 mask(int64_t count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1u);
}

INLINE void tile(const Tile *t, int64_t first, const int rows) {
    __m512 sums[ROWS][2];
    __mmask16 low = mask(t->columns), high = mask(t->columns - 16);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
        if (t->add) {
            const float *at = t->wide + (first + r) * t->wide_step;
            sums[r][0] = _mm512_maskz_loadu_ps(low, at);
            sums[r][1] = _mm512_maskz_loadu_ps(high, at + 16);
        }
    }
    const uint32_t *left = t->left + first * t->row_step;
    for (int64_t p = 0; p < t->pairs; p++) {
        __m512bh right0 = (__m512bh)_mm512_loadu_si512(t->panel + p * COLUMNS);
        __m512bh right1 = (__m512bh)_mm512_loadu_si512(t->panel + p * COLUMNS + 16);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            uint32_t pair = left[r * t->row_step + p * t->pair_step];
            __m512bh both = (__m512bh)_mm512_set1_epi32((int)pair);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], both, right0);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], both, right1);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        if (t->narrow) {
            uint16_t *at = t->narrow + (first + r) * t->narrow_step;
            _mm256_mask_storeu_epi16(at, low, (__m256i)_mm512_cvtneps_pbh(sums[r][0]));
            _mm256_mask_storeu_epi16(at + 16, high, (__m256i)_mm512_cvtneps_pbh(sums[r][1]));
        } else {
            float *at = t->wide + (first + r) * t->wide_step;
            _mm512_mask_storeu_ps(at, low, sums[r][0]);
            _mm512_mask_storeu_ps(at + 16, high, sums[r][1]);
        }
    }
}

/* Tiles of one panel, `most` rows each: as equal as can be, for few rows cost as much as many. */
static inline int64_t tile_rows(int64_t rows) {
    int64_t tiles = (rows + ROWS - 1) / ROWS;
    return (rows + tiles - 1) / tiles;
}

/* All rows with panels of t->columns columns, which lie pairs x COLUMNS apart. A tile's rows meet
   all panels before the next rows do: what is stored then lies side by side. */
static inline void sweep(const Tile *t, int64_t rows) {
    int64_t most = tile_rows(rows), line = 0;
    int64_t lines = (t->ahead.bytes + LINE - 1) / LINE, all = least(t->ahead.rows * lines, MOST_LINES);
    int64_t tiles = (rows + most - 1) / most * ((t->columns + COLUMNS - 1) / COLUMNS);
    int64_t share = tiles ? (all + tiles - 1) / tiles : 0;
    for (int64_t first = 0; first < rows; first += most) {
        Tile one = *t;
        for (; one.columns > 0; one.columns -= COLUMNS) {
            switch (rows - first < most ? rows - first : most) {
            case 1: tile(&one, first, 1); break;
            case 2: tile(&one, first, 2); break;
            case 3: tile(&one, first, 3); break;
            case 4: tile(&one, first, 4); break;
            case 5: tile(&one, first, 5); break;
            case 6: tile(&one, first, 6); break;
            case 7: tile(&one, first, 7); break;
            case 8: tile(&one, first, 8); break;
            case 9: tile(&one, first, 9); break;
            case 10: tile(&one, first, 10); break;
            case 11: tile(&one, first, 11); break;
            default: tile(&one, first, 12); break;
            }
            for (int64_t end = least(line + share, all); line < end; line++)
                _mm_prefetch(t->ahead.start + line / lines * t->ahead.step + line % lines * LINE,
                             _MM_HINT_T1);
            one.panel += one.pairs * COLUMNS;
            one.wide = one.wide ? one.wide + COLUMNS : 0;
            one.narrow = one.narrow ? one.narrow + COLUMNS : 0;
        }
    }
}

INLINE __m512i join(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

INLINE __m256i round16(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

/* Panels of w (2 x pairs, width): pairs lie across two rows. Rows are read on, not panel by
   panel: weights come from memory, which is slow at jumping. */
static inline void pack_rows(const float *w, int64_t pairs, int64_t width, int64_t columns,
                             uint32_t *panels) {
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t c = 0; c < columns; c += 16) {
            __mmask16 here = mask(columns - c);
            const float *at = w + 2 * p * width + c;
            __m256i first = round16(_mm512_maskz_loadu_ps(here, at));
            __m256i second = round16(_mm512_maskz_loadu_ps(here, at + width));
            uint32_t *to = panels + (c / COLUMNS * pairs + p) * COLUMNS + c % COLUMNS;
            _mm512_storeu_si512(to, join(first, second));
        }
}

/* The same of bfloat16 values; `rows` may be odd: the last pair is filled with zeros. */
static inline void pack_narrow_rows(const uint16_t *x, int64_t rows, int64_t width,
                                    int64_t columns, uint32_t *panels) {
    int64_t pairs = (rows + 1) / 2;
    for (int64_t row = 0; row < rows; row += 2)
        for (int64_t c = 0; c < columns; c += 16) {
            __mmask16 here = mask(columns - c);
            const uint16_t *at = x + row * width + c;
            __m256i first = _mm256_maskz_loadu_epi16(here, at), second = _mm256_setzero_si256();
            if (row + 1 < rows) second = _mm256_maskz_loadu_epi16(here, at + width);
            uint32_t *to = panels + (c / COLUMNS * pairs + row / 2) * COLUMNS + c % COLUMNS;
            _mm512_storeu_si512(to, join(first, second));
        }
}

/* Sixteen rows of sixteen pairs become sixteen pairs of sixteen rows. */
INLINE void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Panels of the transpose of w (columns, depth), of which 2 x pairs: pairs lie within a row. */
static inline void pack_columns(const float *w, int64_t pairs, int64_t depth, int64_t columns,
                                uint32_t *panels) {
    for (int64_t c = 0; c < columns; c += 16)
        for (int64_t p = 0; p < pairs; p += 16) {
            __m512i rows[16];
            __mmask16 low = mask(2 * (pairs - p)), high = mask(2 * (pairs - p) - 16);
            for (int64_t i = 0; i < 16; i++) {
                const float *at = w + (c + i) * depth + 2 * p;
                rows[i] = _mm512_setzero_si512();
                if (c + i < columns)
                    rows[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, at + 16),
                                                           _mm512_maskz_loadu_ps(low, at));
            }
            transpose(rows);
            for (int64_t i = 0; i < 16 && p + i < pairs; i++)
                _mm512_storeu_si512(panels + (c / COLUMNS * pairs + p + i) * COLUMNS + c % COLUMNS,
                                    rows[i]);
        }
}

/* A panel of the transpose of x (columns, depth) in bfloat16: pairs lie within a row. */
static inline void pack_narrow_columns(const uint16_t *x, int64_t pairs, int64_t depth, int64_t columns,
                                uint32_t *panel) {
    for (int64_t half = 0; half < COLUMNS; half += 16)
        for (int64_t p = 0; p < pairs; p += 16) {
            __m512i rows[16];
            __mmask16 here = mask(pairs - p);
            for (int64_t i = 0; i < 16; i++)
                rows[i] = half + i < columns
                              ? _mm512_maskz_loadu_epi32(here, x + (half + i) * depth + 2 * p)
                              : _mm512_setzero_si512();
            transpose(rows);
            for (int64_t i = 0; i < 16 && p + i < pairs; i++)
                _mm512_storeu_si512(panel + (p + i) * COLUMNS + half, rows[i]);
        }
}

/* Pairs of two neighbouring rows of x (rows, depth), `step` apart, in blocks as wide as a tile is high: each tile reads on. */
static inline void pack_left(const uint16_t *x, int64_t rows, int64_t step, int64_t depth,
                             int64_t block, uint32_t *left) {
    for (int64_t row = 0; row < rows; row += 2) {
        const uint16_t *at = x + row * step;
        for (int64_t i = 0; i < depth; i += block) {
            __mmask16 here = mask(depth - i < block ? depth - i : block);
            __m256i first = _mm256_maskz_loadu_epi16(here, at + i), second = _mm256_setzero_si256();
            if (row + 1 < rows) second = _mm256_maskz_loadu_epi16(here, at + step + i);
            uint32_t *to = left + i * ((rows + 1) / 2) + row / 2 * block;
            _mm512_mask_storeu_epi32(to, here, join(first, second));
        }
    }
}

#else
#define HAS_TILES 0
#endif
#endif
