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

enum { FORWARD, BACKWARD };

// `Problem` of kernel_check.py. The caller has seen that all this is there to be read or written. `out` is y, or dL/dx
// in BACKWARD; grad_y is unused in FORWARD. Any of weight, bias, grad_weight, grad_bias, out (BACKWARD only),
// unbiased_var, num_batches_tracked and the running statistics may be NULL: they are then not given, or not wanted.
typedef struct {
    int64_t direction;
    const void *x, *grad_y;
    void *out;
    const void *weight, *bias;
    void *grad_weight, *grad_bias;
    void *mean, *inv_std, *unbiased_var;
    void *running_mean, *running_var;
    int64_t *num_batches_tracked;
    const void *eps, *momentum;  // (K,) or NULL for the numbers below
    int64_t K, N, C, L, threads;
    double eps_number, momentum_number;
} Problem;

const int64_t size_of_problem = sizeof(Problem);

// Values in a block of rows; values of a row of L taken side by side; channels and rows that are summed in T before
// the sums in double take them.
enum { BLOCK = 65536, LANES = 16, STRIP = 1024, GROUP = 16 };

static int64_t at_most(int64_t value, int64_t bound) { return value < bound ? value : bound; }

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
    threads = at_most(threads, count);
    if (threads > 1 && gomp_parallel)
        gomp_parallel(share, &tasks, (unsigned)threads, 0);
    else
        some(&tasks, 0, count);
}

// Outputs of 32 MB and more get fresh pages every time, whose faults cost more than the arithmetic.
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

// An output this large leaves the cache before anyone reads it. Bypassing the cache saves reading its old content.
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

// From here on other threads see what bypassed the cache.
static void finish_writing(void) {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

#include "tensors.c"

static int64_t rows_a_block(int64_t C) { return C < BLOCK ? BLOCK / C : 1; }

#define JOIN(a, b) a##_##b
#define EXPAND(a, b) JOIN(a, b)
#define OF(name) EXPAND(name, T)
#define INLINE static inline __attribute__((always_inline))

// Prefetch a line of memory into the second-level cache. An address past the end of x does no harm.
#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define FETCH(address) ((void)(address))
#endif

#define T float
#include "kernel.c"
#undef T
#define T double
#include "kernel.c"

#else

enum { OF(LINE) = 64 / sizeof(T), OF(AHEAD) = 8192 / sizeof(T) };

// For a pass whose writes bypass the cache: they delay reads, so these have to begin early.
INLINE void OF(fetch_ahead)(const T *x, int64_t count) {
    for (int64_t i = 0; i < count; i += OF(LINE)) FETCH(x + OF(AHEAD) + i);
}

// Turn the sums of some channels into what forward needs to finish them, and move their running statistics. The first
// one is channel i of all networks' channels. The sums are overwritten.
INLINE void OF(finish_forward)(const Problem *p, int64_t k, int64_t i, int64_t count, const T *restrict first,
                               double *restrict sum, double *restrict square, T *restrict mean, T *restrict scale,
                               T *restrict shift) {
    const double n = (double)p->N * (double)p->L, a_value = 1 / n, unbias = n / (n - 1);
    const double eps = p->eps ? ((const T *)p->eps)[k] : (T)p->eps_number;
    const double momentum = p->momentum ? ((const T *)p->momentum)[k] : (T)p->momentum_number;
    const T *restrict weight = p->weight ? (const T *)p->weight + i : NULL;
    const T *restrict bias = p->bias ? (const T *)p->bias + i : NULL;
    T *restrict kept_mean = (T *)p->mean + i, *restrict kept_inv_std = (T *)p->inv_std + i;
    T *restrict unbiased_var = p->unbiased_var ? (T *)p->unbiased_var + i : NULL;
    // Not restrict: a caller may keep both in one place, and then has the mean moved first, as torch does.
    T *running_mean = p->running_mean ? (T *)p->running_mean + i : NULL;
    T *running_var = p->running_var ? (T *)p->running_var + i : NULL;
    for (int64_t c = 0; c < count; c++) {
        const double offset = sum[c] * a_value, difference = square[c] * a_value - offset * offset;
        const double var = difference < 0 ? 0 : difference;  // NaN stays
        const double inv_std = 1 / sqrt(var + eps), exact = first[c] + offset;
        mean[c] = kept_mean[c] = (T)exact;
        kept_inv_std[c] = (T)inv_std;
        const double factor = weight ? inv_std * weight[c] : inv_std;
        scale[c] = (T)factor;
        shift[c] = (T)((bias ? bias[c] : 0) - (exact - (T)exact) * factor);
        sum[c] = exact;
        square[c] = var * unbias;
    }
    if (running_mean)
        for (int64_t c = 0; c < count; c++)
            running_mean[c] = (T)(running_mean[c] + momentum * (sum[c] - running_mean[c]));
    if (running_var)
        for (int64_t c = 0; c < count; c++)
            running_var[c] = (T)(running_var[c] + momentum * (square[c] - running_var[c]));
    if (unbiased_var)
        for (int64_t c = 0; c < count; c++) unbiased_var[c] = (T)square[c];
}

// dL/dx = g scale + (x - mean) slope + shift; see formulas.backward. Channels as in finish_forward.
INLINE void OF(finish_backward)(const Problem *p, int64_t i, int64_t count, const double *restrict sum_g,
                                const double *restrict sum_gc, const double *restrict sum_c, T *restrict scale,
                                T *restrict slope, T *restrict shift) {
    const double a_value = 1 / ((double)p->N * (double)p->L);
    const T *restrict weight = p->weight ? (const T *)p->weight + i : NULL;
    const T *restrict kept_inv_std = (const T *)p->inv_std + i;
    T *restrict grad_weight = p->grad_weight ? (T *)p->grad_weight + i : NULL;
    T *restrict grad_bias = p->grad_bias ? (T *)p->grad_bias + i : NULL;
    for (int64_t c = 0; c < count; c++) {
        const double residual = sum_c[c] * a_value, inv_std = kept_inv_std[c];
        const double sum_gx_hat = (sum_gc[c] - residual * sum_g[c]) * inv_std;
        const double factor = weight ? inv_std * weight[c] : inv_std;
        const double tilt = -factor * inv_std * sum_gx_hat * a_value;
        scale[c] = (T)factor;
        slope[c] = (T)tilt;
        shift[c] = (T)(-factor * sum_g[c] * a_value - tilt * residual);
        if (grad_weight) grad_weight[c] = (T)sum_gx_hat;
        if (grad_bias) grad_bias[c] = (T)sum_g[c];
    }
}

// ---- rows: (K, N, C), L = 1 ----

typedef struct {
    const Problem *p;
    int64_t k;
    double *sums;  // (blocks, 2 or 3, C)
    T *factors;    // (3, C)
} OF(Network);

// The first rows go straight into the sums: until there is a mean, one value far off would take the others' digits.
INLINE void OF(add_first_rows)(const T *restrict x, const T *restrict first, int64_t C, double *restrict sum,
                               double *restrict square, const int rows) {
    for (int64_t c = 0; c < C; c++) {
        double s = 0, q = 0;
        for (int r = 0; r < rows; r++) {
            const double d = (double)x[r * C + c] - (double)first[c];
            s += d;
            q += d * d;
        }
        sum[c] = s;
        square[c] = q;
    }
}

INLINE void OF(add_columns)(const T *restrict x, const T *restrict start, int64_t C, const int64_t count,
                            T *restrict sum, T *restrict square, const int rows) {
    for (int64_t c = 0; c < count; c++) {
        T s = sum[c], q = square[c];
        for (int r = 0; r < rows; r++) {
            const T d = x[r * C + c] - start[c];
            s += d;
            q += d * d;
        }
        sum[c] = s;
        square[c] = q;
    }
}

// Few rows at a time: the processor follows few streams, and rows of 4 KB fall into the same lines of the cache. Down
// the rows it does not see what comes next, and is told: the same columns of the next group.
INLINE void OF(add_strip)(const T *restrict x, const T *restrict start, int64_t C, int64_t count, T *restrict sum,
                          T *restrict square, const int rows) {
    int64_t c = 0;
    for (; c + OF(LINE) <= count; c += OF(LINE)) {
        for (int r = 0; r < rows; r++) FETCH(x + (r + GROUP) * C + c);
        OF(add_columns)(x + c, start + c, C, OF(LINE), sum + c, square + c, rows);
    }
    OF(add_columns)(x + c, start + c, C, count - c, sum + c, square + c, rows);
}

// A few rows less the mean m so far are summed in T before the sums in double take them, less the first row o:
// sum (x - o) and sum (x - o)^2 from d = x - m by x - o = d + (m - o).
INLINE void OF(add_group)(const T *restrict x, const T *restrict first, int64_t C, int64_t count, double *restrict sum,
                          double *restrict square, int64_t done, int64_t rows) {
    T start[STRIP], s[STRIP], q[STRIP];
    const double a_row = 1 / (double)done;
    for (int64_t c = 0; c < count; c++) {
        start[c] = (T)(first[c] + sum[c] * a_row);
        s[c] = q[c] = 0;
    }
    int64_t n = 0;
    for (; n + 4 <= rows; n += 4) OF(add_strip)(x + n * C, start, C, count, s, q, 4);
    for (; n < rows; n++) OF(add_strip)(x + n * C, start, C, count, s, q, 1);
    for (int64_t c = 0; c < count; c++) {
        const double move = (double)start[c] - (double)first[c], total = s[c];
        sum[c] += total + (double)rows * move;
        square[c] += q[c] + move * (2 * total + (double)rows * move);
    }
}

static void OF(rows_sum)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const int64_t N = network->p->N, C = network->p->C, step = rows_a_block(C);
    const T *x = (const T *)network->p->x + network->k * N * C;
    const int64_t end = at_most((block + 1) * step, N);
    double *sum = network->sums + block * 2 * C, *square = sum + C;
    const T *in = x + block * step * C;
    const int64_t rows = end - block * step;
    if (rows >= 4)
        OF(add_first_rows)(in, x, C, sum, square, 4);
    else if (rows == 3)
        OF(add_first_rows)(in, x, C, sum, square, 3);
    else if (rows == 2)
        OF(add_first_rows)(in, x, C, sum, square, 2);
    else
        OF(add_first_rows)(in, x, C, sum, square, 1);
    for (int64_t n = 4; n < rows; n += GROUP)
        for (int64_t c = 0; c < C; c += STRIP)
            OF(add_group)(in + n * C + c, x + c, C, at_most(C - c, STRIP), sum + c, square + c, n,
                          at_most(rows - n, GROUP));
}

INLINE void OF(normalize_row)(const T *restrict x, const T *restrict mean, const T *restrict scale,
                              const T *restrict shift, T *restrict y, int64_t C) {
    for (int64_t c = 0; c < C; c++) y[c] = (x[c] - mean[c]) * scale[c] + shift[c];
}

static void OF(rows_normalize)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const int64_t N = network->p->N, C = network->p->C, step = rows_a_block(C), base = network->k * N * C;
    const int64_t end = at_most((block + 1) * step, N);
    const T *restrict mean = network->factors, *restrict scale = mean + C, *restrict shift = scale + C;
    const int past_cache = network->p->K * N * C * (int64_t)sizeof(T) >= PAST_CACHE;
    for (int64_t n = block * step; n < end; n++) {
        const T *restrict x = (const T *)network->p->x + base + n * C;
        T *restrict y = (T *)network->p->out + base + n * C;
        if (past_cache) {
            for (int64_t c = 0; c < C; c += PIECE) {
                const int64_t piece = at_most(C - c, PIECE);
                T values[PIECE];
                OF(fetch_ahead)(x + c, piece);
                OF(normalize_row)(x + c, mean + c, scale + c, shift + c, values, piece);
                write_past_cache(y + c, values, (size_t)piece * sizeof(T));
            }
        } else {
            OF(normalize_row)(x, mean, scale, shift, y, C);
        }
    }
    if (past_cache) finish_writing();
}

// As the sums of forward; but here x is centered already, so nothing cancels.
INLINE void OF(add_gradient_columns)(const T *restrict x, const T *restrict g, const T *restrict mean, int64_t C,
                                     const int64_t count, T *restrict sum_g, T *restrict sum_gc, T *restrict sum_c,
                                     const int rows) {
    for (int64_t c = 0; c < count; c++) {
        T a = sum_g[c], b = sum_gc[c], s = sum_c[c];
        for (int r = 0; r < rows; r++) {
            const T gradient = g[r * C + c], d = x[r * C + c] - mean[c];
            a += gradient;
            b += gradient * d;
            s += d;
        }
        sum_g[c] = a;
        sum_gc[c] = b;
        sum_c[c] = s;
    }
}

INLINE void OF(add_gradient_strip)(const T *restrict x, const T *restrict g, const T *restrict mean, int64_t C,
                                   int64_t count, T *restrict sum_g, T *restrict sum_gc, T *restrict sum_c,
                                   const int rows) {
    int64_t c = 0;
    for (; c + OF(LINE) <= count; c += OF(LINE)) {
        for (int r = 0; r < rows; r++) {
            FETCH(x + (r + GROUP) * C + c);
            FETCH(g + (r + GROUP) * C + c);
        }
        OF(add_gradient_columns)(x + c, g + c, mean + c, C, OF(LINE), sum_g + c, sum_gc + c, sum_c + c, rows);
    }
    OF(add_gradient_columns)(x + c, g + c, mean + c, C, count - c, sum_g + c, sum_gc + c, sum_c + c, rows);
}

INLINE void OF(add_gradient_group)(const T *restrict x, const T *restrict g, const T *restrict mean, int64_t C,
                                   int64_t count, double *restrict sum_g, double *restrict sum_gc,
                                   double *restrict sum_c, int64_t rows) {
    T a[STRIP], b[STRIP], s[STRIP];
    for (int64_t c = 0; c < count; c++) a[c] = b[c] = s[c] = 0;
    int64_t n = 0;
    for (; n + 2 <= rows; n += 2) OF(add_gradient_strip)(x + n * C, g + n * C, mean, C, count, a, b, s, 2);
    for (; n < rows; n++) OF(add_gradient_strip)(x + n * C, g + n * C, mean, C, count, a, b, s, 1);
    for (int64_t c = 0; c < count; c++) {
        sum_g[c] += a[c];
        sum_gc[c] += b[c];
        sum_c[c] += s[c];
    }
}

static void OF(rows_sum_gradient)(void *argument, int64_t block) {
    const OF(Network) *network = argument;
    const Problem *p = network->p;
    const int64_t N = p->N, C = p->C, step = rows_a_block(C);
    const T *x = (const T *)p->x + network->k * N * C, *g = (const T *)p->grad_y + network->k * N * C;
    const T *mean = (const T *)p->mean + network->k * C;
    const int64_t end = at_most((block + 1) * step, N);
    double *a = network->sums + block * 3 * C, *b = a + C, *s = b + C;
    memset(a, 0, 3 * (size_t)C * sizeof(double));
    for (int64_t n = block * step; n < end; n += GROUP)
        for (int64_t c = 0; c < C; c += STRIP)
            OF(add_gradient_group)(x + n * C + c, g + n * C + c, mean + c, C, at_most(C - c, STRIP), a + c, b + c,
                                   s + c, at_most(end - n, GROUP));
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
    const int64_t end = at_most((block + 1) * step, N);
    const T *restrict mean = (const T *)p->mean + network->k * C;
    const T *restrict scale = network->factors, *restrict slope = scale + C, *restrict shift = slope + C;
    const int past_cache = p->K * N * C * (int64_t)sizeof(T) >= PAST_CACHE;
    for (int64_t n = block * step; n < end; n++) {
        const T *restrict x = (const T *)p->x + base + n * C, *restrict g = (const T *)p->grad_y + base + n * C;
        T *restrict dx = (T *)p->out + base + n * C;
        if (past_cache) {
            for (int64_t c = 0; c < C; c += PIECE) {
                const int64_t piece = at_most(C - c, PIECE);
                T values[PIECE];
                OF(fetch_ahead)(x + c, piece);
                OF(fetch_ahead)(g + c, piece);
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
    const int is_backward = p->direction == BACKWARD;
    const int64_t C = p->C, step = rows_a_block(C), blocks = (p->N + step - 1) / step, kinds = is_backward ? 3 : 2;
    double *sums = malloc((size_t)(blocks * kinds * C) * sizeof(double) + (size_t)(3 * C) * sizeof(T));
    OF(Network) network = {p, k, sums, (T *)(sums + blocks * kinds * C)};
    T *first = network.factors, *second = first + C, *third = second + C;
    each(is_backward ? OF(rows_sum_gradient) : OF(rows_sum), &network, blocks, threads, 0);
    for (int64_t block = 1; block < blocks; block++)
        for (int64_t i = 0; i < kinds * C; i++) sums[i] += sums[block * kinds * C + i];
    if (is_backward) {
        OF(finish_backward)(p, k * C, C, sums, sums + C, sums + 2 * C, first, second, third);
        if (p->out) each(OF(rows_differentiate), &network, blocks, threads, 1);
    } else {
        const T *x = (const T *)p->x + k * p->N * C;
        OF(finish_forward)(p, k, k * C, C, x, sums, sums + C, first, second, third);
        each(OF(rows_normalize), &network, blocks, threads, 1);
    }
    free(sums);
}

static void OF(rows_of_network)(void *argument, int64_t k) { OF(rows)(argument, k, 1); }

// ---- channels: (K, N, C, L), one channel of one network a task ----

// A row of L values is read as rows of C = LANES channels; the lanes are summed last.

// The same as add_group, with the sums of a few rows in registers. A single row is summed in double.
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

static void OF(channel_forward)(void *argument, int64_t channel) {
    const Problem *p = argument;
    const int64_t N = p->N, C = p->C, L = p->L, k = channel / C, c = channel % C, base = (k * N * C + c) * L;
    const T *x = (const T *)p->x + base;
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
    OF(finish_forward)(p, k, channel, 1, x, sum, square, &mean, &scale, &shift);
    for (int64_t n = 0; n < N; n++) {
        const T *restrict row = x + n * C * L;
        T *restrict y = (T *)p->out + base + n * C * L;
        for (int64_t l = 0; l < L; l++) y[l] = (row[l] - mean) * scale + shift;
    }
}

static void OF(channel_backward)(void *argument, int64_t channel) {
    const Problem *p = argument;
    const int64_t N = p->N, C = p->C, L = p->L, k = channel / C, c = channel % C, base = (k * N * C + c) * L;
    const T *x = (const T *)p->x + base, *g = (const T *)p->grad_y + base;
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
    OF(finish_backward)(p, channel, 1, a, b, s, &scale, &slope, &shift);
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
        each(p->direction == BACKWARD ? OF(channel_backward) : OF(channel_forward), (void *)p, p->K * p->C, threads, 0);
    else if (p->K >= threads)
        each(OF(rows_of_network), (void *)p, p->K, threads, 0);
    else
        for (int64_t k = 0; k < p->K; k++) OF(rows)(p, k, threads);
}

#endif
