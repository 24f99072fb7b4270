// What Python gives.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

// What is called from Python takes one array: addresses (null: there is none), sizes and other numbers, in the order in
// which they are read. That is the cheapest call that Python can make.
struct Call {
  const int64_t* numbers;

  template <typename T = int64_t>
  T next() {
    return (T)*numbers++;
  }
};

// A number that is no integer: its bits.
template <>
inline double Call::next<double>() {
  double number;
  std::memcpy(&number, numbers++, sizeof(number));
  return number;
}

} // namespace
