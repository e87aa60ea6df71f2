// c = a b for matrices that fit into a core's caches; `step.c` includes it for each type of number.
//
// A tile of c, some rows and vectors, stays in registers while its terms are added one after the other, each by a fused
// multiply-add. The BLAS adds short sums in that order too, so the results are the same to the bit, but it packs both
// factors first, which costs small matrices a sixth of their speed (`bnlab/bench/records/sweep.md`).

#define TILE(V, ROWS, VECTORS)                                                                                      \
    static void OF(tile_##V##_##ROWS##_##VECTORS)(int64_t depth, const T *a, int64_t row_a, int64_t term_a,         \
                                                  const T *b, int64_t term_b, T *c, int64_t row_c) {                \
        const int64_t lanes = sizeof(OF(V)) / sizeof(T);                                                            \
        OF(V) sums[ROWS][VECTORS], factors[VECTORS];                                                                \
        for (int r = 0; r < ROWS; r++)                                                                              \
            for (int v = 0; v < VECTORS; v++) sums[r][v] = (OF(V)){0};                                              \
        for (int64_t k = 0; k < depth; k++, a += term_a, b += term_b) {                                             \
            for (int v = 0; v < VECTORS; v++) factors[v] = *(const OF(V) *)(b + v * lanes);                         \
            for (int r = 0; r < ROWS; r++)                                                                          \
                for (int v = 0; v < VECTORS; v++) sums[r][v] += a[r * row_a] * factors[v];                          \
        }                                                                                                           \
        for (int r = 0; r < ROWS; r++)                                                                              \
            for (int v = 0; v < VECTORS; v++) *(OF(V) *)(c + r * row_c + v * lanes) = sums[r][v];                   \
    }

#define TILES(V, VECTORS) TILE(V, 1, VECTORS) TILE(V, 4, VECTORS) TILE(V, 8, VECTORS)
#define HEIGHTS(V, VECTORS) {OF(tile_##V##_1_##VECTORS), OF(tile_##V##_4_##VECTORS), OF(tile_##V##_8_##VECTORS)}

TILES(whole, 3)
TILES(whole, 2)
TILES(whole, 1)
TILES(half, 1)
TILES(quarter, 1)
TILES(single, 1)

typedef void (*OF(Tile))(int64_t, const T *, int64_t, int64_t, const T *, int64_t, T *, int64_t);

static const struct {
    int64_t columns;
    OF(Tile) of_height[3];  // 1, 4 and 8 rows
} OF(tiles)[] = {
    {3 * sizeof(OF(whole)) / sizeof(T), HEIGHTS(whole, 3)},
    {2 * sizeof(OF(whole)) / sizeof(T), HEIGHTS(whole, 2)},
    {sizeof(OF(whole)) / sizeof(T), HEIGHTS(whole, 1)},
    {sizeof(OF(half)) / sizeof(T), HEIGHTS(half, 1)},
    {sizeof(OF(quarter)) / sizeof(T), HEIGHTS(quarter, 1)},
    {1, HEIGHTS(single, 1)},
};

// c (rows, columns) and the rows of b, (depth, columns), are contiguous; of a the numbers are row_a apart from row
// to row and term_a from term to term.
static void OF(product)(int64_t rows, int64_t columns, int64_t depth, const T *a, int64_t row_a, int64_t term_a,
                        const T *b, T *c) {
    const int64_t lanes = sizeof(OF(whole)) / sizeof(T);
    for (int64_t first = 0, i = 0; first < columns; first += OF(tiles)[i].columns) {
        const int64_t left = columns - first;
        // A strip of b stays in the first cache while it meets all rows of a. Four vectors are twice two.
        for (i = left >= 4 * lanes && left < 5 * lanes; OF(tiles)[i].columns > left;) i++;
        for (int64_t row = 0, height; row < rows; row += height) {
            height = rows - row >= 8 && REGISTERS == 32 ? 8 : rows >= 4 ? 4 : 1;
            row = at_most(row, rows - height);  // the last four may meet rows that are done
            OF(tiles)[i].of_height[height / 4](depth, a + row * row_a, row_a, term_a, b + first, columns,
                                               c + row * columns + first, columns);
        }
    }
}

// b (columns, rows) = a (rows, columns) turned, by blocks of 4 x 4.
static void OF(turn)(int64_t rows, int64_t columns, const T *restrict a, T *restrict b) {
    const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int64_t j = 0; j < whole_columns; j += 4)
        for (int64_t i = 0; i < whole_rows; i += 4) {
            OF(four) r0 = *(const OF(four) *)(a + i * columns + j), r1 = *(const OF(four) *)(a + (i + 1) * columns + j);
            OF(four) r2 = *(const OF(four) *)(a + (i + 2) * columns + j), r3 = *(const OF(four) *)(a + (i + 3) * columns + j);
            OF(four) s0 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), s1 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
            OF(four) s2 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5), s3 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
            *(OF(four) *)(b + j * rows + i) = __builtin_shufflevector(s0, s2, 0, 1, 4, 5);
            *(OF(four) *)(b + (j + 1) * rows + i) = __builtin_shufflevector(s0, s2, 2, 3, 6, 7);
            *(OF(four) *)(b + (j + 2) * rows + i) = __builtin_shufflevector(s1, s3, 0, 1, 4, 5);
            *(OF(four) *)(b + (j + 3) * rows + i) = __builtin_shufflevector(s1, s3, 2, 3, 6, 7);
        }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
}
