// Products of integers: vectors of units of 32 bits, each of which holds small numbers that lie side by side in a row.
//
// With VNNI a unit is four int8, of which one operand is shifted to be unsigned: + 128. Else it is two int16, whose
// products and their sum have room in 32 bits; there is no instruction without saturation for int8.

#pragma once

#include "vectors.h"

namespace {

#if (defined(__AVX512F__) && defined(__AVX512VNNI__)) || (!defined(__AVX512F__) && defined(__AVXVNNI__))
#define UNITS_OF_BYTES 1
constexpr int NUMBERS = 4; // in a unit
constexpr int SHIFT = 128; // of the right operand
#else
constexpr int NUMBERS = 2;
constexpr int SHIFT = 0;
#endif

inline Vec accumulate(Vec left, Vec right, Vec sum) { return fma(left, right, sum); }

// Adds to each 32-bit number of a vector the products of a unit; that of the right operand is shifted.
inline IntVec accumulate(IntVec left, IntVec right, IntVec sum) {
#if defined(UNITS_OF_BYTES) && defined(__AVX512F__)
  return (IntVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)right, (__m512i)left);
#elif defined(UNITS_OF_BYTES)
  return (IntVec)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)right, (__m256i)left);
#elif defined(__AVX512BW__)
  return sum + (IntVec)_mm512_madd_epi16((__m512i)left, (__m512i)right);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return sum + (IntVec)_mm256_madd_epi16((__m256i)left, (__m256i)right);
#elif defined(__SSE2__) && !defined(__AVX2__)
  return sum + (IntVec)_mm_madd_epi16((__m128i)left, (__m128i)right);
#else
  return sum + (left << 16 >> 16) * (right << 16 >> 16) + (left >> 16) * (right >> 16);
#endif
}

// A vector of units of as many int8 as it holds.
inline IntVec units(const int8_t* at) {
#if defined(UNITS_OF_BYTES)
  IntVec value;
  std::memcpy(&value, at, sizeof(value));
  return value;
#elif defined(__AVX512BW__)
  return (IntVec)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)at));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return (IntVec)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)at));
#else
  int16_t wide[NUMBERS * LANES];
  for (int j = 0; j < NUMBERS * LANES; ++j) wide[j] = at[j];
  IntVec value;
  std::memcpy(&value, wide, sizeof(value));
  return value;
#endif
}

// The same of the first `count` int8; the others count as 0.
inline IntVec units(const int8_t* at, int64_t count) {
  int8_t padded[NUMBERS * LANES] = {};
  std::memcpy(padded, at, count);
  return units(padded);
}

// Units as the right operand of a product.
inline IntVec shifted(IntVec value) { return SHIFT ? value ^ (int32_t)0x80808080 : value; }

// Vectors of units that hold `count` numbers.
inline int64_t vectors_of(int64_t count) { return (count + NUMBERS * LANES - 1) / (NUMBERS * LANES); }

// A row of int8 as units, whole vectors of them, each changed by a function.
template <typename Function>
inline void to_units(const int8_t* row, int64_t count, int32_t* to, Function changed) {
  constexpr int64_t STEP = NUMBERS * LANES;
  int64_t k = 0;
  for (; k + STEP <= count; k += STEP) store(to + k / NUMBERS, changed(units(row + k)));
  if (k < count) store(to + k / NUMBERS, changed(units(row + k, count - k)));
}

} // namespace
