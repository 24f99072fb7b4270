// Linears in int8: rows of x are quantized, then activation((values @ weight.T) * scales * weight_scales + bias) for each
// of some weights [N, K] as they are. The sums are exact: int32.

#include "linear.h"

namespace {

using Bytes = Operands<int8_t, int8_t>;

constexpr int64_t BLOCK = 48; // rows of a weight whose sums stay in the first-level cache until they are finished

inline Vec to_floats(IntVec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps((__m512i)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps((__m256i)x);
#else
  return __builtin_convertvector(x, Vec);
#endif
}

// The nearest integers, of two the even one. By itself: added to a large number, which would round it, a product before
// it may become one operation with that sum, and is then not rounded as in its definition.
inline IntVec to_integers(Vec x) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__)
  return (IntVec)_mm256_cvtps_epi32((__m256)x);
#else
  IntVec result;
  for (int j = 0; j < LANES; ++j) result[j] = static_cast<int32_t>(std::nearbyint(x[j]));
  return result;
#endif
}

// The lowest bytes.
inline void store_bytes(int8_t* to, IntVec x) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)x));
#else
  for (int j = 0; j < LANES; ++j) to[j] = static_cast<int8_t>(x[j]);
#endif
}

inline IntVec larger(IntVec a, IntVec b) { return a > b ? a : b; }

// A row of x / divisor as values = round(x * 127 / max |x|), and the scale that undoes it. Rows that are 0 or almost get
// 0; others whose largest number is not finite get values 0, too, and a scale that is not finite.
float quantize_row(const float* x, const float* divisor, int64_t K, int8_t* values) {
  Vec tail = all(1.f); // of the divisor
  if (divisor && K % LANES) std::memcpy(&tail, divisor + K / LANES * LANES, K % LANES * sizeof(float));
  const auto numbers = [&](int64_t k) {
    const int64_t count = std::min<int64_t>(LANES, K - k);
    const Vec value = load(x + k, count);
    return divisor ? value / (count == LANES ? load(divisor + k) : tail) : value;
  };
  IntVec most{}; // bits of positive numbers are ordered as these are, then infinity, then NaN
  for (int64_t k = 0; k < K; k += LANES) most = larger(most, (IntVec)numbers(k) & 0x7fffffff);
  const int32_t bits = reduce(most, larger);
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  const float factor = 127.f / largest;
  if (!(factor > 0.f && factor <= std::numeric_limits<float>::max())) {
    std::fill_n(values, K, 0);
    return largest < 1.f ? 0.f : largest;
  }
  for (int64_t k = 0; k < K; k += LANES) {
    const IntVec rounded = to_integers(numbers(k) * factor);
    if (k + LANES <= K)
      store_bytes(values + k, rounded);
    else
      for (int64_t j = 0; k + j < K; ++j) values[k + j] = static_cast<int8_t>(rounded[j]);
  }
  return largest / 127.f;
}

// What the shift of x adds to the sums of rows of units.
void shifts_of(const int32_t* weight, int64_t step, int64_t units, int64_t rows, int32_t* shifts) {
  const IntVec ones = all((int32_t)0x01010101);
  for (int64_t n = 0; n < rows; n += LANES) {
    const int64_t given = std::min<int64_t>(LANES, rows - n);
    IntVec sum[LANES] = {};
    for (int64_t i = 0; i < given && SHIFT; ++i) {
      const int32_t* row = weight + (n + i) * step;
      int64_t u = 0;
      for (; u + LANES <= units; u += LANES) sum[i] = accumulate(load(row + u), ones, sum[i]);
      if (u < units) {
        IntVec rest{};
        std::memcpy(&rest, row + u, (units - u) * sizeof(int32_t));
        sum[i] = accumulate(rest, ones, sum[i]);
      }
    }
    store(shifts + n, SHIFT * sums_of(sum));
  }
}

// Panels of x in units, as the right operand.
void turn_units(const Bytes& o, const Panels& panels, int64_t depth, int32_t* packed) {
#pragma omp for schedule(static)
  for (int64_t v = 0; v < panels.vectors; ++v) {
    int64_t p = 0;
    while (panels.first(p + 1) <= v) ++p;
    const int64_t width = panels.width(p), given = std::min<int64_t>(LANES, o.M - v * LANES);
    int32_t* rows = scratch<0, int32_t>(LANES * depth);
    for (int64_t i = 0; i < given; ++i) to_units(o.x + (v * LANES + i) * o.line, o.K, rows + i * depth, shifted);
    turn(rows, depth, given, depth, packed + (panels.first(p) * depth + v - panels.first(p)) * LANES, width * LANES, 1);
  }
}

// Some rows of x: they are turned around, and so is the result, while it is finished.
void some(const Bytes& o, const float* scales) {
  const Panels panels(o.M);
  const int64_t line = panels.vectors * LANES, depth = vectors_of(o.K) * LANES;
  int32_t* packed = scratch<1, int32_t>(line * depth);
  float* row_scales = scratch<2, float>(line);
  std::copy_n(scales, o.M, row_scales);
  std::fill(row_scales + o.M, row_scales + line, 0.f);
  const int64_t size = o.share_size();
  const auto shares = shares_of(o, size, o.K);
  const bool in_place = SHIFT && o.K % NUMBERS == 0;
#pragma omp parallel num_threads(o.threads)
  {
    turn_units(o, panels, depth, packed);
    int32_t* sums = scratch<3, int32_t>(BLOCK * NV * LANES);
    int32_t* shifts = scratch<4, int32_t>(size + LANES);
    int32_t* copy = in_place ? nullptr : scratch<5, int32_t>(size * depth);
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
      const Share<int8_t>& share = shares[b];
      for (int64_t n = 0; n < share.rows && copy; ++n)
        to_units(share.weight + n * o.K, o.K, copy + n * depth, [](IntVec x) { return x; });
      const int32_t* weight = copy ? copy : reinterpret_cast<const int32_t*>(share.weight);
      const int64_t step = copy ? depth : o.K / NUMBERS, used = copy ? depth : step;
      for (int64_t p = 0; p < panels.count; ++p) {
        const int64_t first = panels.first(p), width = panels.width(p), at = width * LANES;
        for (int64_t block = 0; block < share.rows; block += BLOCK) {
          const int64_t rows = std::min(BLOCK, share.rows - block);
          const int32_t* some = weight + block * step;
          multiply(width, rows, some, step, packed + first * depth * LANES, at, used, sums, at, some + rows * step);
          if (p == 0) shifts_of(weight + block * step, step, used, rows, shifts + block); // the cache has them now
          for (int64_t v = 0; v < width; ++v) {
            const int64_t m = (first + v) * LANES;
            const Vec of_rows = load(row_scales + m);
            for (int64_t n = 0; n < rows; n += LANES) {
              for (int64_t i = 0; i < LANES; ++i) // what will be written next time
                __builtin_prefetch(share.result + (m + i) * share.N + block + n + BLOCK, 1);
              finish(share, o.M, o.activation, m, block + n, [&](int64_t i) {
                const IntVec sum = load(sums + (n + i) * at + v * LANES) - shifts[block + n + i];
                return to_floats(sum) * of_rows * share.scales[block + n + i];
              });
            }
          }
        }
      }
    }
  }
}

// Sums that lie as the result does, `rows` from m on of up to LANES columns from n on.
void finish_rows(
    const Share<int8_t>& share, int activation, const int32_t* sums, int64_t line, const int32_t* shifts,
    const float* scales, int64_t m, int64_t rows, int64_t n) {
  const int64_t columns = std::min<int64_t>(LANES, share.rows - n), step = share.N;
  const Vec of_columns = load(share.scales + n, columns), bias = share.bias ? load(share.bias + n, columns) : Vec{};
  const bool biased = share.bias != nullptr;
  float* to = share.result + m * step + n;
  by_activation(activation, [&](auto known) {
    for (int64_t i = 0; i < rows; ++i) {
      Vec value = to_floats(load(sums + i * line) - shifts[i]) * scales[i] * of_columns;
      if (biased) value += bias;
      store(to + i * step, activate(known, value), columns);
    }
  });
}

constexpr int64_t MANY = 192; // rows of x: from so many on it is the weight that is turned around

// Many rows of x, as they are: panels of the weight are turned around, and what is finished lies as the result does.
void many(const Bytes& o, const float* scales) {
  const int64_t depth = vectors_of(o.K) * LANES, size = (o.share_size() + LANES - 1) / LANES * LANES;
  const bool in_place = NUMBERS * sizeof(int8_t) == sizeof(int32_t) && o.K % NUMBERS == 0 && o.line % NUMBERS == 0;
  const int64_t step = in_place ? o.line / NUMBERS : depth, used = in_place ? o.K / NUMBERS : depth;
  int32_t* copy = in_place ? nullptr : scratch<0, int32_t>(o.M * depth);
  const int32_t* x = in_place ? reinterpret_cast<const int32_t*>(o.x) : copy;
  int32_t* shifts = scratch<1, int32_t>(o.M + LANES);
  const auto shares = shares_of(o, size, o.K);
#pragma omp parallel num_threads(o.threads)
  {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < o.M; first += LANES) {
      const int64_t rows = std::min<int64_t>(LANES, o.M - first);
      for (int64_t m = first; m < first + rows && copy; ++m)
        to_units(o.x + m * o.line, o.K, copy + m * depth, [](IntVec each) { return each; });
      shifts_of(x + first * step, step, used, rows, shifts + first);
    }
    int32_t* rows_of_weight = scratch<2, int32_t>(LANES * depth);
    int32_t* sums = scratch<3, int32_t>(BLOCK * NV * LANES);
    int32_t* turned = scratch<4, int32_t>(NV * LANES * depth);
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
      const Share<int8_t>& share = shares[b];
      const Panels panels(share.rows);
      for (int64_t p = 0; p < panels.count; ++p) {
        const int64_t width = panels.width(p), first = panels.first(p) * LANES, line = width * LANES;
        for (int64_t v = 0; v < width; ++v) {
          const int64_t n = first + v * LANES, given = std::min<int64_t>(LANES, share.rows - n);
          for (int64_t i = 0; i < given; ++i)
            to_units(share.weight + (n + i) * o.K, o.K, rows_of_weight + i * depth, shifted);
          turn(rows_of_weight, depth, given, depth, turned + v * LANES, line, 1);
        }
        for (int64_t block = 0; block < o.M; block += BLOCK) {
          const int64_t rows = std::min(BLOCK, o.M - block);
          multiply(width, rows, x + block * step, step, turned, line, used, sums, line);
          for (int64_t v = 0; v < width; ++v)
            finish_rows(share, o.activation, sums + v * LANES, line, shifts + block, scales + block, block, rows,
                        first + v * LANES);
        }
      }
    }
  }
}

// Rows of a weight that are multiplied at a time by M rows of x: their sums are as many as a vector has lanes, or half.
constexpr int rows_for(int M) {
  int rows = LANES;
  while (rows * M > LANES || rows > 8) rows /= 2;
  return rows;
}

// R rows of a weight by M rows of x in units, whole vectors of them. The first `given` of R rows are there.
template <int R, int M>
inline void dots(const int8_t* weight, int64_t given, int64_t K, const int32_t* x, int64_t depth, float* result, int64_t N) {
  constexpr int64_t STEP = NUMBERS * LANES;
  IntVec sum[LANES] = {}, shift[R] = {}; // of row r and row m of x: at m * R + r
  const IntVec ones = all((int32_t)0x01010101);
  const auto add = [&](int64_t u, const IntVec* left) {
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      const IntVec right = load(x + m * depth + u);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) sum[m * R + r] = accumulate(left[r], right, sum[m * R + r]);
    }
    if (SHIFT)
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) shift[r] = accumulate(left[r], ones, shift[r]);
  };
  const int8_t* row[R];
  for (int r = 0; r < R; ++r) row[r] = weight + std::min<int64_t>(r, given - 1) * K;
  IntVec left[R];
  int64_t k = 0;
  for (; k + STEP <= K; k += STEP) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      left[r] = units(row[r] + k);
      __builtin_prefetch(row[r] + R * K + k);
    }
    add(k / NUMBERS, left);
  }
  if (k < K) {
    for (int r = 0; r < R; ++r) left[r] = units(row[r] + k, K - k);
    add(k / NUMBERS, left);
  }
  if (SHIFT)
#pragma GCC unroll 32
    for (int i = 0; i < M * R; ++i) sum[i] -= SHIFT * shift[i % R];
  float sums[LANES];
  store(sums, to_floats(sums_of(sum)));
  for (int m = 0; m < M; ++m) std::memcpy(result + m * N, sums + m * R, given * sizeof(float));
}

// Few rows of x: the weight is read once, in the order of its memory.
template <int M>
void few(const Bytes& o, const float* scales) {
  constexpr int R = rows_for(M);
  const int64_t depth = vectors_of(o.K) * LANES;
  int32_t* x = scratch<1, int32_t>(M * depth);
  for (int m = 0; m < M; ++m) to_units(o.x + m * o.line, o.K, x + m * depth, shifted);
  const auto shares = shares_of(o, 96, o.K);
#pragma omp parallel for schedule(dynamic, 1) num_threads(o.threads)
  for (int64_t b = 0; b < static_cast<int64_t>(shares.size()); ++b) {
    const Share<int8_t>& share = shares[b];
    for (int64_t n = 0; n < share.rows; n += R)
      dots<R, M>(share.weight + n * o.K, std::min<int64_t>(R, share.rows - n), o.K, x, depth, share.result + n, share.N);
    for (int m = 0; m < M; ++m) {
      const Vec of_row = all(scales[m]);
      finish_row(share.result + m * share.N, share, o.activation, [&](Vec sum, int64_t n, int64_t count) {
        return sum * of_row * load(share.scales + n, count);
      });
    }
  }
}

void quantize(
    const float* x, const float* divisor, int64_t M, int64_t K, int64_t line, int64_t threads, int8_t* values,
    float* scales) {
#pragma omp parallel for schedule(static) num_threads(threads) if (M * K > 16384)
  for (int64_t m = 0; m < M; ++m) scales[m] = quantize_row(x + m * line, divisor, K, values + m * K);
}

// Up to M rows are few.
template <int M>
void few_or_some(const Bytes& o, const float* scales) {
  if (o.M == M) return few<M>(o, scales);
  if constexpr (M > 1)
    few_or_some<M - 1>(o, scales);
  else
    some(o, scales);
}

void multiply(const Bytes& o, const float* scales) {
  if (o.M >= MANY)
    many(o, scales);
  else
    few_or_some<std::min(8, LANES)>(o, scales);
}

} // namespace


extern "C" void quantize_rows(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>(), divisor = call.next<const float*>();
  const auto M = call.next(), K = call.next(), line = call.next(), threads = call.next();
  const auto values = call.next<int8_t*>();
  quantize(x, divisor, M, K, line, threads, values, call.next<float*>());
}

extern "C" void int8_linears(const int64_t* numbers) {
  Call call{numbers};
  const auto values = call.next<const int8_t*>();
  const auto scales = call.next<const float*>();
  multiply(Bytes(call, values), scales);
}

// The same of x / divisor, which is quantized on the way.
extern "C" void quantized_linears(const int64_t* numbers) {
  Call call{numbers};
  const auto x = call.next<const float*>(), divisor = call.next<const float*>();
  Bytes o(call, nullptr);
  int8_t* values = scratch<6, int8_t>(o.M * o.K);
  float* scales = scratch<7, float>(o.M);
  quantize(x, divisor, o.M, o.K, o.line, o.threads, values, scales);
  o.x = values;
  o.line = o.K;
  multiply(o, scales);
}
