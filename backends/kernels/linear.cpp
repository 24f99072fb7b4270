// activation(x @ weight.T + bias), float32, of a weight [N, K] as the model stores it, by rows or by columns (which is
// [K, N] by rows, as GPT-2 has it). It is not copied.
//
// The roles of the operands are swapped: rows of the weight are broadcast, number by number, against vectors of rows of
// x. So only x is rearranged, once for all threads, and a block of the transposed result is turned around when it is
// done. Blocks of K keep the vectors in the first-level cache; the next rows of the weight are fetched ahead.

#include "vectors.h"

#include <vector>

namespace {

constexpr int64_t DEPTH = 192;     // of a block of K
constexpr int64_t MOST_ROWS = 512; // of x at a time

enum Activation { NONE, RELU, GELU, GELU_TANH, QUICK_GELU, SILU, SIGMOID };

inline Vec magnitude(Vec x) { return (Vec)((IntVec)x & 0x7fffffff); }

inline Vec sigmoid(Vec x) {
  Vec e = exp_of_negative(-magnitude(x)), over = 1.f / (1.f + e);
  return x < 0.f ? e * over : over;
}

// 1 - erf(z) for z >= 0: exp(-z^2) times a polynomial of degree 9 in 1 / (1 + z / 2), fitted to relative 4.2e-8.
inline Vec erfc(Vec z) {
  Vec t = 1.f / (1.f + 0.5f * z);
  Vec p = all(-5.88474847e-2f);
  p = fma(p, t, all(2.83489451e-1f));
  p = fma(p, t, all(-4.84940572e-1f));
  p = fma(p, t, all(2.75467077e-1f));
  p = fma(p, t, all(-2.48222946e-2f));
  p = fma(p, t, all(2.01917811e-1f));
  p = fma(p, t, all(2.43299926e-1f));
  p = fma(p, t, all(2.82348053e-1f));
  p = fma(p, t, all(2.82087992e-1f));
  return p * t * exp_of_negative(-z * z);
}

inline Vec activate(int activation, Vec x) {
  switch (activation) {
    case RELU: return x < 0.f ? Vec{} : x;
    case GELU: {
      Vec half = 0.5f * erfc(magnitude(x) * 0.70710678f);
      return x * (x < 0.f ? half : 1.f - half);
    }
    case GELU_TANH: return x * sigmoid(1.59576912f * fma(0.044715f * x * x, x, x));
    case QUICK_GELU: return x * sigmoid(1.702f * x);
    case SILU: return x * sigmoid(x);
    case SIGMOID: return sigmoid(x);
    default: return x;
  }
}

struct Operands {
  const float *x, *weight, *bias;
  float* result;
  int64_t line, M, K, N; // line: from one row of x to the next
  int activation, threads;
  bool columns; // the weight lies as [K, N]
};

// Turns a tile of sums around, up to LANES columns of the result for up to LANES rows.
inline void finish(const Operands& o, const float* sums, int64_t line, int64_t m0, int64_t n0, int64_t columns) {
  Vec tile[LANES];
  const int64_t rows = std::min<int64_t>(LANES, o.M - m0);
  const float* bias = o.bias + n0;
#pragma GCC unroll 32
  for (int i = 0; i < LANES; ++i) {
    tile[i] = i < columns ? load(sums + i * line) : Vec{};
    if (o.bias && i < columns) tile[i] += bias[i];
  }
  if (o.activation != NONE)
    for (int i = 0; i < LANES; ++i) tile[i] = activate(o.activation, tile[i]);
  transpose(tile);
  float* to = o.result + m0 * o.N + n0;
  if (rows == LANES && columns == LANES)
#pragma GCC unroll 32
    for (int i = 0; i < LANES; ++i) store(to + i * o.N, tile[i]);
  else
    for (int i = 0; i < rows; ++i) std::memcpy(to + i * o.N, &tile[i], columns * sizeof(float));
}

void compute(const Operands& o) {
  static thread_local std::vector<float> memory;
  const Panels panels(o.M);
  const int64_t line = panels.vectors * LANES;
  if (static_cast<int64_t>(memory.size()) < line * o.K) memory.resize(line * o.K);
  float* packed = memory.data();
  // Rows of the weight that a thread takes at a time: a multiple of 24, as products take 6 or 8.
  const int64_t block = std::clamp<int64_t>(o.N / (o.threads * 2) / 24 * 24, 24, 192), blocks = (o.N + block - 1) / block;
#pragma omp parallel num_threads(o.threads)
  {
    static thread_local std::vector<float> sums_memory;
    if (static_cast<int64_t>(sums_memory.size()) < block * line) sums_memory.resize(block * line);
    float* sums = sums_memory.data();
#pragma omp for schedule(static) collapse(2)
    for (int64_t p = 0; p < panels.count; ++p)
      for (int64_t k = 0; k < o.K; k += DEPTH)
        turn(o.x + panels.first(p) * LANES * o.line + k, o.line, o.M - panels.first(p) * LANES, std::min(DEPTH, o.K - k),
             packed + (panels.first(p) * o.K + k * panels.width(p)) * LANES, panels.width(p) * LANES, panels.width(p));
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t n0 = b * block, rows = std::min(block, o.N - n0);
      if (!o.K) std::fill_n(sums, rows * line, 0.f);
      for (int64_t k = 0; k < o.K; k += DEPTH)
        for (int64_t p = 0; p < panels.count; ++p) {
          const int64_t first = panels.first(p) * LANES, width = panels.width(p);
          const float* x = packed + first * o.K + k * width * LANES;
          const int64_t depth = std::min(DEPTH, o.K - k);
          if (o.columns)
            multiply<true>(width, rows, o.weight + k * o.N + n0, o.N, x, width * LANES, depth, sums + first, line,
                           k > 0, true);
          else
            multiply(width, rows, o.weight + n0 * o.K + k, o.K, x, width * LANES, depth, sums + first, line, k > 0,
                     true);
        }
      for (int64_t v = 0; v < panels.vectors; ++v)
        for (int64_t n = 0; n < rows; n += LANES)
          finish(o, sums + n * line + v * LANES, line, v * LANES, n0 + n, std::min<int64_t>(LANES, rows - n));
    }
  }
}

} // namespace

extern "C" void linear(
    const float* x, const float* weight, const float* bias, float* result, const int64_t* sizes, int32_t activation,
    int32_t threads) {
  const int64_t M = sizes[0], K = sizes[1], N = sizes[2], line = sizes[3], columns = sizes[4];
  const int64_t parts = (M + MOST_ROWS - 1) / MOST_ROWS;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = M * part / parts, last = M * (part + 1) / parts;
    compute({x + first * line, weight, bias, result + first * N, line, last - first, K, N, activation, threads, columns != 0});
  }
}
