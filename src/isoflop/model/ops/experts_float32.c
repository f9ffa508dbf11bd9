/* SwiGLU experts of one layer in float32, from tokens to the weighted sum of their answers.

   Some rows of one expert at a time go all the way, so that what lies between the products stays
   in the cache: gathered rows, activations, answers and their gradients are never written to
   memory. Kept for the backward pass are gates and ups alone. Called through experts.py.

   Names as in reference.py. A row is a (token, chosen expert) pair; rows of expert e are
   ends[e - 1] .. ends[e], of row r choices[r] = token x top_k + place. A token's answers are added
   in the order of its experts. Room that callers give, in floats, padded = rounded up to PANEL:
       forward   width x padded 2 hidden + hidden x padded width + block x (2 width + 3 hidden)
       backward  2 hidden x padded width + width x padded hidden + block x (3 width + 4 hidden)
                 + block x padded (the larger of 2 hidden and width) + block x BLOCK / TILE_ROWS x LEFT
   block is at most DEPTH. */

#include "panels.h"

#if !COMPUTE_BFLOAT16

typedef struct {
    const float *x, *weights, *gate_up, *down;
    const int64_t *choices;
    int64_t top_k, width, hidden;
} Layer;

/* Panels of all of w (depth, width), or of the transpose of w (width, depth). */
static void pack_matrix(const float *w, int64_t depth, int64_t width, int transposed,
                        float *panels) {
    for (int64_t k = 0; k < depth; k += DEPTH) {
        int64_t count = lesser(DEPTH, depth - k);
        float *to = panels + k * rounded(width, PANEL);
        if (transposed)
            pack_columns(w + k, count, depth, width, to);
        else
            pack_rows(w + k * width, count, width, width, to);
    }
}

/* out (rows, width) = left (rows, depth) times a packed matrix. */
static void multiply(const float *left, int64_t rows, int64_t depth, int64_t width,
                     const float *panels, float *out) {
    int64_t most = tile_rows(rows);
    for (int64_t k = 0; k < depth; k += DEPTH) {
        Tiles t = {.left = {left + k, depth, 1},
                   .panel = panels + k * rounded(width, PANEL),
                   .count = lesser(DEPTH, depth - k),
                   .add = k > 0,
                   .out = out,
                   .out_step = width,
                   .columns = width};
        sweep(t, rows, most, most * depth);
    }
}

/* out (depth, width) = or += the sum over `rows` rows of x (depth) times y (width). */
static void add_outer(const float *x, const float *y, int64_t rows, int64_t depth, int64_t width,
                      int add, float *left, float *panels, float *out) {
    pack_rows(y, rows, width, width, panels);
    for (int64_t i = 0; i < depth; i += BLOCK) {
        int64_t part = lesser(BLOCK, depth - i), most = tile_rows(part);
        pack_left(x, rows, depth, i, part, most, left);
        Tiles t = {.left = {left, 1, LEFT},
                   .panel = panels,
                   .count = rows,
                   .add = add,
                   .out = out + i * width,
                   .out_step = width,
                   .columns = width};
        sweep(t, part, most, LEFT * rows);
    }
}

/* Each row's token's vector. */
static void gather(const Layer *l, const float *x, int64_t first, int64_t rows, float *out) {
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * l->width, x + l->choices[first + r] / l->top_k * l->width,
               l->width * sizeof *x);
}

/* Each row, times its weight if there are weights, is added to its token's vector. */
static void scatter(const Layer *l, const float *rows_in, const float *weights, int64_t first,
                    int64_t rows, float *out) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t choice = l->choices[first + r];
        const float *from = rows_in + r * l->width;
        float *to = out + choice / l->top_k * l->width, weight = weights ? weights[choice] : 1.0f;
#pragma omp simd
        for (int64_t i = 0; i < l->width; i++) to[i] += weight * from[i];
    }
}

static void activate(const float *gate_up, int64_t rows, int64_t hidden, float *out) {
    for (int64_t r = 0; r < rows; r++, out += hidden) {
        const float *gate = gate_up + r * 2 * hidden, *up = gate + hidden;
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++)
            out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
    }
}

/* inner (rows, 2 hidden), gates and ups, may be null; out must hold zeros. */
void experts_forward(const float *x, const float *weights, const float *gate_up, const float *down,
                     const int64_t *choices, const int32_t *ends, int64_t num_experts,
                     int64_t top_k, int64_t width, int64_t hidden, int64_t block, float *room,
                     float *inner, float *out) {
    Layer l = {x, weights, gate_up, down, choices, top_k, width, hidden};
    float *first_panels = room, *second_panels = room + width * rounded(2 * hidden, PANEL);
    float *taken = second_panels + hidden * rounded(width, PANEL);
    float *answers = taken + block * width, *active = answers + block * width;
    float *own = active + block * hidden;
    for (int64_t e = 0; e < num_experts; e++) {
        int64_t start = e ? ends[e - 1] : 0;
        if (start == ends[e]) continue;
        pack_matrix(gate_up + e * width * 2 * hidden, width, 2 * hidden, 0, first_panels);
        pack_matrix(down + e * hidden * width, hidden, width, 0, second_panels);
        for (int64_t first = start; first < ends[e]; first += block) {
            int64_t rows = lesser(block, ends[e] - first);
            float *wide = inner ? inner + first * 2 * hidden : own;
            gather(&l, x, first, rows, taken);
            multiply(taken, rows, width, 2 * hidden, first_panels, wide);
            activate(wide, rows, hidden, active);
            multiply(active, rows, hidden, width, second_panels, answers);
            scatter(&l, answers, weights, first, rows, out);
        }
    }
}

/* d_active (rows, hidden), of answers before their weight, gives d_wide (rows, 2 hidden), the
   activations times their weight, and d_weights. */
static void activate_backward(const Layer *l, const float *wide, const float *d_active,
                              int64_t first, int64_t rows, float *active, float *d_wide,
                              float *d_weights) {
    int64_t hidden = l->hidden;
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = wide + r * 2 * hidden, *up = gate + hidden;
        const float *slope = d_active + r * hidden;
        float *d_gate = d_wide + r * 2 * hidden, *d_up = d_gate + hidden;
        float *weighted = active + r * hidden;
        float weight = l->weights[l->choices[first + r]], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < hidden; i++) {
            float g = gate[i], sigmoid = 1.0f / (1.0f + exponential(-g));
            float silu = g * sigmoid, value = silu * up[i], own = weight * slope[i];
            dot += value * slope[i];
            weighted[i] = weight * value;
            d_up[i] = own * silu;
            d_gate[i] = own * up[i] * (sigmoid + silu * (1.0f - sigmoid));
        }
        d_weights[l->choices[first + r]] = dot;
    }
}

/* d_x must hold zeros. */
void experts_backward(const float *x, const float *weights, const float *gate_up, const float *down,
                      const int64_t *choices, const int32_t *ends, int64_t num_experts,
                      int64_t top_k, int64_t width, int64_t hidden, int64_t block,
                      const float *inner, const float *d_out, float *room, float *d_x,
                      float *d_weights, float *d_gate_up, float *d_down) {
    Layer l = {x, weights, gate_up, down, choices, top_k, width, hidden};
    int64_t matrix = width * 2 * hidden, larger_width = 2 * hidden > width ? 2 * hidden : width;
    float *first_panels = room, *second_panels = room + 2 * hidden * rounded(width, PANEL);
    float *taken = second_panels + width * rounded(hidden, PANEL);
    float *d_taken = taken + block * width, *d_answers = d_taken + block * width;
    float *active = d_answers + block * width, *d_active = active + block * hidden;
    float *d_wide = d_active + block * hidden, *panels = d_wide + block * 2 * hidden;
    float *left = panels + block * rounded(larger_width, PANEL);
    for (int64_t e = 0; e < num_experts; e++, d_gate_up += matrix, d_down += matrix / 2) {
        int64_t start = e ? ends[e - 1] : 0;
        if (start == ends[e]) {
            memset(d_gate_up, 0, matrix * sizeof *d_gate_up);
            memset(d_down, 0, matrix / 2 * sizeof *d_down);
            continue;
        }
        pack_matrix(gate_up + e * matrix, 2 * hidden, width, 1, first_panels);
        pack_matrix(down + e * matrix / 2, width, hidden, 1, second_panels);
        for (int64_t first = start; first < ends[e]; first += block) {
            int64_t rows = lesser(block, ends[e] - first);
            gather(&l, d_out, first, rows, d_answers);
            multiply(d_answers, rows, width, hidden, second_panels, d_active);
            activate_backward(&l, inner + first * 2 * hidden, d_active, first, rows, active, d_wide,
                              d_weights);
            add_outer(active, d_answers, rows, hidden, width, first > start, left, panels, d_down);
            gather(&l, x, first, rows, taken);
            add_outer(taken, d_wide, rows, width, 2 * hidden, first > start, left, panels,
                      d_gate_up);
            multiply(d_wide, rows, 2 * hidden, width, first_panels, d_taken);
            scatter(&l, d_taken, 0, first, rows, d_x);
        }
    }
}

#endif
