// activation(x @ weight.T + bias), float32, for each of some weights [N, K] as the model stores them, by rows or by
// columns (which is [K, N] by rows, as GPT-2 has it). No copy of them is kept.

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

void some_by_rows(const Floats& o) {
  const int64_t size = o.share_size();
  compute(o, shares_of(o, size, o.K), size,
          [&](const Share<float>& share, int64_t k, int64_t) { return std::pair(share.weight + k, o.K); });
}

// Bias and activation of sums that lie as the result does: of some rows, columns [n, n + count).
void finish_rows(
    const Share<float>& share, int activation, const float* sums, int64_t line, int64_t rows, float* to, int64_t n) {
  const int64_t count = std::min<int64_t>(LANES, share.rows - n);
  const Vec bias = share.bias ? load(share.bias + n, count) : Vec{};
  by_activation(activation, [&](auto known) {
    for (int64_t m = 0; m < rows; ++m) {
      const Vec sum = load(sums + m * line + n);
      store(to + m * share.N + n, activate(known, share.bias ? sum + bias : sum), count);
    }
  });
}

constexpr int64_t WIDTH = 64; // columns of the result that a thread computes at a time
constexpr int64_t MOST = 128; // of K in a block: the first-level cache holds so much of these columns

// M rows of x, from the first on, by some rows of a weight, whose blocks are turned into panels; or copied, while the first
// rows of x are multiplied: what lies in columns is far apart. `after`: the share that probably comes next.
template <bool COLUMNS>
void multiply_share(
    const Floats& o, const Share<float>& share, const Share<float>& after, int64_t first, int64_t M, int64_t block,
    float* turned, float* sums) {
  constexpr int64_t ROWS = 48; // of x, whose sums are finished while a cache has them
  const Panels panels(share.rows);
  const int64_t line = panels.vectors * LANES;
  const bool copied = COLUMNS && share.rows == line;
  const float* x = o.x + first * o.line;
  float* result = share.result + first * share.N;
  if (!o.K) std::fill_n(sums, M * line, 0.f);
  for (int64_t k = 0; k == 0 || k < o.K; k += block) {
    const int64_t depth = std::min(block, o.K - k);
    const bool last = k + depth == o.K;
    // What comes next is fetched meanwhile: of the weight, and the lines of the result.
    const Share<float>& other = last ? after : share;
    const int64_t at = last ? 0 : k + depth, more = std::min(block, o.K - at);
    Fetch<> next = COLUMNS ? Fetch<>{other.weight + at * other.N, more, other.rows, other.N}
                           : Fetch<>{other.weight + at, other.rows, more, o.K};
    Fetch<true> written{result, last ? M : 0, share.rows, share.N};
    const int64_t times = std::max<int64_t>(panels.count * times_of(panels.width(0), M, depth), 1);
    const auto meanwhile = [&, weight = next.share(times), lines = written.share(times)] {
      if constexpr (COLUMNS || WIDE) next(weight), written(lines);
    };
    const auto multiply_by = [&](int64_t p, auto right, int64_t m, int64_t rows) {
      const float* ahead = m + rows < M ? x + (m + rows) * o.line + k : x + at;
      multiply(panels.width(p), rows, x + m * o.line + k, o.line, right, depth,
               sums + m * line + panels.first(p) * LANES, line, k > 0, ahead, meanwhile);
    };
    int64_t done = 0;
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t n = panels.first(p) * LANES, width = panels.width(p), step = width * LANES;
      float* panel = turned + n * depth;
      if (copied) {
        done = std::min(M, rows_at_a_time(panels.width(0)));
        multiply_by(p, Copied{share.weight + k * share.N + n, share.N, panel, step}, 0, done);
      } else if (COLUMNS)
        for (int64_t i = 0; i < depth; ++i)
          for (int64_t j = 0; j < step; j += LANES)
            store(panel + i * step + j, load(share.weight + (k + i) * share.N + n + j,
                                             std::clamp<int64_t>(share.rows - n - j, 0, LANES)));
      else
        turn(share.weight + n * o.K + k, o.K, share.rows - n, depth, panel, step, width);
    }
    for (int64_t m = 0; m < M; m += ROWS) {
      const int64_t rows = std::min(ROWS, M - m), from = std::max(m, done);
      for (int64_t p = 0; p < panels.count; ++p) {
        const int64_t n = panels.first(p) * LANES;
        multiply_by(p, Right<float>{turned + n * depth, panels.width(p) * LANES}, from, m + rows - from);
      }
      for (int64_t v = 0; v < panels.vectors && last; ++v)
        finish_rows(share, o.activation, sums + m * line, line, rows, result + m * share.N, v * LANES);
    }
  }
}

// The rows of x are taken as they are. A thread has some rows of a weight at a time, and where there are few, some rows of
// x.
template <bool COLUMNS>
void by_rows_of_x(const Floats& o) {
  const auto shares = shares_of(o, WIDTH, COLUMNS ? 1 : o.K);
  const int64_t count = shares.size(), block = std::min(block_of(o.M), MOST);
  if (!count) return;
  const int64_t pieces = std::clamp<int64_t>((o.threads * 2 + count - 1) / count, 1, (o.M + 95) / 96);
#pragma omp parallel num_threads(o.threads)
  {
    float* turned = scratch<0, float>(WIDTH * block);
    float* sums = scratch<1, float>((o.M / pieces + 1) * WIDTH);
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t piece = 0; piece < pieces; ++piece)
      for (int64_t b = 0; b < count; ++b) {
        const int64_t first = o.M * piece / pieces, M = o.M * (piece + 1) / pieces - first;
        multiply_share<COLUMNS>(o, shares[b], shares[(b + o.threads) % count], first, M, block, turned, sums);
      }
  }
}

// Rows of x: from so many on it is the weight that is turned around, not x and the result.
constexpr int64_t MANY = WIDE ? 192 : 400;

template <int M>
void few(const Floats& o, bool columns) {
  columns ? few_by_columns<M>(o) : few_by_rows<M>(o);
}

} // namespace

extern "C" void linears(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>();
  const bool columns = call.next();
  const Floats whole(call, x);
  switch (whole.M) {
    case 1: return few<1>(whole, columns);
    case 2: return few<2>(whole, columns);
    case 4: return few<4>(whole, columns);
  }
  if (columns || whole.M >= MANY)
    whole.in_pieces([&](const Floats& o, int64_t) { columns ? by_rows_of_x<true>(o) : by_rows_of_x<false>(o); }, 1024);
  else
    some_by_rows(whole);
}
