// Activations of vectors.

#pragma once

#include "vectors.h"

#include <type_traits>

namespace {

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

// Calls a function with an activation that is known when it is compiled.
template <typename Function>
inline void by_activation(int activation, Function function) {
  switch (activation) {
    case RELU: return function(std::integral_constant<int, RELU>{});
    case GELU: return function(std::integral_constant<int, GELU>{});
    case GELU_TANH: return function(std::integral_constant<int, GELU_TANH>{});
    case QUICK_GELU: return function(std::integral_constant<int, QUICK_GELU>{});
    case SILU: return function(std::integral_constant<int, SILU>{});
    case SIGMOID: return function(std::integral_constant<int, SIGMOID>{});
    default: return function(std::integral_constant<int, NONE>{});
  }
}

} // namespace
