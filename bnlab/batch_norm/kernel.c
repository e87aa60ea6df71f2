// Batch norm on the CPU, forward and backward; `kernel.py` compiles and calls it, `formulas.py` derives it.
//
// x is (K, N, C, L), contiguous: K independent networks, C channels, statistics over N and L. With L = 1 rows of
// channels are walked in blocks (rows_*), else channels one at a time (channel_*).
//
// Sums are taken in double, of x minus its first value in the channel: exact to the last bits of a float for any mean.
// The partition into blocks depends on N and C alone, so neither the number of threads nor K changes a bit of a result.

#ifndef T
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __SSE2__
#include <emmintrin.h>
#endif

// As kernel.py packs it. In forward `in` is x and `out` is y; in backward `in` is x and `out` is dL/dx. Any of weight,
// bias, dweight, dbias, out (backward only) and the running statistics may be NULL.
typedef struct {
    const void *in, *grad;
    void *out;
    const void *weight, *bias;
    void *dweight, *dbias;
    void *mean, *inv_std;
    void *running_mean, *running_var;
    int64_t *num_batches_tracked;
    const void *eps, *momentum;  // (K,) or NULL for the numbers below
    int64_t K, N, C, L, threads;
    double eps_number, momentum_number;
} Problem;

enum { BLOCK = 65536, LANES = 16 };  // values in a block of rows; values of a row of L taken side by side

// The OpenMP runtime that torch has loaded is asked at run time: one pool of threads in the process, torch's.
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel gomp_parallel;
static int (*thread_num)(void), (*num_threads)(void);

void configure(Parallel parallel, int (*get_thread_num)(void), int (*get_num_threads)(void)) {
    gomp_parallel = parallel;
    thread_num = get_thread_num;
    num_threads = get_num_threads;
}

typedef void (*Task)(void *, int64_t);
typedef struct {
    Task task;
    void *argument;
    int64_t count;
    int last_first;
} Tasks;

static void some(const Tasks *tasks, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i++) tasks->task(tasks->argument, tasks->last_first ? first + end - 1 - i : i);
}

static void share(void *tasks) {
    const int64_t count = ((const Tasks *)tasks)->count, team = num_threads(), member = thread_num();
    some(tasks, count * member / team, count * (member + 1) / team);
}

// A second pass over the same data goes last_first: what the first pass read last is still in the cache.
static void each(Task task, void *argument, int64_t count, int64_t threads, int last_first) {
    Tasks tasks = {task, argument, count, last_first};
    if (threads > count) threads = count;
    if (threads > 1 && gomp_parallel)
        gomp_parallel(share, &tasks, (unsigned)threads, 0);
    else
        some(&tasks, 0, count);
}

// Outputs of 32 MB and more come from fresh pages every time, whose faults cost more than the arithmetic.
static void prefer_huge_pages(void *pointer, int64_t bytes) {
#ifdef __linux__
    const uintptr_t page = (uintptr_t)1 << 21;
    if (bytes >= (int64_t)1 << 25) {
        const uintptr_t first = ((uintptr_t)pointer + page - 1) & ~(page - 1);
        madvise((void *)first, ((uintptr_t)pointer + (uintptr_t)bytes - first) & ~(page - 1), MADV_HUGEPAGE);
    }
#else
    (void)pointer, (void)bytes;
#endif
}

// So large an output is out of the cache before anyone reads it. Past the cache, its old content is not read first.
enum { PAST_CACHE = 1 << 23, PIECE = 256 };

static void write_past_cache(void *restrict to, const void *restrict from, size_t bytes) {
#ifdef __SSE2__
    if (!((uintptr_t)to % 16 || bytes % 16)) {
        for (size_t i = 0; i < bytes / 16; i++)
            _mm_stream_si128((__m128i *)to + i, _mm_loadu_si128((const __m128i *)from + i));
        return;
    }
#endif
    memcpy(to, from, bytes);
}

// What was written past the cache is seen by other threads from here on.
static void finish_writing(void) {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

static int64_t rows_a_block(int64_t C) { return C < BLOCK ? BLOCK / C : 1; }

#define JOIN(a, b) a##_##b
#define EXPAND(a, b) JOIN(a, b)
#define OF(name) EXPAND(name, T)
#define INLINE static inline __attribute__((always_inline))

#define T float
#include "kernel.c"
#undef T
#define T double
#include "kernel.c"

#else

// What one channel's sums say: all that forward needs to finish the channel, and its running statistics.
INLINE void OF(finish_forward)(const Problem *p, int64_t k, int64_t c, T first, double sum, double square, T *mean,
                               T *scale, T *shift) {
    const int64_t i = k * p->C + c;
    const double n = (double)p->N * (double)p->L, offset = sum / n;
    const double var = fmax(square / n - offset * offset, square - square);  // the last is 0, or NaN
    const double eps = p->eps ? ((const T *)p->eps)[k] : (T)p->eps_number;
    const double inv_std = 1 / sqrt(var + eps);
    const double exact = first + offset, rounded = (T)exact;
    *mean = (T)rounded;
    *scale = (T)(p->weight ? inv_std * ((const T *)p->weight)[i] : inv_std);
    *shift = (T)((p->bias ? ((const T *)p->bias)[i] : 0) - (exact - rounded) * *scale);
    ((T *)p->mean)[i] = (T)rounded;
    ((T *)p->inv_std)[i] = (T)inv_std;
    const double momentum = p->momentum ? ((const T *)p->momentum)[k] : (T)p->momentum_number;
    if (p->running_mean) {
        T *running = (T *)p->running_mean + i;
        *running = (T)(*running + momentum * (exact - *running));
    }
    if (p->running_var) {
        T *running = (T *)p->running_var + i;
        *running = (T)(*running + momentum * (var * n / (n - 1) - *running));
    }
}

// dL/dx = g scale + (x - mean) slope + shift; see formulas.backward.
INLINE void OF(finish_backward)(const Problem *p, int64_t k, int64_t c, double sum_g, double sum_gc, double sum_c,
                                T *scale, T *slope, T *shift) {
    const int64_t i = k * p->C + c;
    const double n = (double)p->N * (double)p->L, residual = sum_c / n, inv_std = ((const T *)p->inv_std)[i];
    const double sum_gx_hat = (sum_gc - residual * sum_g) * inv_std;
    const double factor = p->weight ? inv_std * ((const T *)p->weight)[i] : inv_std;
    const double tilt = -factor * inv_std * sum_gx_hat / n;
    *scale = (T)factor;
    *slope = (T)tilt;
    *shift = (T)(-factor * sum_g / n - tilt * residual);
    if (p->dweight) ((T *)p->dweight)[i] = (T)sum_gx_hat;
    if (p->dbias) ((T *)p->dbias)[i] = (T)sum_g;
}

// ---- rows: (K, N, C), L = 1 ----

typedef struct {
    const Problem *p;
    int64_t k;
    double *sums;  // (blocks, 2 or 3, C)
    T *factors;    // (3, C)
} OF(Network);

// A few rows are added up in T, less the mean m so far, before the sums in double take them, less the first row o:
// sum (x - o) and sum (x - o)^2 from d = x - m by x - o = d + (m - o). One row alone is added up in double.
INLINE void OF(add_rows)(const T *restrict x, const T *restrict first, int64_t C, double *restrict sum,
                         double *restrict square, int64_t done, const int rows) {
    const double a_row = done ? 1 / (double)done : 0;
    for (int64_t c = 0; c < C; c++) {
        const T start = rows > 1 ? (T)(first[c] + sum[c] * a_row) : x[c];
        T s = 0, q = 0;
        for (int r = 0; r < rows; r++) {
            const T d = x[r * C + c] - start;
            s += d;
            q += d * d;
        }
        const double move = (double)start - (double)first[c], total = s;
        sum[c] += total + rows * move;
        square[c] += q + move * (2 * total + rows * move);
    }
}

// The first rows go one by one: until there is a mean, one value far off would take the others' digits.
INLINE void OF(add_all_rows)(const T *restrict x, const T *restrict first, int64_t C, double *restrict sum,
                             double *restrict square, int64_t done, int64_t rows) {
    int64_t n = 0;
    for (; n < rows && done + n < 4; n++) OF(add_rows)(x + n * C, first, C, sum, square, done + n, 1);
    for (; n + 16 <= rows; n += 16) OF(add_rows)(x + n * C, first, C, sum, square, done + n, 16);
    for (; n + 4 <= rows; n += 4) OF(add_rows)(x + n * C, first, C, sum, square, done + n, 4);
    for (; n < rows; n++) OF(add_rows)(x + n * C, first, C, sum, square, done + n, 1);
}

static void OF(rows_sum)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const int64_t N = network->p->N, C = network->p->C, step = rows_a_block(C);
    const T *x = (const T *)network->p->in + network->k * N * C;
    const int64_t end = (block + 1) * step < N ? (block + 1) * step : N;
    double *sum = network->sums + block * 2 * C, *square = sum + C;
    memset(sum, 0, 2 * (size_t)C * sizeof(double));
    OF(add_all_rows)(x + block * step * C, x, C, sum, square, 0, end - block * step);
}

INLINE void OF(normalize_row)(const T *restrict x, const T *restrict mean, const T *restrict scale,
                              const T *restrict shift, T *restrict y, int64_t C) {
    for (int64_t c = 0; c < C; c++) y[c] = (x[c] - mean[c]) * scale[c] + shift[c];
}

static void OF(rows_normalize)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const int64_t N = network->p->N, C = network->p->C, step = rows_a_block(C), base = network->k * N * C;
    const int64_t end = (block + 1) * step < N ? (block + 1) * step : N;
    const T *restrict mean = network->factors, *restrict scale = mean + C, *restrict shift = scale + C;
    const int past_cache = network->p->K * N * C * (int64_t)sizeof(T) >= PAST_CACHE;
    for (int64_t n = block * step; n < end; n++) {
        const T *restrict x = (const T *)network->p->in + base + n * C;
        T *restrict y = (T *)network->p->out + base + n * C;
        if (past_cache) {
            for (int64_t c = 0; c < C; c += PIECE) {
                const int64_t piece = c + PIECE < C ? PIECE : C - c;
                T values[PIECE];
                OF(normalize_row)(x + c, mean + c, scale + c, shift + c, values, piece);
                write_past_cache(y + c, values, (size_t)piece * sizeof(T));
            }
        } else {
            OF(normalize_row)(x, mean, scale, shift, y, C);
        }
    }
    if (past_cache) finish_writing();
}

// A few rows are added up in T before the sums in double take them: here x is centered already, so nothing cancels.
INLINE void OF(add_gradient_rows)(const T *restrict x, const T *restrict g, const T *restrict mean, int64_t C,
                                  double *restrict sum_g, double *restrict sum_gc, double *restrict sum_c,
                                  const int rows) {
    for (int64_t c = 0; c < C; c++) {
        T a = 0, b = 0, s = 0;
        for (int r = 0; r < rows; r++) {
            const T gradient = g[r * C + c], d = x[r * C + c] - mean[c];
            a += gradient;
            b += gradient * d;
            s += d;
        }
        sum_g[c] += a;
        sum_gc[c] += b;
        sum_c[c] += s;
    }
}

static void OF(rows_sum_gradient)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const Problem *p = network->p;
    const int64_t N = p->N, C = p->C, step = rows_a_block(C);
    const T *x = (const T *)p->in + network->k * N * C, *g = (const T *)p->grad + network->k * N * C;
    const T *mean = (const T *)p->mean + network->k * C;
    const int64_t end = (block + 1) * step < N ? (block + 1) * step : N;
    double *a = network->sums + block * 3 * C, *b = a + C, *s = b + C;
    memset(a, 0, 3 * (size_t)C * sizeof(double));
    int64_t n = block * step;
    for (; n + 8 <= end; n += 8) OF(add_gradient_rows)(x + n * C, g + n * C, mean, C, a, b, s, 8);
    for (; n + 4 <= end; n += 4) OF(add_gradient_rows)(x + n * C, g + n * C, mean, C, a, b, s, 4);
    for (; n < end; n++) OF(add_gradient_rows)(x + n * C, g + n * C, mean, C, a, b, s, 1);
}

INLINE void OF(differentiate_row)(const T *restrict x, const T *restrict g, const T *restrict mean,
                                  const T *restrict scale, const T *restrict slope, const T *restrict shift,
                                  T *restrict dx, int64_t C) {
    for (int64_t c = 0; c < C; c++) dx[c] = g[c] * scale[c] + ((x[c] - mean[c]) * slope[c] + shift[c]);
}

static void OF(rows_differentiate)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const Problem *p = network->p;
    const int64_t N = p->N, C = p->C, step = rows_a_block(C), base = network->k * N * C;
    const int64_t end = (block + 1) * step < N ? (block + 1) * step : N;
    const T *restrict mean = (const T *)p->mean + network->k * C;
    const T *restrict scale = network->factors, *restrict slope = scale + C, *restrict shift = slope + C;
    const int past_cache = p->K * N * C * (int64_t)sizeof(T) >= PAST_CACHE;
    for (int64_t n = block * step; n < end; n++) {
        const T *restrict x = (const T *)p->in + base + n * C, *restrict g = (const T *)p->grad + base + n * C;
        T *restrict dx = (T *)p->out + base + n * C;
        if (past_cache) {
            for (int64_t c = 0; c < C; c += PIECE) {
                const int64_t piece = c + PIECE < C ? PIECE : C - c;
                T values[PIECE];
                OF(differentiate_row)(x + c, g + c, mean + c, scale + c, slope + c, shift + c, values, piece);
                write_past_cache(dx + c, values, (size_t)piece * sizeof(T));
            }
        } else {
            OF(differentiate_row)(x, g, mean, scale, slope, shift, dx, C);
        }
    }
    if (past_cache) finish_writing();
}

static void OF(rows)(const Problem *p, int64_t k, int64_t threads) {
    const int64_t C = p->C, step = rows_a_block(C), blocks = (p->N + step - 1) / step, kinds = p->grad ? 3 : 2;
    double *sums = malloc((size_t)(blocks * kinds * C) * sizeof(double) + (size_t)(3 * C) * sizeof(T));
    OF(Network) network = {p, k, sums, (T *)(sums + blocks * kinds * C)};
    T *first = network.factors, *second = first + C, *third = second + C;
    each(p->grad ? OF(rows_sum_gradient) : OF(rows_sum), &network, blocks, threads, 0);
    for (int64_t block = 1; block < blocks; block++)
        for (int64_t i = 0; i < kinds * C; i++) sums[i] += sums[block * kinds * C + i];
    if (p->grad) {
        for (int64_t c = 0; c < C; c++)
            OF(finish_backward)(p, k, c, sums[c], sums[C + c], sums[2 * C + c], first + c, second + c, third + c);
        if (p->out) each(OF(rows_differentiate), &network, blocks, threads, 1);
    } else {
        const T *x = (const T *)p->in + k * p->N * C;
        for (int64_t c = 0; c < C; c++)
            OF(finish_forward)(p, k, c, x[c], sums[c], sums[C + c], first + c, second + c, third + c);
        each(OF(rows_normalize), &network, blocks, threads, 1);
    }
    free(sums);
}

static void OF(rows_of_network)(void *argument, int64_t k) { OF(rows)(argument, k, 1); }

// ---- channels: (K, N, C, L), one channel of one network a task ----

// A row of L values is taken for rows of LANES channels, so that the same loops serve; the lanes are added up last.

static void OF(channel_forward)(void *argument, int64_t channel) {
    const Problem *p = argument;
    const int64_t N = p->N, C = p->C, L = p->L, k = channel / C, c = channel % C, base = (k * N * C + c) * L;
    const T *x = (const T *)p->in + base;
    double sum[LANES] = {0}, square[LANES] = {0}, rest_sum = 0, rest_square = 0;
    T first[LANES], mean, scale, shift;
    for (int lane = 0; lane < LANES; lane++) first[lane] = *x;
    for (int64_t n = 0; n < N; n++) {
        const T *row = x + n * C * L;
        const int64_t rows = L / LANES;
        OF(add_all_rows)(row, first, LANES, sum, square, n * rows, rows);
        for (int64_t l = rows * LANES; l < L; l++) OF(add_rows)(row + l, first, 1, &rest_sum, &rest_square, 0, 1);
    }
    sum[0] += rest_sum, square[0] += rest_square;
    for (int lane = 1; lane < LANES; lane++) sum[0] += sum[lane], square[0] += square[lane];
    OF(finish_forward)(p, k, c, *x, sum[0], square[0], &mean, &scale, &shift);
    for (int64_t n = 0; n < N; n++) {
        const T *restrict row = x + n * C * L;
        T *restrict y = (T *)p->out + base + n * C * L;
        for (int64_t l = 0; l < L; l++) y[l] = (row[l] - mean) * scale + shift;
    }
}

static void OF(channel_backward)(void *argument, int64_t channel) {
    const Problem *p = argument;
    const int64_t N = p->N, C = p->C, L = p->L, k = channel / C, c = channel % C, base = (k * N * C + c) * L;
    const T *x = (const T *)p->in + base, *g = (const T *)p->grad + base;
    double a[LANES] = {0}, b[LANES] = {0}, s[LANES] = {0};
    T mean[LANES], scale, slope, shift;
    for (int lane = 0; lane < LANES; lane++) mean[lane] = ((const T *)p->mean)[channel];
    for (int64_t n = 0; n < N; n++) {
        const T *row = x + n * C * L, *gradient = g + n * C * L;
        int64_t l = 0;
        for (; l + 16 * LANES <= L; l += 16 * LANES)
            OF(add_gradient_rows)(row + l, gradient + l, mean, LANES, a, b, s, 16);
        for (; l + LANES <= L; l += LANES) OF(add_gradient_rows)(row + l, gradient + l, mean, LANES, a, b, s, 1);
        for (; l < L; l++) OF(add_gradient_rows)(row + l, gradient + l, mean, 1, a, b, s, 1);
    }
    for (int lane = 1; lane < LANES; lane++) a[0] += a[lane], b[0] += b[lane], s[0] += s[lane];
    OF(finish_backward)(p, k, c, a[0], b[0], s[0], &scale, &slope, &shift);
    if (!p->out) return;
    for (int64_t n = 0; n < N; n++) {
        const T *restrict row = x + n * C * L, *restrict gradient = g + n * C * L;
        T *restrict dx = (T *)p->out + base + n * C * L;
        for (int64_t l = 0; l < L; l++) dx[l] = gradient[l] * scale + ((row[l] - *mean) * slope + shift);
    }
}

void OF(run)(const Problem *p) {
    const int64_t size = p->K * p->N * p->C * p->L, threads = size > BLOCK / 2 ? p->threads : 1;
    if (p->num_batches_tracked) ++*p->num_batches_tracked;
    if (p->out) prefer_huge_pages(p->out, size * (int64_t)sizeof(T));
    if (p->L > 1)
        each(p->grad ? OF(channel_backward) : OF(channel_forward), (void *)p, p->K * p->C, threads, 0);
    else if (p->K >= threads)
        each(OF(rows_of_network), (void *)p, p->K, threads, 0);
    else
        for (int64_t k = 0; k < p->K; k++) OF(rows)(p, k, threads);
}

#endif
