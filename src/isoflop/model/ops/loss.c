/* Cross-entropy of rows of logits, its gradient, and their entropy.

   Called through native.py; isoflop.model.ops.reference defines all functions and tests hold this
   file against them. */

#include "number.h"

/* entropies: none, or of each row's softmax in nats. */
void row_losses(const number *logits, const int64_t *targets, int64_t rows, int64_t vocabulary,
                float *losses, float *log_total, float *entropies) {
    for (int64_t r = 0; r < rows; r++) {
        const number *logit = logits + r * vocabulary;
        float largest = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < vocabulary; i++) {
            float value = load(logit[i]);
            largest = value > largest ? value : largest;
        }
        if (entropies) {
            float weighed = 0.0f;
#pragma omp simd reduction(+ : total, weighed)
            for (int64_t i = 0; i < vocabulary; i++) {
                float below = load(logit[i]) - largest, share = exponential(below);
                total += share;
                weighed += share * below;
            }
            entropies[r] = logf(total) - weighed / total;
        } else {
#pragma omp simd reduction(+ : total)
            for (int64_t i = 0; i < vocabulary; i++) total += exponential(load(logit[i]) - largest);
        }
        log_total[r] = largest + logf(total);
        losses[r] = log_total[r] - load(logit[targets[r]]);
    }
}

/* The gradient of sum(scale x losses), over the logits. */
void row_losses_slope(number *logits, const int64_t *targets, const float *log_total,
                      const float *scale, int64_t rows, int64_t vocabulary) {
    for (int64_t r = 0; r < rows; r++) {
        number *logit = logits + r * vocabulary;
        float total = log_total[r], factor = scale[r];
        float at_target = (exponential(load(logit[targets[r]]) - total) - 1.0f) * factor;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++)
            logit[i] = store(exponential(load(logit[i]) - total) * factor);
        logit[targets[r]] = store(at_target);
    }
}
