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

// The normal distribution's share below x: x times a polynomial of degree 14 in x^2 / 13.8 - 1, fitted to 1.6e-8 where
// |x| < 5.25; beyond it is 0 or 1 to 8e-8.
inline Vec normal_below(Vec x) {
  constexpr float END = 5.25f;
  const Vec u = fma(x * x, all(2.f / (END * END)), all(-1.f));
  Vec p = all(2.39950113e-4f);
  p = fma(p, u, all(-6.56583803e-4f));
  p = fma(p, u, all(6.64732260e-4f));
  p = fma(p, u, all(-1.03953466e-3f));
  p = fma(p, u, all(2.89236126e-3f));
  p = fma(p, u, all(-5.44851974e-3f));
  p = fma(p, u, all(8.41787097e-3f));
  p = fma(p, u, all(-1.27752503e-2f));
  p = fma(p, u, all(1.85386478e-2f));
  p = fma(p, u, all(-2.50419328e-2f));
  p = fma(p, u, all(3.20314404e-2f));
  p = fma(p, u, all(-3.97634146e-2f));
  p = fma(p, u, all(4.96457857e-2f));
  p = fma(p, u, all(-6.71268150e-2f));
  p = fma(p, u, all(1.34659346e-1f));
  const Vec within = fma(p, x, all(0.5f));
  return x > END ? all(1.f) : x < -END ? Vec{} : within;
}

inline Vec activate(int activation, Vec x) {
  switch (activation) {
    case RELU: return x < 0.f ? Vec{} : x;
    case GELU: return x * normal_below(x);
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
