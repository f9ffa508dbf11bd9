/* What stands between the matrix products of a layer, each in one pass over memory.

   Compiled by build.py, called through native.py; isoflop.model.ops.reference defines every
   function and tests hold this file against it.

   All arrays are contiguous, rows first. Names as in reference.py; d_<name> is the gradient
   of the objective by <name>. */

#include "number.h"

/* ---- residual stream and norm ---- */

void add_norm_forward(const float *x, const number *delta, const float *weight, float epsilon,
                      int64_t rows, int64_t width, float *sum, number *normed, float *scale) {
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * width;
        float *out = sum + row * width;
        number *result = normed + row * width;
        float squares = 0.0f;
        if (delta) {
            const number *add = delta + row * width;
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; i++) {
                float value = in[i] + load(add[i]);
                out[i] = value;
                squares += value * value;
            }
            in = out;
        } else {
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; i++) squares += in[i] * in[i];
        }
        float factor = 1.0f / sqrtf(squares / (float)width + epsilon);
        scale[row] = factor;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) result[i] = store(in[i] * factor * weight[i]);
    }
}

/* d_sum, the gradient of the residual stream from further on, may be null; d_delta too.
   d_weight must hold zeros. */
void add_norm_backward(const float *sum, const float *weight, const float *scale,
                       const number *d_normed, const float *d_sum, int64_t rows, int64_t width,
                       float *d_x, number *d_delta, float *d_weight) {
    for (int64_t row = 0; row < rows; row++) {
        const float *x = sum + row * width;
        const number *d_out = d_normed + row * width;
        float *d_in = d_x + row * width;
        float factor = scale[row], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++) {
            float slope = load(d_out[i]), unit = x[i] * factor;
            d_weight[i] += slope * unit;
            dot += slope * weight[i] * unit;
        }
        float mean = dot / (float)width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            d_in[i] = factor * (load(d_out[i]) * weight[i] - x[i] * factor * mean);
        if (d_sum) {
            const float *further = d_sum + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) d_in[i] += further[i];
        }
        if (d_delta) {
            number *d_add = d_delta + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) d_add[i] = store(d_in[i]);
        }
    }
}

/* ---- rotary positions ---- */

/* direction 1 turns forward, -1 back. Tables of a batch begin table_stride apart, 0: the same. */
static void turn(const number *in, number *out, const float *cosine, const float *sine,
                 float direction, int64_t half) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float first = load(in[i]), second = load(in[i + half]);
        out[i] = store(first * cosine[i] - direction * second * sine[i]);
        out[i + half] = store(second * cosine[i + half] + direction * first * sine[i + half]);
    }
}

void rotate_heads(int64_t backward, number *projected, number *query, number *key, number *value,
                  const float *cosine, const float *sine, int64_t table_stride, int64_t batch,
                  int64_t length, int64_t num_heads, int64_t key_value_heads, int64_t width) {
    int64_t all = num_heads + 2 * key_value_heads;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < length; t++)
            for (int64_t h = 0; h < all; h++) {
                number *whole = projected + ((b * length + t) * all + h) * width;
                const float *c = cosine + b * table_stride + t * width;
                const float *s = sine + b * table_stride + t * width;
                int64_t own = h < num_heads ? h : (h - num_heads) % key_value_heads;
                int64_t heads = h < num_heads ? num_heads : key_value_heads;
                number *base = h < num_heads ? query : h < num_heads + key_value_heads ? key : value;
                number *part = base + ((b * heads + own) * length + t) * width;
                if (base == value)
                    memcpy(backward ? whole : part, backward ? part : whole, width * sizeof(number));
                else if (backward)
                    turn(part, whole, c, s, -1.0f, width / 2);
                else
                    turn(whole, part, c, s, 1.0f, width / 2);
            }
}

/* ---- causal attention, some query positions at a time ---- */

/* Keys that position `query` may see are 0 .. query of its own document. */
static inline int sees(const int64_t *document, int64_t query, int64_t key) {
    return document[query] == document[key];
}

/* scores (heads, count, keys) become probabilities; queries start at position `first`. */
void attention_softmax(number *scores, const int64_t *documents, int64_t heads,
                       int64_t heads_per_sequence, int64_t length, int64_t first, int64_t count,
                       int64_t keys, float scale, float *row, float *log_total) {
    for (int64_t h = 0; h < heads; h++) {
        const int64_t *document = documents ? documents + (h / heads_per_sequence) * length : 0;
        for (int64_t q = 0; q < count; q++) {
            number *score = scores + (h * count + q) * keys;
            int64_t last = first + q + 1;
            float largest = -INFINITY, total = 0.0f;
            if (document) {
                for (int64_t i = 0; i < last; i++)
                    row[i] = sees(document, first + q, i) ? load(score[i]) * scale : -INFINITY;
            } else {
#pragma omp simd
                for (int64_t i = 0; i < last; i++) row[i] = load(score[i]) * scale;
            }
#pragma omp simd reduction(max : largest)
            for (int64_t i = 0; i < last; i++) largest = row[i] > largest ? row[i] : largest;
#pragma omp simd reduction(+ : total)
            for (int64_t i = 0; i < last; i++) {
                /* A position of another document counts for nothing, not for e^-87. */
                float power = row[i] == -INFINITY ? 0.0f : exponential(row[i] - largest);
                row[i] = power;
                total += power;
            }
            float share = 1.0f / total;
#pragma omp simd
            for (int64_t i = 0; i < last; i++) score[i] = store(row[i] * share);
            memset(score + last, 0, (keys - last) * sizeof(number));
            log_total[h * length + first + q] = largest + logf(total);
        }
    }
}

/* scores become probabilities, d_probabilities become d_scores. dots: sum of d_out x out. */
void attention_softmax_backward(number *scores, number *d_probabilities, const int64_t *documents,
                                const float *log_total, const float *dots, int64_t heads,
                                int64_t heads_per_sequence, int64_t length, int64_t first,
                                int64_t count, int64_t keys, float scale) {
    for (int64_t h = 0; h < heads; h++) {
        const int64_t *document = documents ? documents + (h / heads_per_sequence) * length : 0;
        for (int64_t q = 0; q < count; q++) {
            number *score = scores + (h * count + q) * keys;
            number *slope = d_probabilities + (h * count + q) * keys;
            int64_t last = first + q + 1;
            float total = log_total[h * length + first + q], dot = dots[h * length + first + q];
            if (document) {
                for (int64_t i = 0; i < last; i++)
                    if (!sees(document, first + q, i)) score[i] = store(-INFINITY);
            }
#pragma omp simd
            for (int64_t i = 0; i < last; i++) {
                float value = load(score[i]) * scale;
                float power = value == -INFINITY ? 0.0f : exponential(value - total);
                slope[i] = store(power * (load(slope[i]) - dot) * scale);
                score[i] = store(power);
            }
            memset(score + last, 0, (keys - last) * sizeof(number));
            memset(slope + last, 0, (keys - last) * sizeof(number));
        }
    }
}

void row_dots(const number *a, const number *b, int64_t rows, int64_t width, float *dots) {
    for (int64_t row = 0; row < rows; row++) {
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++) dot += load(a[row * width + i]) * load(b[row * width + i]);
        dots[row] = dot;
    }
}

/* ---- router ---- */

/* Whether a comes before b; a NaN comes before every number, so that it is chosen and seen. */
static inline int exceeds(float a, float b) { return b == b && !(a <= b); }

/* The k experts of largest logit, best first; of equals the first. Indices are distinct and
   valid whatever the logits, NaN included: later loops index memory with them. */
static void choose(const float *logit, int64_t num_experts, int64_t top_k, int64_t *chosen) {
    for (int64_t e = 0; e < num_experts; e++) {
        int64_t place = e < top_k ? e : top_k;
        while (place > 0 && exceeds(logit[e], logit[chosen[place - 1]])) {
            if (place < top_k) chosen[place] = chosen[place - 1];
            place--;
        }
        if (place < top_k) chosen[place] = e;
    }
}

/* probability_sum, counts and z_sum must hold zeros. counted may be null. given: experts holds
   the choices already. */
void route_forward(const float *logits, const uint8_t *counted, int64_t tokens, int64_t sequences,
                   int64_t num_experts, int64_t top_k, int64_t softmax_first, int64_t given,
                   int64_t *experts, float *weights, float *row, float *log_total, float *probability_sum,
                   int64_t *counts, double *z_sum) {
    int64_t length = sequences ? tokens / sequences : 0;
    for (int64_t t = 0; t < tokens; t++) {
        const float *logit = logits + t * num_experts;
        int64_t *chosen = experts + t * top_k, sequence = t / length;
        float *weight = weights + t * top_k, *sums = probability_sum + sequence * num_experts;
        if (!given) choose(logit, num_experts, top_k, chosen);
        float best = logit[chosen[0]], largest = best, total = 0.0f, chosen_total = 0.0f;
        if (given) {
            for (int64_t j = 1; j < top_k; j++)
                best = exceeds(logit[chosen[j]], best) ? logit[chosen[j]] : best;
            for (int64_t e = 0; e < num_experts; e++)
                largest = exceeds(logit[e], largest) ? logit[e] : largest;
        }
#pragma omp simd reduction(+ : total)
        for (int64_t e = 0; e < num_experts; e++) {
            float power = exponential(logit[e] - largest);
            row[e] = power;
            total += power;
        }
        for (int64_t j = 0; j < top_k; j++) {
            weight[j] = softmax_first ? row[chosen[j]] : exponential(logit[chosen[j]] - best);
            chosen_total += weight[j];
        }
        for (int64_t j = 0; j < top_k; j++) weight[j] /= softmax_first ? total : chosen_total;
        log_total[t] = largest + logf(total);
        if (counted && !counted[t]) continue;
        for (int64_t j = 0; j < top_k; j++) counts[sequence * num_experts + chosen[j]]++;
        float share = 1.0f / total;
#pragma omp simd
        for (int64_t e = 0; e < num_experts; e++) sums[e] += row[e] * share;
        *z_sum += (double)log_total[t] * log_total[t];
    }
}

/* d_weights may be null. */
void route_backward(const float *logits, const uint8_t *counted, const int64_t *experts,
                    const float *weights, const float *log_total, const float *d_weights,
                    const float *d_probability_sum, float d_z_sum, int64_t tokens,
                    int64_t sequences, int64_t num_experts, int64_t top_k, int64_t softmax_first,
                    float *row, float *d_logits) {
    int64_t length = sequences ? tokens / sequences : 0;
    for (int64_t t = 0; t < tokens; t++) {
        const float *logit = logits + t * num_experts;
        const float *slope = d_probability_sum + (t / length) * num_experts;
        const int64_t *chosen = experts + t * top_k;
        const float *weight = weights + t * top_k;
        const float *d_weight = d_weights ? d_weights + t * top_k : 0;
        float *d_logit = d_logits + t * num_experts;
        float counts = counted && !counted[t] ? 0.0f : 1.0f, dot = 0.0f, chosen_dot = 0.0f;
        float total = log_total[t], z_slope = counts * 2.0f * total * d_z_sum;
#pragma omp simd reduction(+ : dot)
        for (int64_t e = 0; e < num_experts; e++) {
            row[e] = exponential(logit[e] - total);
            dot += row[e] * slope[e];
        }
        dot *= counts;
        if (d_weight)
            for (int64_t j = 0; j < top_k; j++) chosen_dot += weight[j] * d_weight[j];
        if (softmax_first) dot += chosen_dot;
#pragma omp simd
        for (int64_t e = 0; e < num_experts; e++)
            d_logit[e] = row[e] * (counts * slope[e] - dot + z_slope);
        if (d_weight)
            for (int64_t j = 0; j < top_k; j++)
                d_logit[chosen[j]] += weight[j] * (d_weight[j] - (softmax_first ? 0.0f : chosen_dot));
    }
}

/* ---- to the experts and back ---- */

/* A stable counting sort. capacity 0: rows stand close together, else in blocks of capacity,
   and choices must hold -1. next: room for num_experts. */
void make_dispatch(const int64_t *experts, int64_t num_choices, int64_t num_experts,
                   int64_t capacity, int64_t *next, int64_t *choices, int64_t *slots,
                   int32_t *ends) {
    memset(next, 0, num_experts * sizeof *next);
    for (int64_t c = 0; c < num_choices; c++) next[experts[c]]++;
    int64_t end = 0;
    for (int64_t e = 0; e < num_experts; e++) {
        int64_t start = capacity ? e * capacity : end;
        end += next[e];
        ends[e] = (int32_t)end;
        next[e] = start;
    }
    for (int64_t c = 0; c < num_choices; c++) {
        int64_t slot = next[experts[c]]++;
        choices[slot] = c;
        slots[c] = slot;
    }
}

void gather_rows(const number *x, const int64_t *choices, int64_t rows, int64_t top_k,
                 int64_t width, number *out) {
    for (int64_t r = 0; r < rows; r++) {
        if (choices[r] < 0)
            memset(out + r * width, 0, width * sizeof(number));
        else
            memcpy(out + r * width, x + choices[r] / top_k * width, width * sizeof(number));
    }
}

/* d_x: of each row the sum over where it was taken; zero before. */
void take_rows_backward(const number *d_out, const int64_t *places, int64_t taken, int64_t width,
                        float *d_x) {
    for (int64_t r = 0; r < taken; r++) {
        const number *from = d_out + r * width;
        float *to = d_x + places[r] * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] += load(from[i]);
    }
}

/* out[t] = sum over its choices of weight x rows[slot]; weights may be null: 1. */
void combine_forward(const number *rows, const float *weights, const int64_t *slots,
                     int64_t tokens, int64_t top_k, int64_t width, float *line, number *out) {
    for (int64_t t = 0; t < tokens; t++) {
        memset(line, 0, width * sizeof *line);
        for (int64_t j = 0; j < top_k; j++) {
            const number *answer = rows + slots[t * top_k + j] * width;
            float weight = weights ? weights[t * top_k + j] : 1.0f;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) line[i] += weight * load(answer[i]);
        }
#pragma omp simd
        for (int64_t i = 0; i < width; i++) out[t * width + i] = store(line[i]);
    }
}

/* d_rows of padding must hold zeros. */
void combine_backward(const number *rows, const float *weights, const int64_t *slots,
                      const number *d_out, int64_t tokens, int64_t top_k, int64_t width,
                      number *d_rows, float *d_weights) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t j = 0; j < top_k; j++) {
            int64_t slot = slots[t * top_k + j];
            const number *answer = rows + slot * width, *slope = d_out + t * width;
            number *d_answer = d_rows + slot * width;
            float weight = weights[t * top_k + j], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < width; i++) {
                dot += load(answer[i]) * load(slope[i]);
                d_answer[i] = store(weight * load(slope[i]));
            }
            d_weights[t * top_k + j] = dot;
        }
}

void swiglu_forward(const number *gate_up, int64_t rows, int64_t hidden, number *out) {
    for (int64_t r = 0; r < rows; r++) {
        const number *gate = gate_up + r * 2 * hidden, *up = gate + hidden;
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++) {
            float g = load(gate[i]), sigmoid = 1.0f / (1.0f + exponential(-g));
            out[r * hidden + i] = store(g * sigmoid * load(up[i]));
        }
    }
}

void swiglu_backward(const number *gate_up, const number *d_out, int64_t rows, int64_t hidden,
                     number *d_gate_up) {
    for (int64_t r = 0; r < rows; r++) {
        const number *gate = gate_up + r * 2 * hidden, *up = gate + hidden;
        number *d_gate = d_gate_up + r * 2 * hidden, *d_up = d_gate + hidden;
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++) {
            float g = load(gate[i]), slope = load(d_out[r * hidden + i]);
            float sigmoid = 1.0f / (1.0f + exponential(-g));
            d_up[i] = store(slope * g * sigmoid);
            d_gate[i] = store(slope * load(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
        }
    }
}
