/* Matrix products of float32 rows with float32 weights, expert by expert.

   Why not the BLAS: it is called once an expert, each time with few rows, and reaches half of what
   the processor can do there (docs/log.md, 2026-11-26). Only where that was measured: on processors
   with vectors of eight, and on those of AMD's families 19h and 1Ah (Zen 3, 4 and 5), for which
   PyTorch's BLAS has no products with vectors of sixteen; elsewhere float32_tiles_available() is 0
   and PyTorch's products are used. Called through products.py.

   Rows of expert e are ends[e - 1] .. ends[e]. */

#include "panels.h"

#if !COMPUTE_BFLOAT16

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
int64_t float32_tiles_available(void) { return 1; }
#elif defined(__AVX512F__) && defined(__x86_64__)
#include <cpuid.h>
int64_t float32_tiles_available(void) {
    unsigned eax, ebx, ecx, edx, vendor[3];
    if (!__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1])) return 0;
    if (memcmp(vendor, "AuthenticAMD", 12) || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    unsigned family = ((eax >> 8) & 15) + ((eax >> 20) & 255);
    return family == 0x19 || family == 0x1a;
}
#else
int64_t float32_tiles_available(void) { return 0; }
#endif

/* out (rows, width) = x (rows, depth) times each expert's w: (depth, width), or (width, depth) if
   transposed. panels: room for DEPTH x CHUNK. */
void grouped_product_float32(const float *x, const float *w, const int32_t *ends,
                             int64_t num_experts, int64_t depth, int64_t width, int64_t transposed,
                             float *panels, float *out) {
    for (int64_t e = 0; e < num_experts; e++, w += depth * width) {
        int64_t first = e ? ends[e - 1] : 0, last = ends[e];
        if (first == last) continue;
        for (int64_t column = 0; column < width; column += CHUNK) {
            int64_t columns = lesser(CHUNK, width - column);
            for (int64_t k = 0; k < depth; k += DEPTH) {
                int64_t count = lesser(DEPTH, depth - k);
                if (transposed)
                    pack_columns(w + column * depth + k, count, depth, columns, panels);
                else
                    pack_rows(w + k * width + column, count, width, columns, panels);
                for (int64_t row = first; row < last; row += BLOCK) {
                    int64_t rows = lesser(BLOCK, last - row), most = tile_rows(rows);
                    Tiles t = {.left = {x + row * depth + k, depth, 1},
                               .panel = panels,
                               .count = count,
                               .add = k > 0,
                               .out = out + row * width + column,
                               .out_step = width,
                               .columns = columns};
                    sweep(t, rows, most, most * depth);
                }
            }
        }
    }
}

/* out (experts, depth, width) = or += the sum over an expert's rows of x (depth) times y (width).
   left: room for DEPTH x BLOCK / TILE_ROWS x LEFT, panels: for DEPTH x CHUNK. */
void grouped_weight_gradient_float32(const float *x, const float *y, const int32_t *ends,
                                     int64_t num_experts, int64_t depth, int64_t width, int64_t add,
                                     float *left, float *panels, float *out) {
    for (int64_t e = 0; e < num_experts; e++, out += depth * width) {
        int64_t first = e ? ends[e - 1] : 0, last = ends[e];
        if (first == last && !add) memset(out, 0, depth * width * sizeof *out);
        for (int64_t row = first; row < last; row += DEPTH) {
            int64_t count = lesser(DEPTH, last - row);
            for (int64_t column = 0; column < width; column += CHUNK) {
                int64_t columns = lesser(CHUNK, width - column);
                pack_rows(y + row * width + column, count, width, columns, panels);
                for (int64_t i = 0; i < depth; i += BLOCK) {
                    int64_t rows = lesser(BLOCK, depth - i), most = tile_rows(rows);
                    pack_left(x + row * depth, count, depth, i, rows, most, left);
                    Tiles t = {.left = {left, 1, LEFT},
                               .panel = panels,
                               .count = count,
                               .add = add || row > first,
                               .out = out + i * width + column,
                               .out_step = width,
                               .columns = columns};
                    sweep(t, rows, most, LEFT * count);
                }
            }
        }
    }
}

#endif
