// Forward and backward through the layers of K networks, one network after the other: what a layer of a network leaves
// is still in the cache when the next layer reads it. `compiled_step.py` compiles and calls it.
//
// The matrix products are torch's own BLAS, so a stack rounds as a network alone does.

#ifndef T
#include <stdint.h>

// As compiled_step.py lays it out. Of each pointer the stride to the next network, in bytes.
typedef struct {
    char *start;
    int64_t stride;
} Of;

enum { LINEAR, BATCH_NORM, RELU };

typedef struct {
    int64_t kind, num_in, num_out, needs_x;
    Of x, y;                     // (N, num_in) and (N, num_out); y is written over x by RELU
    Of grad_x, grad_y;           // as x and y; grad_x is written over grad_y by RELU
    Of weight, bias, grad_weight;  // LINEAR: (num_out, num_in), (num_out,) or NULL, as weight
    Of forward, backward;        // BATCH_NORM: the kernel's problems
} Layer;

// Of the cross-entropy, whose log-softmax and its derivative torch takes, of logits turned to (classes, width), N padded
// to whole vectors.
typedef struct {
    int64_t width;
    const int64_t *classes;
    int64_t stride;  // to the classes of the next network, in numbers
    Of turned, one_hot, log_p, gradient;  // (num_classes, width); one_hot is -1 / N where the class is
    void *losses;   // (K,)
    int64_t *hits;  // (K,)
} Loss;

typedef void (*Gemm)(const char *, const char *, const int *, const int *, const int *, const void *, const void *,
                     const int *, const void *, const int *, const void *, void *, const int *);
typedef void (*Kernel)(const void *);

static void *at(Of of, int64_t k) { return of.start ? of.start + k * of.stride : 0; }

#define JOIN(a, b) a##_##b
#define EXPAND(a, b) JOIN(a, b)
#define OF(name) EXPAND(name, T)

#define T float
#include "step.c"
#undef T
#define T double
#include "step.c"

#else

// BLAS sees a matrix of rows as its transpose. c (rows, columns) = a b + beta c, with `depth` terms a sum.
static void OF(multiply)(Gemm gemm, const char *of_b, const char *of_a, int64_t rows, int64_t columns, int64_t depth,
                         const T *a, int64_t width_a, const T *b, int64_t width_b, T beta, T *c) {
    const int m = (int)columns, n = (int)rows, k = (int)depth, lda = (int)width_b, ldb = (int)width_a;
    const T one = 1;
    gemm(of_b, of_a, &m, &n, &k, &one, b, &lda, a, &ldb, &beta, c, &m);
}

static void OF(linear_forward)(const Layer *layer, Gemm gemm, int64_t N, int64_t k) {
    const int64_t in = layer->num_in, out = layer->num_out;
    T *restrict y = at(layer->y, k);
    const T *restrict bias = at(layer->bias, k);
    if (bias)
        for (int64_t n = 0; n < N; n++)
            for (int64_t c = 0; c < out; c++) y[n * out + c] = bias[c];
    OF(multiply)(gemm, "T", "N", N, out, in, at(layer->x, k), in, at(layer->weight, k), in, bias != 0, y);
}

static void OF(linear_backward)(const Layer *layer, Gemm gemm, int64_t N, int64_t k) {
    const int64_t in = layer->num_in, out = layer->num_out;
    const T *g = at(layer->grad_y, k);
    OF(multiply)(gemm, "N", "T", out, in, N, g, out, at(layer->x, k), in, 0, at(layer->grad_weight, k));
    if (layer->needs_x) OF(multiply)(gemm, "N", "N", N, in, out, g, out, at(layer->weight, k), in, 0, at(layer->grad_x, k));
}

// A NaN stays one, as in torch.
static void OF(relu_forward)(const Layer *layer, int64_t N, int64_t k) {
    T *restrict y = at(layer->y, k);
    for (int64_t i = 0; i < N * layer->num_out; i++) y[i] = y[i] < 0 ? 0 : y[i];
}

static void OF(relu_backward)(const Layer *layer, int64_t N, int64_t k) {
    T *restrict g = at(layer->grad_y, k);
    const T *restrict y = at(layer->y, k);
    for (int64_t i = 0; i < N * layer->num_out; i++) g[i] = y[i] <= 0 ? 0 : g[i];
}

// Returns 0 where a class is out of bounds.
static int OF(turn)(const Layer *last, const Loss *loss, int64_t N, int64_t k) {
    const int64_t C = last->num_out, width = loss->width, *classes = loss->classes + k * loss->stride;
    const T *restrict logits = at(last->y, k);
    T *restrict turned = at(loss->turned, k), *restrict one_hot = at(loss->one_hot, k);
    for (int64_t i = 0; i < C * width; i++) one_hot[i] = 0;
    for (int64_t n = 0; n < N; n++) {
        if (classes[n] < 0 || classes[n] >= C) return 0;
        one_hot[classes[n] * width + n] = (T)(-1.0 / (double)N);
        for (int64_t c = 0; c < C; c++) turned[c * width + n] = logits[n * C + c];
    }
    return 1;
}

// The gradient turned back, the mean loss, and how many samples have their largest logit at their class: the first
// of equals, and a NaN is larger than any number, as in torch.
static void OF(turn_back)(const Layer *last, const Loss *loss, int64_t N, int64_t k) {
    const int64_t C = last->num_out, width = loss->width, *classes = loss->classes + k * loss->stride;
    const T *restrict logits = at(last->y, k), *restrict log_p = at(loss->log_p, k);
    const T *restrict gradient = at(loss->gradient, k);
    T *restrict g = at(last->grad_y, k);
    double sum = 0;
    int64_t hits = 0;
    for (int64_t n = 0; n < N; n++) {
        const T *restrict row = logits + n * C;
        int64_t largest = 0;
        for (int64_t c = 0; c < C; c++) {
            g[n * C + c] = gradient[c * width + n];
            if (row[c] > row[largest] || (row[c] != row[c] && row[largest] == row[largest])) largest = c;
        }
        hits += largest == classes[n];
        sum -= log_p[classes[n] * width + n];
    }
    ((T *)loss->losses)[k] = (T)(sum / (double)N);
    loss->hits[k] = hits;
}

int64_t OF(forward)(const Layer *layers, int64_t num_layers, const Loss *loss, int64_t K, int64_t N, Gemm gemm,
                    Kernel batch_norm) {
    for (int64_t k = 0; k < K; k++) {
        for (const Layer *layer = layers; layer < layers + num_layers; layer++) {
            if (layer->kind == LINEAR) OF(linear_forward)(layer, gemm, N, k);
            if (layer->kind == BATCH_NORM) batch_norm(at(layer->forward, k));
            if (layer->kind == RELU) OF(relu_forward)(layer, N, k);
        }
        if (!OF(turn)(layers + num_layers - 1, loss, N, k)) return 0;
    }
    return 1;
}

int64_t OF(backward)(const Layer *layers, int64_t num_layers, const Loss *loss, int64_t K, int64_t N, Gemm gemm,
                     Kernel batch_norm) {
    for (int64_t k = 0; k < K; k++) {
        OF(turn_back)(layers + num_layers - 1, loss, N, k);
        for (const Layer *layer = layers + num_layers - 1; layer >= layers; layer--) {
            if (layer->kind == LINEAR) OF(linear_backward)(layer, gemm, N, k);
            if (layer->kind == BATCH_NORM) batch_norm(at(layer->backward, k));
            if (layer->kind == RELU) OF(relu_backward)(layer, N, k);
        }
    }
    return 1;
}

#endif
