// The update of gradient descent with momentum, in the order in which torch's fused kernel rounds. `step.c` includes it
// for each type of number.

// Of numbers first .. end - 1. With d = g + weight_decay w:
//     v = momentum v + (1 - dampening) d, at first v = d;   w = w - lr v, Nesterov's w - lr (d + momentum v)
static inline __attribute__((always_inline)) void OF(descend)(
    int64_t first, int64_t end, T *restrict w, const T *restrict g, T *restrict v, T lr, T weight_decay, T momentum,
    T fresh, int64_t is_first, int64_t nesterov, int in_vectors) {
    for (int64_t i = first; i < end; i++) {
        T d = weight_decay ? OF(fma)(w[i], weight_decay, g[i]) : g[i];
        if (momentum) {
            // Where numbers do not fill 32 bytes any more, torch's compiler has fused the other product.
            const T moved = in_vectors ? OF(fma)(d, fresh, v[i] * momentum) : OF(fma)(v[i], momentum, d * fresh);
            v[i] = is_first ? d : moved;
            d = nesterov ? OF(fma)(v[i], momentum, d) : v[i];
        }
        w[i] = OF(fma)(d, -lr, w[i]);
    }
}

// A network's numbers are its parameters, one after the other.
static void OF(update)(const Update *update, int64_t k) {
    const T lr = (T)update->lr[k], decay = (T)update->weight_decay[k], momentum = (T)update->momentum[k];
    const T fresh = (T)(1 - update->dampening[k]);
    T *w = at(update->rows, k), *v = at(update->velocity, k);
    const T *g = at(update->gradients, k);
    for (int64_t piece = 0, first = 0; piece < update->num_pieces; piece++) {
        const int64_t end = first + update->sizes[piece], left = end - update->sizes[piece] % (32 / (int64_t)sizeof(T));
        OF(descend)(first, left, w, g, v, lr, decay, momentum, fresh, update->is_first, update->nesterov, 1);
        OF(descend)(left, end, w, g, v, lr, decay, momentum, fresh, update->is_first, update->nesterov, 0);
        first = end;
    }
}
