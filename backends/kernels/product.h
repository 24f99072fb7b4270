// The product that all kernels share: in float32, and in integers.

#pragma once

#include "units.h"

namespace {

// C[R, V * LANES] = A[R, depth] B[depth, V * LANES], or += if `add`. Meanwhile as much of A from `ahead` on, if any, is
// fetched: it comes next, and memory is slower than the sums. If A is TURNED, it lies as [depth, R].
template <int R, int V, bool TURNED = false, typename T>
inline void product(
    const T* a, int64_t lda, const T* b, int64_t ldb, int64_t depth, T* c, int64_t ldc, bool add = false,
    const T* ahead = nullptr) {
  using Vector = decltype(load(a));
  constexpr int64_t LINE = 16; // numbers in a line of the cache
  Vector sum[R][V] = {};
  for (int64_t line = 0; line < depth; line += LINE) {
    if (ahead && !TURNED)
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) __builtin_prefetch(ahead + r * lda + line);
    const int64_t stop = std::min(line + LINE, depth);
    for (int64_t k = line; k < stop; ++k) {
      if (ahead && TURNED) __builtin_prefetch(ahead + k * lda);
      Vector right[V];
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) right[v] = load(b + k * ldb + v * LANES);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        Vector left = all(TURNED ? a[k * lda + r] : a[r * lda + k]);
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v) sum[r][v] = accumulate(left, right[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) {
      T* at = c + r * ldc + v * LANES;
      store(at, add ? load(at) + sum[r][v] : sum[r][v]);
    }
}

// Products of a row of numbers with M rows of x, which are `line` apart; they are written N apart. For few rows: each
// number is read once, in its order, which is as fast as memory gives it.
template <int M>
inline void dots(const float* row, const float* x, int64_t line, int64_t K, float* result, int64_t N) {
  constexpr int U = M == 1 ? 4 : 2; // sums at a time: one addition need not wait for the other
  Vec sum[M][U] = {};
  int64_t k = 0;
  for (; k + U * LANES <= K; k += U * LANES)
#pragma GCC unroll 32
    for (int u = 0; u < U; ++u) {
      const Vec left = load(row + k + u * LANES);
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sum[m][u] = fma(left, load(x + m * line + k + u * LANES), sum[m][u]);
    }
  for (; k + LANES <= K; k += LANES)
    for (int m = 0; m < M; ++m) sum[m][0] = fma(load(row + k), load(x + m * line + k), sum[m][0]);
  for (int m = 0; m < M; ++m) {
    for (int u = 1; u < U; ++u) sum[m][0] += sum[m][u];
    float value = reduce(sum[m][0], [](Vec a, Vec b) { return a + b; });
    for (int64_t at = k; at < K; ++at) value = std::fma(row[at], x[m * line + at], value);
    result[m * N] = value;
  }
}

// Columns [0, count) of rows of which the first `rows` are given, as rows of `vectors` vectors; what is not given counts
// as 0. All numbers are changed by a function on the way.
template <typename T, typename Function>
inline void turn(
    const T* from, int64_t from_line, int64_t rows, int64_t count, T* to, int64_t to_line, int64_t vectors,
    Function changed) {
  using Vector = decltype(load(from));
  for (int64_t v = 0; v < vectors; ++v) {
    const T* tall = from + v * LANES * from_line;
    const int64_t given = std::min<int64_t>(LANES, rows - v * LANES);
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) {
      Vector tile[LANES];
#pragma GCC unroll 32
      for (int i = 0; i < LANES; ++i) tile[i] = i < given ? changed(load(tall + i * from_line + at)) : Vector{};
      transpose(tile);
#pragma GCC unroll 32
      for (int i = 0; i < LANES; ++i) store(to + (at + i) * to_line + v * LANES, tile[i]);
    }
    for (; at < count; ++at)
      for (int64_t i = 0; i < LANES; ++i)
        to[at * to_line + v * LANES + i] = i < given ? changed(tall[i * from_line + at]) : T{};
  }
}

template <typename T>
inline void turn(
    const T* from, int64_t from_line, int64_t rows, int64_t count, T* to, int64_t to_line, int64_t vectors) {
  turn(from, from_line, rows, count, to, to_line, vectors, [](auto x) { return x; });
}

// Vectors of a row in panels of about equal width, of which a product takes one at a time.
struct Panels {
  int64_t vectors, count;

  explicit Panels(int64_t size) : vectors((size + LANES - 1) / LANES), count((vectors + NV - 1) / NV) {}
  int64_t first(int64_t panel) const { return panel * vectors / count; }
  int64_t width(int64_t panel) const { return first(panel + 1) - first(panel); }
};

// product for any number of rows, R at a time. With `ahead` the next rows are fetched meanwhile; behind the last ones, the
// first of the next block of depth.
template <int R, int V, bool TURNED, typename T>
inline void multiply_rows(
    int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, int64_t depth, T* c, int64_t ldc,
    bool add, bool ahead) {
  const int64_t line = TURNED ? 1 : lda, block = TURNED ? depth * lda : depth;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    const T* next = r + 2 * R <= rows ? a + (r + R) * line : a + block;
    if (TURNED && r + 3 * R <= rows) next += R; // what lies beside the next ones is mostly fetched with them
    product<R, V, TURNED>(a + r * line, lda, b, ldb, depth, c + r * ldc, ldc, add, ahead ? next : nullptr);
  }
  if constexpr (R > 1)
    if (r < rows)
      multiply_rows<TURNED ? 1 : R / 2, V, TURNED>(rows - r, a + r * line, lda, b, ldb, depth, c + r * ldc, ldc, add, false);
}

// C[rows, width * LANES] = or += A[rows, depth] B[depth, width * LANES]: with as many sums as there are registers.
template <bool TURNED = false, typename T>
inline void multiply(
    int64_t width, int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, int64_t depth, T* c,
    int64_t ldc, bool add = false, bool ahead = false) {
  switch (width) {
    case 1: return multiply_rows<8, 1, TURNED>(rows, a, lda, b, ldb, depth, c, ldc, add, ahead);
    case 2: return multiply_rows<NV == 4 ? 8 : 6, 2, TURNED>(rows, a, lda, b, ldb, depth, c, ldc, add, ahead);
#if defined(__AVX512F__)
    case 3: return multiply_rows<8, 3, TURNED>(rows, a, lda, b, ldb, depth, c, ldc, add, ahead);
    case 4: return multiply_rows<6, 4, TURNED>(rows, a, lda, b, ldb, depth, c, ldc, add, ahead);
#endif
  }
}

} // namespace
