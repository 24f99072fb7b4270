// activation(x @ (weight * scales).T + bias) for float32 x and weights in 8 or 4 bits, which are read as they are. Of few
// rows of x memory is the limit, and a weight is a quarter or an eighth of its float32. Of more rows, blocks of the
// weight become float32 in the cache.
//
// In 8 bits a row of a weight is K int8, with one scale. In 4 bits, byte j of each 16 holds numbers j, in its low half,
// and 16 + j of 32; each group of a row has a scale.

#include "linear.h"

namespace {

constexpr int64_t HELD = 32; // numbers that are read at a time

using Packed = Operands<float, uint8_t>;

struct Format {
  int64_t bytes, group, groups; // of a row; numbers of a group
};

// HELD numbers, as vectors.
template <int BITS>
inline void unpack(const uint8_t* at, Vec* out) {
#if defined(__AVX512F__)
  if (BITS == 8)
    for (int v = 0; v < 2; ++v) {
      const __m128i bytes = _mm_loadu_si128((const __m128i*)at + v);
      out[v] = (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
  else {
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at));
    out[0] = (Vec)_mm512_permutexvar_ps(both, values); // which looks at the lowest 4 bits
    out[1] = (Vec)_mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), values);
  }
#elif defined(__AVX2__)
  if (BITS == 8)
    for (int v = 0; v < 4; ++v) {
      const __m128i bytes = _mm_loadl_epi64((const __m128i*)(at + 8 * v));
      out[v] = (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
  else
    for (int v = 0; v < 2; ++v) {
      const __m256i both = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(at + 8 * v)));
      out[v] = (Vec)_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(both, 28), 28));
      out[v + 2] = (Vec)_mm256_cvtepi32_ps(_mm256_srai_epi32(both, 4));
    }
#else
  float values[HELD];
  for (int j = 0; j < HELD; ++j)
    values[j] = BITS == 8 ? static_cast<int8_t>(at[j])
                          : static_cast<int8_t>(j < 16 ? at[j] << 4 : at[j - 16] & 0xf0) / 16;
  std::memcpy(out, values, sizeof(values));
#endif
}

// R rows of a weight by M rows of x.
template <int BITS, int R, int M>
inline void dots(
    const uint8_t* weight, const float* scales, const Format& format, const float* x, int64_t line, int64_t K,
    float* result, int64_t N) {
  constexpr int V = HELD / LANES;
  Vec total[R][M] = {};
  int64_t k = 0;
  for (int64_t g = 0; g < format.groups; ++g) {
    Vec sum[R][M] = {};
    for (const int64_t stop = k + format.group; k + HELD <= stop; k += HELD)
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        Vec left[V];
        const uint8_t* at = weight + r * format.bytes + k * BITS / 8;
        unpack<BITS>(at, left);
        __builtin_prefetch(at + R * format.bytes);
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
          for (int v = 0; v < V; ++v) sum[r][m] = fma(left[v], load(x + m * line + k + v * LANES), sum[r][m]);
      }
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) total[r][m] = fma(sum[r][m], all(scales[r * format.groups + g]), total[r][m]);
  }
  for (int r = 0; r < R; ++r)
    for (int m = 0; m < M; ++m) {
      float value = reduce(total[r][m], [](Vec a, Vec b) { return a + b; });
      for (int64_t at = k; at < K; ++at) // in 8 bits alone
        value += static_cast<int8_t>(weight[r * format.bytes + at]) * scales[r] * x[m * line + at];
      result[m * N + r] = value;
    }
}

template <int BITS, int M>
void few(const Packed& o, const Format& format) {
  constexpr int R = M <= 2 ? 4 : 2;
  const auto shares = shares_of(o, 96, format.bytes, format.groups);
#pragma omp parallel for schedule(dynamic, 1) num_threads(o.threads)
  for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
    const Share<uint8_t>& share = shares[b];
    const auto at = [&](auto rows, int64_t n) {
      dots<BITS, rows(), M>(share.weight + n * format.bytes, share.scales + n * format.groups, format, o.x, o.line, o.K,
                            share.result + n, share.N);
    };
    int64_t n = 0;
    for (; n + R <= share.rows; n += R) at(std::integral_constant<int, R>(), n);
    for (; n < share.rows; ++n) at(std::integral_constant<int, 1>(), n);
    for (int m = 0; m < M; ++m) finish_row(share.result + m * share.N, share, o.activation);
  }
}

// Numbers [k, k + depth) of a row; k is a multiple of HELD.
template <int BITS>
void dequantize(
    const uint8_t* row, const float* scales, const Format& format, int64_t k, int64_t depth, float* to) {
  Vec values[HELD / LANES];
  int64_t at = 0;
  for (; at + HELD <= depth; at += HELD) {
    unpack<BITS>(row + (k + at) * BITS / 8, values);
    for (int v = 0; v < HELD / LANES; ++v) store(to + at + v * LANES, values[v] * scales[(k + at) / format.group]);
  }
  for (; at < depth; ++at) to[at] = static_cast<int8_t>(row[k + at]) * scales[0];
}

template <int BITS>
void compute_packed(const Packed& o, const Format& format) {
  const int64_t size = o.share_size();
  compute(o, shares_of(o, size, format.bytes, format.groups), size,
          [&](const Share<uint8_t>& share, int64_t k, int64_t depth) {
            float* rows = scratch<2, float>(size * DEPTH);
            for (int64_t n = 0; n < share.rows; ++n)
              dequantize<BITS>(share.weight + n * format.bytes, share.scales + n * format.groups, format, k, depth,
                               rows + n * DEPTH);
            return std::pair<const float*, int64_t>(rows, DEPTH);
          });
}

template <int BITS>
void choose(const Packed& o, const Format& format) {
  switch (o.M) {
    case 1: return few<BITS, 1>(o, format);
    case 2: return few<BITS, 2>(o, format);
    case 3: return few<BITS, 3>(o, format);
    case 4: return few<BITS, 4>(o, format);
    case 5: return few<BITS, 5>(o, format);
    case 6: return few<BITS, 6>(o, format);
    case 7: return few<BITS, 7>(o, format);
    case 8: return few<BITS, 8>(o, format);
    default: return compute_packed<BITS>(o, format);
  }
}

} // namespace

extern "C" void weight_only_linears(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>();
  const auto bits = call.next(), group = call.next();
  const Packed whole(call, x);
  const int64_t K = whole.K;
  const Format format = bits == 8 ? Format{K, std::max<int64_t>(K, 1), 1} : Format{K / 2, group, K / group};
  whole.in_pieces([&](const Packed& o, int64_t) { bits == 8 ? choose<8>(o, format) : choose<4>(o, format); });
}
