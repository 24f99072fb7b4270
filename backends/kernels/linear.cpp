// activation(x @ weight.T + bias), float32, for each of some weights [N, K] as the model stores them, by rows or by
// columns (which is [K, N] by rows, as GPT-2 has it). They are not copied.
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

struct Linear {
  const float *weight, *bias;
  float* result;
  int64_t N;
};

struct Operands {
  const float* x;
  std::vector<Linear> linears;
  int64_t line, M, K; // line: from one row of x to the next
  int activation, threads;
  bool columns; // the weights lie as [K, N]
};

// Rows of a weight that a thread takes at a time: as many columns of the result, whose rows are N apart.
struct Share {
  const float *weight, *bias;
  float* result;
  int64_t rows, N;
};

std::vector<Share> shares_of(const Operands& o, int64_t size) {
  std::vector<Share> shares;
  for (const Linear& each : o.linears)
    for (int64_t n = 0; n < each.N; n += size)
      shares.push_back({each.weight + n * (o.columns ? 1 : o.K), each.bias ? each.bias + n : nullptr, each.result + n,
                        std::min(size, each.N - n), each.N});
  return shares;
}

// Turns a tile of sums around, up to LANES columns of the result for up to LANES rows.
inline void finish(const Operands& o, const Share& share, const float* sums, int64_t line, int64_t m0, int64_t n0) {
  Vec tile[LANES];
  const int64_t rows = std::min<int64_t>(LANES, o.M - m0), columns = std::min<int64_t>(LANES, share.rows - n0);
#pragma GCC unroll 32
  for (int i = 0; i < LANES; ++i) {
    tile[i] = i < columns ? load(sums + i * line) : Vec{};
    if (share.bias && i < columns) tile[i] += share.bias[n0 + i];
  }
  if (o.activation != NONE)
    for (int i = 0; i < LANES; ++i) tile[i] = activate(o.activation, tile[i]);
  transpose(tile);
  float* to = share.result + m0 * share.N + n0;
  if (rows == LANES && columns == LANES)
#pragma GCC unroll 32
    for (int i = 0; i < LANES; ++i) store(to + i * share.N, tile[i]);
  else
    for (int i = 0; i < rows; ++i) std::memcpy(to + i * share.N, &tile[i], columns * sizeof(float));
}

void compute(const Operands& o) {
  static thread_local std::vector<float> memory;
  const Panels panels(o.M);
  const int64_t line = panels.vectors * LANES;
  if (static_cast<int64_t>(memory.size()) < line * o.K) memory.resize(line * o.K);
  float* packed = memory.data();
  // A multiple of 24, as products take 6 or 8 rows.
  int64_t N = 0;
  for (const Linear& each : o.linears) N += each.N;
  const int64_t size = std::clamp<int64_t>(N / (o.threads * 2) / 24 * 24, 24, 192);
  const std::vector<Share> shares = shares_of(o, size);
#pragma omp parallel num_threads(o.threads)
  {
    static thread_local std::vector<float> sums_memory;
    if (static_cast<int64_t>(sums_memory.size()) < size * line) sums_memory.resize(size * line);
    float* sums = sums_memory.data();
#pragma omp for schedule(static) collapse(2)
    for (int64_t p = 0; p < panels.count; ++p)
      for (int64_t k = 0; k < o.K; k += DEPTH)
        turn(o.x + panels.first(p) * LANES * o.line + k, o.line, o.M - panels.first(p) * LANES, std::min(DEPTH, o.K - k),
             packed + (panels.first(p) * o.K + k * panels.width(p)) * LANES, panels.width(p) * LANES, panels.width(p));
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
      const Share& share = shares[b];
      if (!o.K) std::fill_n(sums, share.rows * line, 0.f);
      for (int64_t k = 0; k < o.K; k += DEPTH)
        for (int64_t p = 0; p < panels.count; ++p) {
          const int64_t first = panels.first(p) * LANES, width = panels.width(p);
          const float* x = packed + first * o.K + k * width * LANES;
          const int64_t depth = std::min(DEPTH, o.K - k);
          if (o.columns)
            multiply<true>(width, share.rows, share.weight + k * share.N, share.N, x, width * LANES, depth,
                           sums + first, line, k > 0, true);
          else
            multiply(width, share.rows, share.weight + k, o.K, x, width * LANES, depth, sums + first, line,
                     k > 0, true);
        }
      for (int64_t v = 0; v < panels.vectors; ++v)
        for (int64_t n = 0; n < share.rows; n += LANES)
          finish(o, share, sums + n * line + v * LANES, line, v * LANES, n);
    }
  }
}

// Few rows of x: each number of the weight is used once or a few times, so it is read as fast as memory gives it, which
// is in its order.

// A row of the weight by M rows of x.
template <int M>
inline void dots(const float* weight, const float* x, int64_t line, int64_t K, float* result, int64_t N) {
  constexpr int U = M == 1 ? 4 : 2; // sums at a time: one addition need not wait for the other
  Vec sum[M][U] = {};
  int64_t k = 0;
  for (; k + U * LANES <= K; k += U * LANES)
#pragma GCC unroll 32
    for (int u = 0; u < U; ++u) {
      const Vec left = load(weight + k + u * LANES);
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sum[m][u] = fma(left, load(x + m * line + k + u * LANES), sum[m][u]);
    }
  for (; k + LANES <= K; k += LANES)
    for (int m = 0; m < M; ++m) sum[m][0] = fma(load(weight + k), load(x + m * line + k), sum[m][0]);
  for (int m = 0; m < M; ++m) {
    for (int u = 1; u < U; ++u) sum[m][0] += sum[m][u];
    float value = reduce(sum[m][0], [](Vec a, Vec b) { return a + b; });
    for (int64_t at = k; at < K; ++at) value = std::fma(weight[at], x[m * line + at], value);
    result[m * N] = value;
  }
}

// Adds R rows of a weight [K, N], times numbers of M rows of x, to as many rows of sums.
template <int R, int M>
inline void add_rows(const float* weight, int64_t N, const float* x, int64_t line, int64_t count, float* sums) {
  int64_t n = 0;
  for (; n + LANES <= count; n += LANES) {
    Vec row[R];
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) row[r] = load(weight + r * N + n);
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      Vec sum = load(sums + m * count + n);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) sum = fma(all(x[m * line + r]), row[r], sum);
      store(sums + m * count + n, sum);
    }
  }
  for (; n < count; ++n)
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < R; ++r) sums[m * count + n] = std::fma(x[m * line + r], weight[r * N + n], sums[m * count + n]);
}

// Bias and activation of a part of a row of the result.
__attribute__((noinline)) void finish_row(float* row, const float* bias, int64_t count, int activation) {
  for (int64_t n = 0; n < count; n += LANES) {
    const int64_t columns = std::min<int64_t>(LANES, count - n);
    Vec value{}, shift{};
    std::memcpy(&value, row + n, columns * sizeof(float));
    if (bias) std::memcpy(&shift, bias + n, columns * sizeof(float));
    value = activate(activation, bias ? value + shift : value);
    std::memcpy(row + n, &value, columns * sizeof(float));
  }
}

template <int M>
void few_by_rows(const Operands& o) {
  const std::vector<Share> shares = shares_of(o, 96);
#pragma omp parallel for schedule(dynamic, 1) num_threads(o.threads)
  for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
    const Share& share = shares[b];
    for (int64_t n = 0; n < share.rows; ++n)
      dots<M>(share.weight + n * o.K, o.x, o.line, o.K, share.result + n, share.N);
    for (int m = 0; m < M; ++m) finish_row(share.result + m * share.N, share.bias, share.rows, o.activation);
  }
}

// A thread takes some rows of [K, N], whatever N is; its sums are added to those of the others afterwards, in order.
template <int M>
void few_by_columns(const Operands& o) {
  constexpr int64_t ROWS = 8;
  const int64_t chunk = std::max<int64_t>(64, o.K / 16 / ROWS * ROWS);
  static thread_local std::vector<float> memory;
  const std::vector<Share> shares = shares_of(o, 4096);
  const int64_t chunks = (o.K + chunk - 1) / chunk;
  std::vector<int64_t> first{0}; // of each share: where its sums begin
  for (const Share& share : shares) first.push_back(first.back() + chunks * M * share.rows);
  if (static_cast<int64_t>(memory.size()) < first.back()) memory.resize(first.back());
  float* sums_of_all = memory.data();
#pragma omp parallel num_threads(o.threads)
  {
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b)
      for (int64_t c = 0; c < chunks; ++c) {
        const Share& share = shares[b];
        float* sums = sums_of_all + first[b] + c * M * share.rows;
        std::fill_n(sums, M * share.rows, 0.f);
        int64_t k = c * chunk;
        const int64_t stop = std::min(k + chunk, o.K);
        for (; k + ROWS <= stop; k += ROWS)
          add_rows<ROWS, M>(share.weight + k * share.N, share.N, o.x + k, o.line, share.rows, sums);
        for (; k < stop; ++k) add_rows<1, M>(share.weight + k * share.N, share.N, o.x + k, o.line, share.rows, sums);
      }
#pragma omp for schedule(static) collapse(2)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b)
      for (int64_t m = 0; m < M; ++m) {
        const Share& share = shares[b];
        float* row = share.result + m * share.N;
        std::fill_n(row, share.rows, 0.f);
        for (int64_t c = 0; c < chunks; ++c) {
          const float* sums = sums_of_all + first[b] + (c * M + m) * share.rows;
          for (int64_t n = 0; n < share.rows; ++n) row[n] += sums[n];
        }
        finish_row(row, share.bias, share.rows, o.activation);
      }
  }
}

template <int M>
void few(const Operands& o) {
  o.columns ? few_by_columns<M>(o) : few_by_rows<M>(o);
}

} // namespace

// Of each linear its weight, bias (null: none), result and N; sizes: M, K, line, whether the weights lie by columns, and
// how many linears there are.
extern "C" void linears(
    const float* x, const float* const* weights, const float* const* biases, float* const* results, const int64_t* N,
    const int64_t* sizes, int32_t activation, int32_t threads) {
  const int64_t M = sizes[0], K = sizes[1], line = sizes[2], columns = sizes[3], count = sizes[4];
  const int64_t pieces = (M + MOST_ROWS - 1) / MOST_ROWS;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = M * piece / pieces, last = M * (piece + 1) / pieces;
    Operands o{x + first * line, {}, line, last - first, K, activation, threads, columns != 0};
    for (int64_t at = 0; at < count; ++at)
      o.linears.push_back({weights[at], biases[at], results[at] + first * N[at], N[at]});
    switch (o.M) {
      case 1: few<1>(o); break;
      case 2: few<2>(o); break;
      case 4: few<4>(o); break;
      default: compute(o);
    }
  }
}
