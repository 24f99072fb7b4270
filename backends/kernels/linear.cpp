// activation(x @ weight.T + bias), float32, for each of some weights [N, K] as the model stores them, by rows or by
// columns (which is [K, N] by rows, as GPT-2 has it). They are not copied.

#include "linear.h"

namespace {

// Few rows of x: each number of the weight is used once or a few times, so it is read as fast as memory gives it, which
// is in its order.

// Adds R rows of a weight [K, N], times numbers of M rows of x, to as many rows of sums. Meanwhile the next R rows come
// into the second-level cache: what fetches ahead by itself does not go from row to row.
template <int R, int M>
inline void add_rows(const float* weight, int64_t N, const float* x, int64_t line, int64_t count, float* sums) {
  int64_t n = 0;
  for (; n + LANES <= count; n += LANES) {
    Vec row[R];
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(weight + (r + R) * N + n, 0, 2);
      row[r] = load(weight + r * N + n);
    }
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      Vec part{}; // by itself: short sums err less
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) part = fma(all(x[m * line + r]), row[r], part);
      store(sums + m * count + n, load(sums + m * count + n) + part);
    }
  }
  for (; n < count; ++n)
    for (int m = 0; m < M; ++m) {
      float part = 0;
      for (int r = 0; r < R; ++r) part = std::fma(x[m * line + r], weight[r * N + n], part);
      sums[m * count + n] += part;
    }
}

using Floats = Operands<float, float>;

template <int M>
void few_by_rows(const Floats& o) {
  const std::vector<Share<float>> shares = shares_of(o, 96, o.K);
#pragma omp parallel for schedule(dynamic, 1) num_threads(o.threads)
  for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
    const Share<float>& share = shares[b];
    for (int64_t n = 0; n < share.rows; ++n)
      dots<M>(share.weight + n * o.K, o.x, o.line, o.K, share.result + n, share.N);
    for (int m = 0; m < M; ++m) finish_row(share.result + m * share.N, share, o.activation);
  }
}

// A thread takes some rows of [K, N], whatever N is; its sums are added to those of the others afterwards, in order.
template <int M>
void few_by_columns(const Floats& o) {
  constexpr int64_t ROWS = 8;
  const int64_t chunk = std::max<int64_t>(64, o.K / 16 / ROWS * ROWS);
  const std::vector<Share<float>> shares = shares_of(o, 4096, 1);
  const int64_t chunks = (o.K + chunk - 1) / chunk;
  std::vector<int64_t> first{0}; // of each share: where its sums begin
  for (const Share<float>& share : shares) first.push_back(first.back() + chunks * M * share.rows);
  float* sums_of_all = scratch<2, float>(first.back());
#pragma omp parallel num_threads(o.threads)
  {
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b)
      for (int64_t c = 0; c < chunks; ++c) {
        const Share<float>& share = shares[b];
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
        const Share<float>& share = shares[b];
        float* row = share.result + m * share.N;
        std::fill_n(row, share.rows, 0.f);
        for (int64_t c = 0; c < chunks; ++c) {
          const float* sums = sums_of_all + first[b] + (c * M + m) * share.rows;
          for (int64_t n = 0; n < share.rows; ++n) row[n] += sums[n];
        }
        finish_row(row, share, o.activation);
      }
  }
}

void compute(const Floats& o, bool columns) {
  const int64_t size = o.share_size();
  if (columns)
    compute<true>(o, shares_of(o, size, 1), size, [&](const auto& share, int64_t k, int64_t) {
      return std::pair(share.weight + k * share.N, share.N);
    });
  else
    compute<false>(o, shares_of(o, size, o.K), size,
                   [&](const auto& share, int64_t k, int64_t) { return std::pair(share.weight + k, o.K); });
}

template <int M>
void few(const Floats& o, bool columns) {
  columns ? few_by_columns<M>(o) : few_by_rows<M>(o);
}

} // namespace

extern "C" void linears(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>();
  const bool columns = call.next();
  Floats(call, x).in_pieces([&](const Floats& o, int64_t) {
    switch (o.M) {
      case 1: return few<1>(o, columns);
      case 2: return few<2>(o, columns);
      case 4: return few<4>(o, columns);
      default: return compute(o, columns);
    }
  });
}
