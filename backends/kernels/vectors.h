// Vectors of this machine's width. Written for GCC and Clang.

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

inline IntVec load(const int32_t* at) {
  IntVec value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

inline IntVec load_bytes(const uint8_t* at) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at));
#elif defined(__AVX2__) && defined(__FMA__)
  return (IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at));
#else
  IntVec value;
  for (int j = 0; j < LANES; ++j) value[j] = at[j];
  return value;
#endif
}

template <typename T, typename V>
inline void store(T* at, V value) {
  static_assert(sizeof(T) == sizeof(value[0]));
  std::memcpy(at, &value, sizeof(value));
}

inline Vec all(float value) { return value - Vec{}; }
inline IntVec all(int32_t value) { return value - IntVec{}; }

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
template <typename V>
inline V shuffle(V a, V b, IntVec index) {
#if defined(__clang__)
  V result;
  for (int j = 0; j < LANES; ++j) result[j] = index[j] < LANES ? a[index[j]] : b[index[j] - LANES];
  return result;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// Of which numbers it does not hold that they are below a limit, a bit each: NaN is not.
inline uint32_t not_below(Vec x, Vec limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)x, (__m512)limit, _CMP_NLT_UQ);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)limit, _CMP_NLT_UQ));
#else
  uint32_t bits = 0;
  for (int j = 0; j < LANES; ++j) bits |= uint32_t(!(x[j] < limit[j])) << j;
  return bits;
#endif
}

// The numbers at some bits, side by side at the front; where the processor has no word for it, all of them. How many.
#if defined(__AVX512F__)
inline Vec to_front(Vec x, uint32_t bits) { return (Vec)_mm512_maskz_compress_ps(bits, (__m512)x); }
inline IntVec to_front(IntVec x, uint32_t bits) { return (IntVec)_mm512_maskz_compress_epi32(bits, (__m512i)x); }
inline int64_t at_front(uint32_t bits) { return __builtin_popcount(bits); }
#else
template <typename V>
inline V to_front(V x, uint32_t) {
  return x;
}
inline int64_t at_front(uint32_t) { return LANES; }
#endif

// All numbers of a vector by a function of two vectors, halves against halves.
template <int STEP = LANES / 2, typename V, typename Function>
inline auto reduce(V x, Function function) {
  IntVec other;
  for (int j = 0; j < LANES; ++j) other[j] = j ^ STEP;
  x = function(x, shuffle(x, x, other));
  if constexpr (STEP > 1)
    return reduce<STEP / 2>(x, function);
  else
    return x[0] + 0;
}

// What two vectors exchange: the first gives its numbers whose place has not the bit STEP, or those that have.
template <int STEP>
inline void exchanges(IntVec& low, IntVec& high) {
  for (int j = 0; j < LANES; ++j) {
    low[j] = j & STEP ? LANES + j - STEP : j;
    high[j] = j & STEP ? LANES + j : j + STEP;
  }
}

// The sums of LANES vectors, as one: it is added up while it is turned around.
template <int STEP = 1, typename V>
inline V sums_of(V* rows) {
  if constexpr (STEP == LANES)
    return rows[0];
  else {
    IntVec low, high;
    exchanges<STEP>(low, high);
#pragma GCC unroll 32
    for (int i = 0; i < LANES; i += 2 * STEP)
      rows[i] = shuffle(rows[i], rows[i + STEP], low) + shuffle(rows[i], rows[i + STEP], high);
    return sums_of<2 * STEP>(rows);
  }
}

// Turns LANES vectors around, by exchanges between pairs.
template <int STEP = 1, typename V>
inline void transpose(V* rows) {
  if constexpr (STEP < LANES) {
    IntVec low, high;
    exchanges<STEP>(low, high);
#pragma GCC unroll 32
    for (int i = 0; i < LANES; ++i) {
      if (i & STEP) continue;
      const V a = rows[i], b = rows[i + STEP];
      rows[i] = shuffle(a, b, low);
      rows[i + STEP] = shuffle(a, b, high);
    }
    transpose<STEP * 2>(rows);
  }
}

} // namespace
