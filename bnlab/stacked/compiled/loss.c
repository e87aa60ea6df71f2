// The mean cross-entropy of a batch and its gradient, and the sums of a gradient over the batch: in the order in which
// torch's operations add, and with the exponential and the logarithm that they call, so that a bit more or less tells
// of a mistake. `step.c` includes it for each type of number.

// L = -mean_n log softmax(z_n)[y_n],  dL/dz = (softmax(z) - one_hot(y)) / N,  z (N, C); and how many samples have their
// largest logit at their class: the first of equals, and a NaN is larger than any number, as in torch.
static void OF(cross_entropy)(int64_t N, int64_t C, const T *restrict z, const int64_t *restrict classes,
                              T *restrict gradient, T *loss, int64_t *hits, const Functions *functions, T *scratch) {
    enum { LANES = sizeof(OF(whole)) / sizeof(T) };
    const OF(Elementwise) exponential = functions->exponential, logarithm = functions->logarithm;
    const T minus_one_nth = (T)(-1.0 / (double)N);
    double sum = 0;
    int64_t right = 0;
    for (int64_t first = 0; first < N; first += LANES) {
        const int64_t samples = at_most(N - first, LANES);
        OF(whole) *turned = (OF(whole) *)scratch;  // a vector of samples for each class
        for (int64_t c = 0; c < C; c++)
            for (int64_t n = 0; n < LANES; n++) scratch[c * LANES + n] = n < samples ? z[(first + n) * C + c] : 0;
        T largest[LANES], at_class[LANES] = {0};
        for (int64_t n = 0; n < LANES; n++) largest[n] = scratch[n];
        for (int64_t c = 1; c < C; c++)
            for (int64_t n = 0; n < LANES; n++)
                largest[n] = scratch[c * LANES + n] > largest[n] ? scratch[c * LANES + n] : largest[n];
        const OF(whole) shift = *(OF(whole) *)largest;
        // A sample's exponentials are summed vector by vector, if they fill one, then number by number in double and
        // half by half in float.
        OF(whole) part[LANES] = {{0}};
        for (int64_t c = 0; c < C; c++) part[C < LANES ? 0 : c % LANES] += exponential(turned[c] - shift);
        if (sizeof(T) == 8)
            for (int64_t j = 1; j < LANES; j++) part[0] += part[j];
        else
            for (int64_t half = LANES / 2; half > 0; half /= 2)
                for (int64_t j = 0; j < half; j++) part[j] += part[j + half];
        const OF(whole) total = logarithm(part[0]);
        for (int64_t c = 0; c < C; c++) {
            const OF(whole) log_p = turned[c] - shift - total;
            OF(whole) p = exponential(log_p);
            for (int64_t n = 0; n < samples; n++) {
                const int is_class = classes[first + n] == c;
                if (is_class) at_class[n] = log_p[n];
                gradient[(first + n) * C + c] = (is_class ? minus_one_nth : 0) - p[n] * minus_one_nth;
            }
        }
        for (int64_t n = 0; n < samples; n++) {
            const T *row = z + (first + n) * C;
            int64_t predicted = 0;
            for (int64_t c = 1; c < C; c++)
                if (row[c] > row[predicted] || (row[c] != row[c] && row[predicted] == row[predicted])) predicted = c;
            right += predicted == classes[first + n];
            sum -= at_class[n];
        }
    }
    *loss = (T)(sum / (double)N);
    *hits = right;
}

// Sums of `count` rows, each `lanes` numbers from a, `apart` numbers between two: 16 rows (or more, of many) are added
// one after the other, 16 such sums likewise, and so on four levels high, which keeps the rounding small.
static void OF(cascade)(int64_t count, int64_t lanes, const T *a, int64_t apart, T *restrict sums) {
    enum { LEVELS = 4, WIDE = 128 / sizeof(T) };
    int64_t power = 0;
    while (((int64_t)1 << power) < count) power++;
    power = power / LEVELS > 4 ? power / LEVELS : 4;
    const int64_t step = (int64_t)1 << power;
    T level[LEVELS][WIDE] = {{0}};
    int64_t i = 0;
    while (i + step <= count) {
        for (const int64_t end = i + step; i < end; i++)
            for (int64_t n = 0; n < lanes; n++) level[0][n] += a[i * apart + n];
        for (int64_t j = 1; j < LEVELS; j++) {
            for (int64_t n = 0; n < lanes; n++) level[j][n] += level[j - 1][n], level[j - 1][n] = 0;
            if (i & ((step - 1) << (j * power))) break;
        }
    }
    for (; i < count; i++)
        for (int64_t n = 0; n < lanes; n++) level[0][n] += a[i * apart + n];
    for (int64_t n = 0; n < lanes; n++) {
        sums[n] = level[0][n];
        for (int64_t j = 1; j < LEVELS; j++) sums[n] += level[j][n];
    }
}

// sums (C,) of g (N, C): 128 bytes of a row at a time, and what is left by four sums of every fourth row.
static void OF(sum_over_batch)(int64_t N, int64_t C, const T *g, T *restrict sums) {
    enum { WIDE = 128 / sizeof(T) };
    int64_t c = 0;
    for (; c + WIDE <= C; c += WIDE) OF(cascade)(N, WIDE, g + c, C, sums + c);
    const int64_t left = C - c;
    T part[4][WIDE];
    for (int64_t j = 0; left && j < 4; j++) OF(cascade)(N / 4, left, g + j * C + c, 4 * C, part[j]);
    for (int64_t i = N / 4 * 4; i < N; i++)
        for (int64_t n = 0; n < left; n++) part[0][n] += g[i * C + c + n];
    for (int64_t n = 0; n < left; n++) sums[c + n] = part[0][n] + part[1][n] + part[2][n] + part[3][n];
}
