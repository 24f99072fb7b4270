// What all kernels for linears share: who computes which columns of the result, and what is done to finished sums.
//
// In compute() the roles of the operands are swapped: rows of the weight are broadcast, number by number, against vectors
// of rows of x. So only x is rearranged, once for all threads, and a block of the transposed result is turned around when
// it is done.

#pragma once

#include "activations.h"
#include "call.h"
#include "product.h"

#include <vector>

namespace {

constexpr int64_t MOST_ROWS = 512; // of x at a time
constexpr int64_t DEPTH = 384;     // of a block of K

// The depth of blocks for so many rows: sums of few rows are cheap to add to, and more, shorter ones err less.
inline int64_t block_of(int64_t M) { return M <= 16 ? 64 : DEPTH; }

// scales: of a quantized weight. bias: null for none.
template <typename T>
struct Linear {
  const T* weight;
  const float *scales, *bias;
  float* result;
  int64_t N;
};

// x: M rows of K numbers, which are `line` apart.
template <typename X, typename T>
struct Operands {
  const X* x;
  int64_t M, K, line, threads, activation;
  std::vector<Linear<T>> linears;

  Operands(Call& call, const X* x)
      : x(x), M(call.next()), K(call.next()), line(call.next()), threads(call.next()), activation(call.next()) {
    for (int64_t rest = call.next(); rest > 0; --rest) {
      Linear<T>& each = linears.emplace_back();
      each.weight = call.next<const T*>();
      each.scales = call.next<const float*>();
      each.bias = call.next<const float*>();
      each.result = call.next<float*>();
      each.N = call.next();
    }
  }

  int64_t columns() const {
    int64_t sum = 0;
    for (const auto& each : linears) sum += each.N;
    return sum;
  }

  // Rows of a weight that a thread takes at a time; a multiple of 24, as products take 6 or 8.
  int64_t share_size() const { return std::clamp<int64_t>(columns() / (threads * 2) / 24 * 24, 24, 192); }

  // Calls a function for at most so many rows of x at a time: with the operands of these rows, and which is the first.
  template <typename Function>
  void in_pieces(Function function, int64_t most = MOST_ROWS) const {
    const int64_t pieces = (M + most - 1) / most;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t first = M * piece / pieces;
      Operands part = *this;
      part.x += first * line;
      part.M = M * (piece + 1) / pieces - first;
      for (auto& each : part.linears) each.result += first * each.N;
      function(part, first);
    }
  }
};

// Rows of a weight that a thread takes at a time, from `first` on: as many columns of the result, whose rows are N apart.
template <typename T>
struct Share {
  const T* weight;
  const float *scales, *bias;
  float* result;
  int64_t rows, N, first;
};

// Rows of a weight are `step` numbers apart, those of its scales `scale_step`.
template <typename X, typename T>
std::vector<Share<T>> shares_of(const Operands<X, T>& o, int64_t size, int64_t step, int64_t scale_step = 1) {
  std::vector<Share<T>> shares;
  for (const auto& each : o.linears)
    for (int64_t n = 0; n < each.N; n += size)
      shares.push_back({each.weight + n * step, each.scales ? each.scales + n * scale_step : nullptr,
                        each.bias ? each.bias + n : nullptr, each.result + n, std::min(size, each.N - n), each.N, n});
  return shares;
}

// Memory of a thread, which it keeps; of one size for each USE. It begins at a line of the cache: no vector lies in two.
template <int USE, typename T>
T* scratch(int64_t size) {
  constexpr int64_t LINE = 64; // bytes
  static thread_local std::vector<T> memory;
  const int64_t needed = size + LINE / static_cast<int64_t>(sizeof(T));
  if (static_cast<int64_t>(memory.size()) < needed) memory.resize(needed);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + LINE - 1) / LINE * LINE);
}

// Turns a tile of sums around, up to LANES columns of the result for up to LANES of M rows. column(i): sums of a column.
template <typename T, typename Column>
inline void finish(const Share<T>& share, int64_t M, int activation, int64_t m0, int64_t n0, Column column) {
  Vec tile[LANES];
  const int64_t rows = std::min<int64_t>(LANES, M - m0), columns = std::min<int64_t>(LANES, share.rows - n0);
#pragma GCC unroll 32
  for (int i = 0; i < LANES; ++i) {
    tile[i] = i < columns ? column(i) : Vec{};
    if (share.bias && i < columns) tile[i] += share.bias[n0 + i];
  }
  by_activation(activation, [&](auto known) {
    for (int i = 0; i < LANES; ++i) tile[i] = activate(known, tile[i]);
  });
  transpose(tile);
  float* to = share.result + m0 * share.N + n0;
  if (rows == LANES && columns == LANES)
#pragma GCC unroll 32
    for (int i = 0; i < LANES; ++i) store(to + i * share.N, tile[i]);
  else
    for (int i = 0; i < rows; ++i) std::memcpy(to + i * share.N, &tile[i], columns * sizeof(float));
}

// `count` numbers, the others are 0.
inline Vec load(const float* at, int64_t count) {
  if (count == LANES) return load(at);
  Vec value{};
  std::memcpy(&value, at, count * sizeof(float));
  return value;
}

inline void store(float* at, Vec value, int64_t count) {
  if (count == LANES)
    store(at, value);
  else
    std::memcpy(at, &value, count * sizeof(float));
}

// Bias and activation of a part of a row of sums, which scaled(sums, n, count) scales before: of columns n on.
template <typename T, typename Scaled>
__attribute__((noinline)) void finish_row(float* row, const Share<T>& share, int activation, Scaled scaled) {
  for (int64_t n = 0; n < share.rows; n += LANES) {
    const int64_t columns = std::min<int64_t>(LANES, share.rows - n);
    Vec value = scaled(load(row + n, columns), n, columns);
    if (share.bias) value += load(share.bias + n, columns);
    store(row + n, activate(activation, value), columns);
  }
}

template <typename T>
void finish_row(float* row, const Share<T>& share, int activation) {
  finish_row(row, share, activation, [](Vec sum, int64_t, int64_t) { return sum; });
}

// All linears in float32. Blocks of K, `block` numbers each, keep the vectors in the caches.
// product_of(share, k, depth): a function that multiplies numbers [k, k + depth) of the rows of a weight by a panel:
// (width, vectors, sums, line, meanwhile), where the sums of a row are `line` apart; for k > 0 it adds to them.
template <typename T, typename ProductOf>
void compute(
    const Operands<float, T>& o, const std::vector<Share<T>>& shares, int64_t size, int64_t block, ProductOf product_of) {
  const Panels panels(o.M);
  const int64_t line = panels.vectors * LANES;
  float* packed = scratch<0, float>(line * o.K);
  const auto panel = [&](int64_t p, int64_t k) { return packed + (panels.first(p) * o.K + k * panels.width(p)) * LANES; };
#pragma omp parallel num_threads(o.threads)
  {
    float* sums = scratch<1, float>(size * line);
#pragma omp for schedule(static) collapse(2)
    for (int64_t p = 0; p < panels.count; ++p)
      for (int64_t k = 0; k < o.K; k += DEPTH)
        turn(o.x + panels.first(p) * LANES * o.line + k, o.line, o.M - panels.first(p) * LANES, std::min(DEPTH, o.K - k),
             panel(p, k), panels.width(p) * LANES, panels.width(p));
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
      const Share<T>& share = shares[b];
      if (!o.K) std::fill_n(sums, share.rows * line, 0.f);
      for (int64_t k = 0; k < o.K; k += block) {
        const int64_t depth = std::min(block, o.K - k);
        const auto product = product_of(share, k, depth);
        for (int64_t p = 0; p < panels.count; ++p) {
          const auto product_and = [&](auto meanwhile) {
            product(panels.width(p), panel(p, k), sums + panels.first(p) * LANES, line, meanwhile);
          };
          if constexpr (WIDE) { // What the next one reads is fetched meanwhile.
            const int64_t after = p + 1 < panels.count ? p + 1 : 0, at = after ? k : k + depth < o.K ? k + depth : 0;
            Fetch<> next{panel(after, at), 1, std::min(block, o.K - at) * panels.width(after) * LANES, 0};
            const int64_t lines = panels.count == 1 ? 0 : next.share(times_of(panels.width(p), share.rows, depth));
            product_and([&next, lines] { next(lines); });
          } else
            product_and([] {});
        }
      }
      for (int64_t v = 0; v < panels.vectors; ++v)
        for (int64_t n = 0; n < share.rows; n += LANES)
          finish(share, o.M, o.activation, v * LANES, n,
                 [&](int64_t i) { return load(sums + (n + i) * line + v * LANES); });
    }
  }
}

// The same of rows that lie as numbers. rows_of(share, k, depth): numbers [k, k + depth) of the rows of a weight, and how
// far apart the rows are.
template <typename T, typename Rows>
void compute(const Operands<float, T>& o, const std::vector<Share<T>>& shares, int64_t size, Rows rows_of) {
  compute(o, shares, size, block_of(o.M), [&](const Share<T>& share, int64_t k, int64_t depth) {
    const auto [rows, step] = rows_of(share, k, depth);
    return [&share, k, depth, rows = rows, step = step](
               int64_t width, const float* x, float* sums, int64_t line, auto meanwhile) {
      const Right<float> vectors{x, width * LANES};
      multiply(width, share.rows, rows, step, vectors, depth, sums, line, k > 0, rows + depth, meanwhile);
    };
  });
}

} // namespace
