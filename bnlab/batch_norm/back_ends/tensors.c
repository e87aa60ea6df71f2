// torch's tensors as they come, checked here before a pointer is taken: what each is, torch's own C functions say.
// `tensors_in_c.py` hands these functions over. Included by kernel.c.

// at::Tensor: one pointer, which Python knows as `_cdata`.
typedef struct {
    const void *data;
} Tensor;

// Of torch's stable C interface, but for the last, which are C++: they take a reference, and that is a pointer.
typedef int32_t (*Ask)(const Tensor *, void *);
typedef _Bool (*Is)(const Tensor *);
static struct {
    Ask dtype, device_type, layout, dim, sizes, strides, storage_offset, storage_size, data_ptr;
    Is is_neg, is_zero, is_inference;
} ask;
static struct {
    int32_t is_float, is_double, is_int64, is_cpu, is_strided;
} code;

void configure_tensors(const void *functions, const void *codes) {
    memcpy(&ask, functions, sizeof ask);
    memcpy(&code, codes, sizeof code);
}

typedef struct {
    int64_t dim, *sizes, *strides, offset, bytes;
    void *numbers;
} Layout;

// Whether the numbers of a tensor, of this dtype, are in memory as its strides say. Tensors of inference mode, which
// may not be written to outside of it, are left to torch. The storage comes last: torch writes into its log where it has
// none.
static int is_readable(const void *tensor, int32_t dtype, Layout *layout) {
    const Tensor t = {tensor};
    int32_t found;
    return !ask.dtype(&t, &found) && found == dtype && !ask.device_type(&t, &found) && found == code.is_cpu &&
           !ask.layout(&t, &found) && found == code.is_strided && !ask.is_neg(&t) && !ask.is_zero(&t) &&
           !ask.is_inference(&t) &&
           !ask.dim(&t, &layout->dim) && !ask.sizes(&t, &layout->sizes) && !ask.strides(&t, &layout->strides) &&
           !ask.storage_offset(&t, &layout->offset) && !ask.storage_size(&t, &layout->bytes) &&
           !ask.data_ptr(&t, &layout->numbers) && layout->numbers;
}

// Whether so many values are there: a storage can be resized under its tensors, to nothing where memory is short.
static int has(const Layout *layout, int64_t values, int64_t bytes_a_value) {
    return layout->offset >= 0 && layout->offset + values <= layout->bytes / bytes_a_value;
}

static int64_t bytes_a_value(int32_t dtype) {
    return dtype == code.is_float ? (int64_t)sizeof(float) : (int64_t)sizeof(double);
}

// A contiguous tensor (size,), or none.
static int takes_row(const void *tensor, int32_t dtype, int64_t size, void **numbers) {
    Layout layout = {.numbers = NULL};
    *numbers = NULL;
    if (!tensor) return 1;
    if (!is_readable(tensor, dtype, &layout) || layout.dim != 1 || layout.sizes[0] != size ||
        (size > 1 && layout.strides[0] != 1) || !has(&layout, size, bytes_a_value(dtype)))
        return 0;
    *numbers = layout.numbers;
    return 1;
}

// A contiguous tensor (N, C) or (N, C, L); of the sizes found before, if any were.
static int takes_batch(const void *tensor, int32_t dtype, Problem *p, void **numbers) {
    Layout layout;
    int64_t values = 1;
    if (!is_readable(tensor, dtype, &layout) || layout.dim < 2 || layout.dim > 3) return 0;
    for (int64_t d = layout.dim - 1; d >= 0; d--) {
        if (layout.sizes[d] < 1 || (layout.sizes[d] > 1 && layout.strides[d] != values)) return 0;
        values *= layout.sizes[d];
    }
    if (!has(&layout, values, bytes_a_value(dtype))) return 0;
    const int64_t N = layout.sizes[0], C = layout.sizes[1], L = layout.dim == 3 ? layout.sizes[2] : 1;
    if (p->K && (p->N != N || p->C != C || p->L != L)) return 0;
    p->K = 1, p->N = N, p->C = C, p->L = L;
    *numbers = layout.numbers;
    return 1;
}

// `Tensors` of tensors_in_c.py: a problem in tensors, of one network. `statistics` are mean and inv_std, (2 C,).
typedef struct {
    int64_t direction;
    const void *x, *grad_y, *out, *weight, *bias, *grad_weight, *grad_bias, *statistics, *running_mean, *running_var;
    const void *num_batches_tracked;
    int64_t threads;
    double eps, momentum;
} Tensors;

const int64_t size_of_tensors = sizeof(Tensors);

void run_float(const Problem *);
void run_double(const Problem *);

// Whether all could be read, and so was run; if not, nothing has been written.
int32_t run_tensors(const Tensors *given) {
    Problem p = {.direction = given->direction, .threads = given->threads, .eps_number = given->eps,
                 .momentum_number = given->momentum};
    const Tensor tensor = {given->x};
    int32_t dtype;
    void *x, *grad_y = NULL, *weight, *bias, *statistics, *num_batches_tracked = NULL;
    if (ask.dtype(&tensor, &dtype) || (dtype != code.is_float && dtype != code.is_double)) return 0;
    if (!takes_batch(given->x, dtype, &p, &x) || p.N * p.L < 2) return 0;
    if (given->direction == BACKWARD && !takes_batch(given->grad_y, dtype, &p, &grad_y)) return 0;
    if (given->out && !takes_batch(given->out, dtype, &p, &p.out)) return 0;
    if (!takes_row(given->weight, dtype, p.C, &weight) || !takes_row(given->bias, dtype, p.C, &bias) ||
        !takes_row(given->grad_weight, dtype, p.C, &p.grad_weight) ||
        !takes_row(given->grad_bias, dtype, p.C, &p.grad_bias) ||
        !takes_row(given->statistics, dtype, 2 * p.C, &statistics) ||
        !takes_row(given->running_mean, dtype, p.C, &p.running_mean) ||
        !takes_row(given->running_var, dtype, p.C, &p.running_var))
        return 0;
    if (given->num_batches_tracked) {
        Layout layout;
        if (!is_readable(given->num_batches_tracked, code.is_int64, &layout) || layout.dim ||
            !has(&layout, 1, sizeof(int64_t)))
            return 0;
        num_batches_tracked = layout.numbers;
    }
    p.x = x, p.grad_y = grad_y, p.weight = weight, p.bias = bias, p.num_batches_tracked = num_batches_tracked;
    p.mean = statistics;
    p.inv_std = (char *)statistics + p.C * bytes_a_value(dtype);
    (dtype == code.is_float ? run_float : run_double)(&p);
    return 1;
}
