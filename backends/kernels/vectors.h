// Vectors of this machine's width, and the product that all kernels share. Written for GCC and Clang.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, NV = 4; // numbers in a vector, and vectors in a panel
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8, NV = 2;
#else
constexpr int LANES = 4, NV = 2;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));

inline Vec load(const float* at) {
  Vec value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

inline void store(float* at, Vec value) { std::memcpy(at, &value, sizeof(value)); }

inline Vec all(float value) { return value - Vec{}; }

inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// exp for x <= 0: 0 below the smallest normal number, NaN for NaN. A polynomial of degree 6 after x = n ln 2 + r.
inline Vec exp_of_negative(Vec x) {
  const float round = 12582912.f; // 1.5 * 2^23: adding it rounds to an integer
  Vec shifted = fma(x, all(1.44269504f), all(round));
  Vec n = shifted - round;
  Vec r = fma(n, all(-0.693359375f), x);
  r = fma(n, all(2.12194440e-4f), r);
  Vec p = all(1.98756915e-4f);
  p = fma(p, r, all(1.39819995e-3f));
  p = fma(p, r, all(8.33345191e-3f));
  p = fma(p, r, all(4.16657959e-2f));
  p = fma(p, r, all(1.66666655e-1f));
  p = fma(p, r, all(5.00000012e-1f));
  p = fma(p, r * r, r + 1.f);
  IntVec bits = ((IntVec)shifted - (IntVec)all(round) + 127) << 23;
  Vec result = p * (Vec)bits;
  return x < -87.f ? Vec{} : result;
}

// Two vectors by indices: those of the second follow those of the first.
inline Vec shuffle(Vec a, Vec b, IntVec index) {
#if defined(__clang__)
  Vec result;
  for (int j = 0; j < LANES; ++j) result[j] = index[j] < LANES ? a[index[j]] : b[index[j] - LANES];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// All numbers of a vector by a function of two vectors, halves against halves.
template <int STEP = LANES / 2, typename Function>
inline float reduce(Vec x, Function function) {
  IntVec other;
  for (int j = 0; j < LANES; ++j) other[j] = j ^ STEP;
  x = function(x, shuffle(x, x, other));
  if constexpr (STEP > 1) return reduce<STEP / 2>(x, function);
  return x[0];
}

// C[R, V * LANES] = A[R, depth] B[depth, V * LANES], or += if `add`. Meanwhile as much of A from `ahead` on, if any, is
// fetched: it comes next, and memory is slower than the sums. If A is TURNED, it lies as [depth, R].
template <int R, int V, bool TURNED = false>
inline void product(
    const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc, bool add = false,
    const float* ahead = nullptr) {
  constexpr int64_t LINE = 16; // numbers in a line of the cache
  Vec sum[R][V] = {};
  for (int64_t line = 0; line < depth; line += LINE) {
    if (ahead && !TURNED)
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) __builtin_prefetch(ahead + r * lda + line);
    const int64_t stop = std::min(line + LINE, depth);
    for (int64_t k = line; k < stop; ++k) {
      if (ahead && TURNED) __builtin_prefetch(ahead + k * lda);
      Vec right[V];
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) right[v] = load(b + k * ldb + v * LANES);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        Vec left = all(TURNED ? a[k * lda + r] : a[r * lda + k]);
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) {
      float* at = c + r * ldc + v * LANES;
      store(at, add ? load(at) + sum[r][v] : sum[r][v]);
    }
}

// Turns LANES vectors around, by exchanges between pairs.
template <int STEP = 1>
inline void transpose(Vec* rows) {
  if constexpr (STEP < LANES) {
    IntVec low, high;
    for (int j = 0; j < LANES; ++j) {
      low[j] = j & STEP ? LANES + j - STEP : j;
      high[j] = j & STEP ? LANES + j : j + STEP;
    }
#pragma GCC unroll 32
    for (int i = 0; i < LANES; ++i) {
      if (i & STEP) continue;
      const Vec a = rows[i], b = rows[i + STEP];
      rows[i] = shuffle(a, b, low);
      rows[i + STEP] = shuffle(a, b, high);
    }
    transpose<STEP * 2>(rows);
  }
}

// Columns [0, count) of rows of which the first `rows` are given, times a factor, as rows of `vectors` vectors; what is
// not given counts as 0.
inline void turn(
    const float* from, int64_t from_line, int64_t rows, int64_t count, float* to, int64_t to_line, int64_t vectors,
    float factor = 1.f) {
  for (int64_t v = 0; v < vectors; ++v) {
    const float* tall = from + v * LANES * from_line;
    const int64_t given = std::min<int64_t>(LANES, rows - v * LANES);
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) {
      Vec tile[LANES];
#pragma GCC unroll 32
      for (int i = 0; i < LANES; ++i) tile[i] = i < given ? load(tall + i * from_line + at) * factor : Vec{};
      transpose(tile);
#pragma GCC unroll 32
      for (int i = 0; i < LANES; ++i) store(to + (at + i) * to_line + v * LANES, tile[i]);
    }
    for (; at < count; ++at)
      for (int64_t i = 0; i < LANES; ++i)
        to[at * to_line + v * LANES + i] = i < given ? tall[i * from_line + at] * factor : 0.f;
  }
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
template <int R, int V, bool TURNED>
inline void multiply_rows(
    int64_t rows, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc,
    bool add, bool ahead) {
  const int64_t line = TURNED ? 1 : lda, block = TURNED ? depth * lda : depth;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    const float* next = r + 2 * R <= rows ? a + (r + R) * line : a + block;
    if (TURNED && r + 3 * R <= rows) next += R; // what lies beside the next ones is mostly fetched with them
    product<R, V, TURNED>(a + r * line, lda, b, ldb, depth, c + r * ldc, ldc, add, ahead ? next : nullptr);
  }
  if constexpr (R > 1)
    if (r < rows)
      multiply_rows<TURNED ? 1 : R / 2, V, TURNED>(rows - r, a + r * line, lda, b, ldb, depth, c + r * ldc, ldc, add, false);
}

// C[rows, width * LANES] = or += A[rows, depth] B[depth, width * LANES]: with as many sums as there are registers.
template <bool TURNED = false>
inline void multiply(
    int64_t width, int64_t rows, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, float* c,
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
