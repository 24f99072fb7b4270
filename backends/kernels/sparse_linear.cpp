// activation(x @ weight.T + bias) for float32 x and weights that are mostly zeros, of which only the others are stored.
//
// GROUP rows of a weight share a list of the columns where one of them is not zero. As in the dense kernel, numbers of
// the weight are broadcast against vectors of rows of x, so that a column of x is read as whole vectors wherever it is.
// The lists are apart for blocks of columns: that much of x stays in the first-level cache.

#include "linear.h"

namespace {

// A weight as txgraph/backends/kernels/sparse_linear.py packs it.
struct Lists {
  int64_t group, block;    // rows that share a list, and columns of a block
  const int32_t* starts;   // for each block and group: where its list begins
  const float* values;     // for each column of a list: `group` numbers
  const uint8_t* columns;  // of a list, counted from the first of its block

  explicit Lists(const int32_t* packed, int64_t K, int64_t N) : group(packed[0]), block(packed[1]) {
    const int64_t lists = (K + block - 1) / block * ((N + group - 1) / group);
    starts = packed + 3;
    values = reinterpret_cast<const float*>(starts + lists + 1);
    columns = reinterpret_cast<const uint8_t*>(values + packed[2] * group);
  }
};

// The lists [first, first + count) of a block by a panel of V vectors; the sums of a row are `line` apart.
template <int GROUP, int V>
void multiply_lists(
    const Lists& lists, int64_t first, int64_t count, const float* x, bool add, float* sums, int64_t line) {
  constexpr int U = std::clamp(8 / (GROUP * V), 1, 4); // sums at a time: one addition need not wait for the other
  for (int64_t g = 0; g < count; ++g, sums += GROUP * line) {
    int64_t at = lists.starts[first + g];
    const int64_t stop = lists.starts[first + g + 1];
    if (add && at == stop) continue;
    Vec sum[U][GROUP][V] = {};
    const auto column = [&](auto u) {
      const float* right = x + lists.columns[at + u] * (V * LANES);
      const float* left = lists.values + (at + u) * GROUP;
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) {
        const Vec vector = load(right + v * LANES);
#pragma GCC unroll 32
        for (int r = 0; r < GROUP; ++r) sum[u][r][v] = fma(all(left[r]), vector, sum[u][r][v]);
      }
    };
    for (; at + U <= stop; at += U) {
      column(std::integral_constant<int, 0>());
      if constexpr (U > 1) column(std::integral_constant<int, 1>());
      if constexpr (U > 2) column(std::integral_constant<int, 2>()), column(std::integral_constant<int, 3>());
    }
    for (; at < stop; ++at) column(std::integral_constant<int, 0>());
#pragma GCC unroll 32
    for (int r = 0; r < GROUP; ++r)
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) {
        for (int u = 1; u < U; ++u) sum[0][r][v] += sum[u][r][v];
        float* to = sums + r * line + v * LANES;
        store(to, add ? load(to) + sum[0][r][v] : sum[0][r][v]);
      }
  }
}

template <int GROUP>
void multiply_lists(
    int64_t width, const Lists& lists, int64_t first, int64_t count, const float* x, bool add, float* sums,
    int64_t line) {
  switch (width) {
    case 1: return multiply_lists<GROUP, 1>(lists, first, count, x, add, sums, line);
    case 2: return multiply_lists<GROUP, 2>(lists, first, count, x, add, sums, line);
    case 3: return multiply_lists<GROUP, 3>(lists, first, count, x, add, sums, line);
    case 4: return multiply_lists<GROUP, 4>(lists, first, count, x, add, sums, line);
  }
}

// The numbers of x at LANES columns.
inline Vec gather(const float* x, const uint8_t* columns) {
#if defined(__AVX512F__)
  return (Vec)_mm512_i32gather_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)columns)), x, 4);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Vec)_mm256_i32gather_ps(x, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)columns)), 4);
#else
  Vec value;
  for (int j = 0; j < LANES; ++j) value[j] = x[columns[j]];
  return value;
#endif
}

// One row of x: what the lists [first, first + count) of a block give is added to the sums.
inline void multiply_row(const Lists& lists, int64_t first, int64_t count, const float* x, float* sums) {
  for (int64_t g = 0; g < count; ++g) {
    int64_t at = lists.starts[first + g];
    const int64_t stop = lists.starts[first + g + 1];
    if (lists.group == 1) {
      Vec sum{};
      for (; at + LANES <= stop; at += LANES) sum = fma(load(lists.values + at), gather(x, lists.columns + at), sum);
      float value = reduce(sum, [](Vec a, Vec b) { return a + b; });
      for (; at < stop; ++at) value = std::fma(lists.values[at], x[lists.columns[at]], value);
      sums[g] += value;
    } else {
      typedef float Rows __attribute__((vector_size(16))); // numbers of the weight in a column
      Rows sum[2] = {};
      const auto add = [&](int u) {
        Rows left;
        std::memcpy(&left, lists.values + (at + u) * 4, sizeof(left));
        sum[u] += left * x[lists.columns[at + u]];
      };
      for (; at + 2 <= stop; at += 2) add(0), add(1);
      if (at < stop) add(0);
      for (int r = 0; r < 4; ++r) sums[g * 4 + r] += sum[0][r] + sum[1][r];
    }
  }
}

using Sparse = Operands<float, int32_t>;

// Calls a function for the lists of a share of a weight that a block has: which the first is, and how many there are.
template <typename Function>
auto with_lists(const Sparse& o, const Share<int32_t>& share, int64_t k, Function function) {
  const Lists lists(share.weight, o.K, share.N);
  const int64_t groups = (share.N + lists.group - 1) / lists.group;
  return function(lists, k / lists.block * groups + share.first / lists.group, (share.rows + lists.group - 1) / lists.group);
}

void one_row(const Sparse& o, int64_t block) {
  const int64_t size = o.share_size();
  const std::vector<Share<int32_t>> shares = shares_of(o, size, 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(o.threads)
  for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
    const Share<int32_t>& share = shares[b];
    float* sums = scratch<1, float>(size);
    std::fill_n(sums, size, 0.f);
    for (int64_t k = 0; k < o.K; k += block)
      with_lists(o, share, k, [&](const Lists& lists, int64_t first, int64_t count) {
        multiply_row(lists, first, count, o.x + k, sums);
      });
    std::copy_n(sums, share.rows, share.result);
    finish_row(share.result, share, o.activation);
  }
}

void many_rows(const Sparse& o, int64_t block) {
  const int64_t size = o.share_size();
  compute(o, shares_of(o, size, 0), size, block, [&](const Share<int32_t>& share, int64_t k, int64_t) {
    return with_lists(o, share, k, [&](const Lists& lists, int64_t first, int64_t count) {
      return [=](int64_t width, const float* vectors, float* sums, int64_t line, auto) {
        lists.group == 1 ? multiply_lists<1>(width, lists, first, count, vectors, k > 0, sums, line)
                         : multiply_lists<4>(width, lists, first, count, vectors, k > 0, sums, line);
      };
    });
  });
}

} // namespace

extern "C" void sparse_linears(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>();
  const auto block = call.next();
  Sparse(call, x).in_pieces([&](const Sparse& o, int64_t) { o.M == 1 ? one_row(o, block) : many_rows(o, block); });
}
