// The product that all kernels share: in float32, and in integers.

#pragma once

#include "units.h"

namespace {

constexpr int64_t LINE = 16; // numbers in a line of the cache

// The right operand of a product: vector v of row k.
template <typename T>
struct Right {
  const T* at;
  int64_t step;

  auto operator()(int64_t k, int v) const { return load(at + k * step + v * LANES); }
};

// The same, and what is read is copied on the way, to rows that are `line` apart.
struct Copied {
  const float* at;
  int64_t step;
  float* copy;
  int64_t line;

  Vec operator()(int64_t k, int v) const {
    const Vec value = load(at + k * step + v * LANES);
    store(copy + k * line + v * LANES, value);
    return value;
  }
};

// Whether there is time to fetch something between the sums: where vectors are short, a line is soon done.
constexpr bool WIDE = NV == 4;

// Lines of the cache that are fetched into its second level little by little, while something else is computed:
// `numbers` numbers of each of some rows, which are `step` apart. They are to be read, or written.
template <bool WRITTEN = false>
struct Fetch {
  const float* at;
  int64_t rows, numbers, step;
  int64_t number = 0; // of the row that `at` is now

  // How many at a time, if they are to be there after so many times. The last time may fetch some more.
  int64_t share(int64_t times) const {
    return (rows * ((numbers + LINE - 1) / LINE) + times - 1) / times;
  }

  void operator()(int64_t count) {
    for (; count > 0; --count) { // without branches, which would be foretold wrongly
      __builtin_prefetch(at + number, WRITTEN, 2);
      number += LINE;
      const int64_t same = -static_cast<int64_t>(number < numbers); // row: all bits, or none
      number &= same;
      at += step & ~same;
    }
  }
};

// C[R, V * LANES] = A[R, depth] B[depth, V * LANES], or += if `add`. Meanwhile as much of A from `ahead` on, if any, is
// fetched: it comes next, and memory is slower than the sums. A function is called, too, once for each line of a row of A.
template <int R, int V, typename T, typename Matrix, typename Meanwhile>
inline void product(
    const T* a, int64_t lda, const Matrix& b, int64_t depth, T* c, int64_t ldc, bool add, const T* ahead,
    Meanwhile& meanwhile) {
  using Vector = decltype(load(a));
  Vector sum[R][V] = {};
  for (int64_t line = 0; line < depth; line += LINE) {
    if (ahead)
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) __builtin_prefetch(ahead + r * lda + line);
    meanwhile();
    const int64_t stop = std::min(line + LINE, depth);
    for (int64_t k = line; k < stop; ++k) {
      Vector right[V];
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) right[v] = b(k, v);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        Vector left = all(a[r * lda + k]);
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

// product for any number of rows, R at a time, and what is left at once. With `ahead` the next rows are fetched meanwhile,
// and during the last ones those from there on.
template <int R, int V, typename T, typename Matrix, typename Meanwhile>
inline void multiply_rows(
    int64_t rows, const T* a, int64_t lda, const Matrix& b, int64_t depth, T* c, int64_t ldc, bool add, const T* ahead,
    Meanwhile& meanwhile) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    const T* next = ahead && r + 2 * R <= rows ? a + (r + R) * lda : ahead;
    product<R, V>(a + r * lda, lda, b, depth, c + r * ldc, ldc, add, next, meanwhile);
  }
  if constexpr (R > 1)
    if (r < rows)
      multiply_rows<R - 1, V, T>(rows - r, a + r * lda, lda, b, depth, c + r * ldc, ldc, add, ahead, meanwhile);
}

// How many rows are multiplied at a time by a panel of some width: with as many sums as there are registers.
inline int64_t rows_at_a_time(int64_t width) { return width == 4 || (NV == 2 && width == 2) ? 6 : 8; }

// How often `meanwhile` is called in a product.
inline int64_t times_of(int64_t width, int64_t rows, int64_t depth) {
  const int64_t at_a_time = rows_at_a_time(width);
  return (rows + at_a_time - 1) / at_a_time * ((depth + LINE - 1) / LINE);
}

// C[rows, width * LANES] = or += A[rows, depth] B[depth, width * LANES].
template <typename T, typename Matrix, typename Meanwhile>
inline void multiply(
    int64_t width, int64_t rows, const T* a, int64_t lda, const Matrix& b, int64_t depth, T* c, int64_t ldc, bool add,
    const T* ahead, Meanwhile meanwhile) {
  switch (width) {
    case 1: return multiply_rows<8, 1>(rows, a, lda, b, depth, c, ldc, add, ahead, meanwhile);
    case 2: return multiply_rows<NV == 4 ? 8 : 6, 2>(rows, a, lda, b, depth, c, ldc, add, ahead, meanwhile);
#if defined(__AVX512F__)
    case 3: return multiply_rows<8, 3>(rows, a, lda, b, depth, c, ldc, add, ahead, meanwhile);
    case 4: return multiply_rows<6, 4>(rows, a, lda, b, depth, c, ldc, add, ahead, meanwhile);
#endif
  }
}

template <typename T>
inline void multiply(
    int64_t width, int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, int64_t depth, T* c, int64_t ldc,
    const T* ahead = nullptr) {
  multiply(width, rows, a, lda, Right<T>{b, ldb}, depth, c, ldc, false, ahead, [] {});
}

} // namespace
