// Forward and backward through the layers of K networks, one network after the other: the output of a layer is still in
// the first caches when the next one reads it. `c_functions.py` compiles it.

#ifndef T
#include <math.h>
#include <stdint.h>

// The structures are those of step_check.py. Of each pointer the stride to the next network, in bytes: 0 where all share
// it.
typedef struct {
    char *start;
    int64_t stride;
} Of;

enum { LINEAR, BATCH_NORM, RELU, NORMALIZE };

typedef struct {
    int64_t kind, num_in, num_out, needs_x;
    int64_t forward_here, weight_here, x_here;  // LINEAR: which products are taken by product.c, not by the BLAS
    Of x, y;                                    // (N, num_in) and (N, num_out); the same but for LINEAR, BATCH_NORM
    Of grad_x, grad_y;                          // as x and y
    Of weight, bias, grad_weight, grad_bias;    // LINEAR: (num_out, num_in), (num_out,) or NULL, and as they
    Of mean, scale, shift;                      // NORMALIZE: (num_out,), shift or NULL
    Of forward, backward;                       // BATCH_NORM: the kernel's problems
} Layer;

typedef struct {
    Of classes;     // (N,)
    void *losses;   // (K,)
    int64_t *hits;  // (K,)
} Loss;

typedef void (*Gemm)(const char *, const char *, const int *, const int *, const int *, const void *, const void *,
                     const int *, const void *, const int *, const void *, void *, const int *);

// K networks, each with its own numbers (K,), float64.
typedef struct {
    Of rows, gradients, velocity;  // (P,), the parameters one after the other; velocity NULL where none has a momentum
    const int64_t *sizes;          // of the parameters
    int64_t num_pieces, nesterov, is_first;
    const double *lr, *momentum, *dampening, *weight_decay;
} Update;

// What comes from elsewhere: the BLAS and the vectors' functions inside torch, and the layer's kernel.
typedef struct {
    Gemm gemm;
    void *exponential, *logarithm;
    void (*batch_norm)(const void *);
} Functions;

static void *at(Of of, int64_t k) { return of.start ? of.start + k * of.stride : 0; }

static int64_t at_most(int64_t value, int64_t bound) { return value < bound ? value : bound; }

#if defined(__AVX512F__)
enum { VECTOR = 64, REGISTERS = 32 };
#elif defined(__AVX__)
enum { VECTOR = 32, REGISTERS = 16 };
#elif defined(__ARM_NEON)
enum { VECTOR = 16, REGISTERS = 32 };
#else
enum { VECTOR = 16, REGISTERS = 16 };
#endif

const int64_t bytes_of_a_vector = VECTOR;
const int64_t size_of_layer = sizeof(Layer), size_of_loss = sizeof(Loss), size_of_update = sizeof(Update);
const int64_t size_of_functions = sizeof(Functions);

#define JOIN(a, b) a##_##b
#define EXPAND(a, b) JOIN(a, b)
#define OF(name) EXPAND(name, T)

static float fma_float(float a, float b, float c) { return fmaf(a, b, c); }
static double fma_double(double a, double b, double c) { return fma(a, b, c); }

#define T float
#include "step.c"
#undef T
#define T double
#include "step.c"

#else

#define OF_BYTES(bytes) __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias))
typedef T OF(whole) OF_BYTES(VECTOR);
typedef T OF(half) OF_BYTES(VECTOR / 2);
typedef T OF(quarter) OF_BYTES(VECTOR / 4 < 8 ? 8 : VECTOR / 4);
typedef T OF(four) OF_BYTES(4 * sizeof(T));
typedef T OF(single);
typedef OF(whole) (*OF(Elementwise))(OF(whole));

#include "loss.c"
#include "product.c"
#include "update.c"

// BLAS sees a matrix of rows as its transpose. c (rows, columns) = a b + beta c, with `depth` terms a sum.
static void OF(multiply)(Gemm gemm, const char *of_b, const char *of_a, int64_t rows, int64_t columns, int64_t depth,
                         const T *a, int64_t width_a, const T *b, int64_t width_b, T beta, T *c) {
    const int m = (int)columns, n = (int)rows, k = (int)depth, lda = (int)width_b, ldb = (int)width_a;
    const T one = 1;
    gemm(of_b, of_a, &m, &n, &k, &one, b, &lda, a, &ldb, &beta, c, &m);
}

// y = x W^T + b
static void OF(linear_forward)(const Layer *layer, const Functions *functions, int64_t N, int64_t k, T *scratch) {
    const int64_t in = layer->num_in, out = layer->num_out;
    const T *x = at(layer->x, k), *weight = at(layer->weight, k), *restrict bias = at(layer->bias, k);
    T *restrict y = at(layer->y, k);
    if (layer->forward_here) {
        OF(turn)(out, in, weight, scratch);
        OF(product)(N, out, in, x, in, 1, scratch, y);
        for (int64_t n = 0; bias && n < N; n++)
            for (int64_t c = 0; c < out; c++) y[n * out + c] += bias[c];
    } else {
        for (int64_t n = 0; bias && n < N; n++)
            for (int64_t c = 0; c < out; c++) y[n * out + c] = bias[c];
        OF(multiply)(functions->gemm, "T", "N", N, out, in, x, in, weight, in, bias != 0, y);
    }
}

// With g = dL/dy:  dL/dW = g^T x,  dL/db = sum(g),  dL/dx = g W
static void OF(linear_backward)(const Layer *layer, const Functions *functions, int64_t N, int64_t k) {
    const int64_t in = layer->num_in, out = layer->num_out;
    const T *g = at(layer->grad_y, k), *x = at(layer->x, k), *weight = at(layer->weight, k);
    T *grad_weight = at(layer->grad_weight, k), *grad_bias = at(layer->grad_bias, k), *grad_x = at(layer->grad_x, k);
    if (layer->weight_here)
        OF(product)(out, in, N, g, 1, out, x, grad_weight);
    else
        OF(multiply)(functions->gemm, "N", "T", out, in, N, g, out, x, in, 0, grad_weight);
    if (grad_bias) OF(sum_over_batch)(N, out, g, grad_bias);
    if (layer->needs_x && layer->x_here)
        OF(product)(N, in, out, g, out, 1, weight, grad_x);
    else if (layer->needs_x)
        OF(multiply)(functions->gemm, "N", "N", N, in, out, g, out, weight, in, 0, grad_x);
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

// y = (x - mean) scale + shift, each result rounded: as two loops, which no compiler turns into fused multiply-adds.
static void OF(normalize)(const Layer *layer, int64_t N, int64_t k) {
    const T *restrict mean = at(layer->mean, k), *restrict scale = at(layer->scale, k);
    const T *restrict shift = at(layer->shift, k);
    const int64_t C = layer->num_out;
    T *restrict y = at(layer->y, k);
    for (int64_t n = 0; n < N; n++, y += C) {
        for (int64_t c = 0; c < C; c++) y[c] = (y[c] - mean[c]) * scale[c];
        for (int64_t c = 0; shift && c < C; c++) y[c] += shift[c];
    }
}

static void OF(forward)(const Layer *layer, const Functions *functions, int64_t N, int64_t k, T *scratch) {
    if (layer->kind == LINEAR) OF(linear_forward)(layer, functions, N, k, scratch);
    if (layer->kind == BATCH_NORM) functions->batch_norm(at(layer->forward, k));
    if (layer->kind == RELU) OF(relu_forward)(layer, N, k);
    if (layer->kind == NORMALIZE) OF(normalize)(layer, N, k);
}

static void OF(backward)(const Layer *layer, const Functions *functions, int64_t N, int64_t k) {
    if (layer->kind == LINEAR) OF(linear_backward)(layer, functions, N, k);
    if (layer->kind == BATCH_NORM) functions->batch_norm(at(layer->backward, k));
    if (layer->kind == RELU) OF(relu_backward)(layer, N, k);
}

// Of a training, or an evaluation; with the update of the parameters unless that is NULL. Needs as much scratch as the
// largest weight, and a vector for each class. Returns 0, and has done nothing, where a class is out of bounds.
int64_t OF(step)(const Layer *layers, int64_t num_layers, const Loss *loss, const Update *update, int64_t K, int64_t N,
                 int64_t is_training, const Functions *functions, T *scratch) {
    const Layer *last = layers + num_layers - 1;
    for (int64_t k = 0; k < (loss->classes.stride ? K : 1); k++)
        for (int64_t n = 0; n < N; n++) {
            const int64_t class = ((int64_t *)at(loss->classes, k))[n];
            if (class < 0 || class >= last->num_out) return 0;
        }
    for (int64_t k = 0; k < K; k++) {
        for (const Layer *layer = layers; layer <= last; layer++) OF(forward)(layer, functions, N, k, scratch);
        OF(cross_entropy)(N, last->num_out, at(last->y, k), at(loss->classes, k), at(last->grad_y, k),
                          (T *)loss->losses + k, loss->hits + k, functions, scratch);
        for (const Layer *layer = last; is_training && layer >= layers; layer--) OF(backward)(layer, functions, N, k);
        if (update) OF(update)(update, k);
    }
    return 1;
}

// Parts alone, of one network: what same_bits.py tries out.

void OF(linear)(const Layer *layer, int64_t N, const Functions *functions, T *scratch) {
    OF(forward)(layer, functions, N, 0, scratch);
    OF(backward)(layer, functions, N, 0);
}

void OF(loss)(const Layer *last, const Loss *loss, int64_t N, const Functions *functions, T *scratch) {
    OF(cross_entropy)(N, last->num_out, at(last->y, 0), at(loss->classes, 0), at(last->grad_y, 0), loss->losses,
                      loss->hits, functions, scratch);
}

void OF(descent)(const Update *update) { OF(update)(update, 0); }

#endif
