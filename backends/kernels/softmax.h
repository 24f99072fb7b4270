// Scores of some queries to weights, and to the sums of values that they weigh.

#pragma once

#include "product.h"

#include <cmath>
#include <limits>

namespace {

constexpr float NEVER = -std::numeric_limits<float>::infinity(); // what hides a key

inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

// Keys of a query whose weights are not 0: before `head`, and from `first` to `end`.
struct Seen {
  int64_t head, first, end;
};

// The largest scores of R queries, 0 where no key is seen; what is not seen is hidden on the way.
template <int R>
inline void largest(float* scores, int64_t line, const Seen* seen, int64_t width, float* top) {
  const auto larger = [](Vec x, Vec y) { return x > y ? x : y; };
  Vec most[R];
  for (int r = 0; r < R; ++r) {
    float* row = scores + r * line;
    for (int64_t n = seen[r].head; n < seen[r].first; ++n) row[n] = NEVER;
    for (int64_t n = seen[r].end; n < width; ++n) row[n] = NEVER;
    most[r] = all(NEVER);
  }
  for (int64_t n = 0; n < width; n += LANES)
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) most[r] = larger(load(scores + r * line + n), most[r]);
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
    top[r] = reduce(most[r], larger);
    if (top[r] == NEVER) top[r] = 0.f; // no key is seen: all weights are 0
  }
}

// Scores of R queries to weights, in place, with the sums of these. Several at a time: what one waits for, another fills.
template <int R, typename Function>
inline void weigh(float* scores, int64_t line, int64_t width, const float* top, float* totals, Function changed) {
  Vec sums[R] = {};
  for (int64_t n = 0; n < width; n += LANES)
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      const Vec weight = changed(exp_of_negative(load(scores + r * line + n) - top[r]));
      sums[r] += weight;
      store(scores + r * line + n, weight);
    }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) totals[r] = reduce(sums[r], [](Vec x, Vec y) { return x + y; });
}

template <int R>
inline void softmax(float* scores, int64_t line, const Seen* seen, int64_t width, float* totals) {
  float top[R];
  largest<R>(scores, line, seen, width, top);
  weigh<R>(scores, line, width, top, totals, [](Vec x) { return x; });
}

// The keys of which some of R queries has a score that is not below its limit: how many, where, and all R scores of each.
// Behind the last one follow hidden ones, so that the last vector is a whole one.
template <int R>
inline int64_t keep(
    const float* scores, int64_t line, int64_t keys, const float* limit, float* kept, int64_t kept_line,
    int32_t* places) {
  const IntVec last = all(static_cast<int32_t>(keys - 1));
  int64_t count = 0;
  IntVec index;
  for (int j = 0; j < LANES; ++j) index[j] = j;
  for (int64_t n = 0; n < keys; n += LANES, index += LANES) {
    Vec some[R];
    uint32_t bits = 0;
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      some[r] = load(scores + r * line + n);
      bits |= not_below(some[r], all(limit[r]));
    }
    if (!bits) continue;
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) store(kept + r * kept_line + count, to_front(some[r], bits));
    store(places + count, to_front(index < last ? index : last, bits)); // hidden ones stand behind the last key
    count += at_front(bits);
  }
  for (int r = 0; r < R; ++r) store(kept + r * kept_line + count, all(NEVER));
  return count;
}

// C[R, V * LANES] = A[R, count] B, of whose rows those at some places are taken.
template <int R, int V>
inline void product_at(
    const float* a, int64_t lda, const float* b, int64_t ldb, const int32_t* places, int64_t count, float* c,
    int64_t ldc) {
  Vec sum[R][V] = {};
  for (int64_t k = 0; k < count; ++k) {
    const float* row = b + places[k] * ldb;
    Vec right[V];
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) right[v] = load(row + v * LANES);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      const Vec left = all(a[r * lda + k]);
#pragma GCC unroll 32
      for (int v = 0; v < V; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (int v = 0; v < V; ++v) store(c + r * ldc + v * LANES, sum[r][v]);
}

// Sums of values of R queries, and of their weights: see txgraph::threshold_attention. What none of them keeps is left
// out: exponentials and products.
// kept: [R, line + LANES]. apart: whether a key that is left out has no part, as all values are finite; else nothing is.
template <int R>
inline void threshold_softmax(
    float* scores, int64_t line, const Seen* seen, int64_t keys, float threshold, bool apart, const float* values,
    int64_t value_line, float* kept, int32_t* places, float* sums, int64_t out, float* totals) {
  constexpr int V = NV / 2; // of R numbers each in registers
  const int64_t kept_line = line + LANES;
  float top[R], limit[R];
  int64_t end = 0;
  for (int r = 0; r < R; ++r) end = std::max(end, seen[r].end);
  if (apart) keys = std::min(keys, end);
  largest<R>(scores, line, seen, padded(keys), top);
  for (int r = 0; r < R; ++r) limit[r] = apart ? top[r] + std::log(threshold) : NEVER;
  const int64_t count = keep<R>(scores, line, keys, limit, kept, kept_line, places);
  weigh<R>(kept, kept_line, count, top, totals, [=](Vec x) {
    const Vec above = (x - threshold) * 2.f, weight = x < above ? x : above;
    return weight < 0.f ? Vec{} : weight;
  });
  int64_t at = 0;
  for (; at + V * LANES <= out; at += V * LANES)
    product_at<R, V>(kept, kept_line, values + at, value_line, places, count, sums + at, out);
  if (at < out) product_at<R, 1>(kept, kept_line, values + at, value_line, places, count, sums + at, out);
}

} // namespace
