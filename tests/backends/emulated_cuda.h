// CUDA for one core of a CPU: the threads of a block are fibers, which take turns at barriers and shuffles.
//
// Threads run in ascending or in descending order, so that what one reads of another's too early shows as a difference.
// A barrier that not all threads reach, or a shuffle that not all of a warp reach, is a deadlock: the process aborts.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(n)
#define __align__(n) __attribute__((aligned(n)))
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)

struct Index {
  unsigned x, y, z;
};
static Index blockIdx, threadIdx;

#define VECTORS(T)                                                             \
  struct __align__(2 * sizeof(T)) T##2 { T x, y; };                            \
  struct __align__(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) T##4 { T x, y, z, w; }; \
  static inline T##2 make_##T##2(T x, T y) { return {x, y}; }                  \
  static inline T##4 make_##T##4(T x, T y, T z, T w) { return {x, y, z, w}; }
using longlong = int64_t;
VECTORS(float)
VECTORS(double)
VECTORS(int)
VECTORS(longlong)
VECTORS(short)
VECTORS(char)

struct __align__(8) ushort4 { unsigned short x, y, z, w; };
struct __align__(4) ushort2 { unsigned short x, y; };
static inline ushort4 make_ushort4(int x, int y, int z, int w) {
  return {(unsigned short)x, (unsigned short)y, (unsigned short)z, (unsigned short)w};
}
static inline ushort2 make_ushort2(int x, int y) { return {(unsigned short)x, (unsigned short)y}; }

using half = _Float16;
using __half = half;
struct __align__(4) half2 { half x, y; };
using __half2 = half2;
static inline half2 make_half2(half x, half y) { return {x, y}; }
static inline bool __hgt(half a, half b) { return a > b; }
static inline bool __hlt(half a, half b) { return a < b; }

struct nv_bfloat16 {
  uint16_t bits = 0;
  nv_bfloat16() = default;
  nv_bfloat16(float x) {
    uint32_t all;
    memcpy(&all, &x, 4);
    bits = x != x ? 0x7fff : (all + 0x7fff + ((all >> 16) & 1)) >> 16;
  }
  operator float() const {
    uint32_t all = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &all, 4);
    return x;
  }
};
using __nv_bfloat16 = nv_bfloat16;
struct __align__(4) nv_bfloat162 {
  nv_bfloat16 x, y;
  nv_bfloat162() = default;
  nv_bfloat162(nv_bfloat16 x, nv_bfloat16 y) : x(x), y(y) {}
};
using __nv_bfloat162 = nv_bfloat162;
static inline bool __hgt(nv_bfloat16 a, nv_bfloat16 b) { return (float)a > (float)b; }
static inline bool __hlt(nv_bfloat16 a, nv_bfloat16 b) { return (float)a < (float)b; }

static inline float __half2float(half x) { return x; }
static inline half __float2half(float x) { return x; }
static inline float __bfloat162float(nv_bfloat16 x) { return x; }
static inline nv_bfloat16 __float2bfloat16(float x) { return x; }

static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
template <typename T> static inline T max(T a, T b) { return a > b ? a : b; }
template <typename T> static inline T min(T a, T b) { return a < b ? a : b; }

namespace emulated {

enum State { RUNS, AT_WARP, AT_BLOCK, ENDED };
constexpr int WARP = 32, STACK = 1 << 16;

struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  State state;
};
static std::vector<Thread> threads;
static ucontext_t scheduler;
static int current;
static std::function<void()> body;
static uint64_t exchanged[1024];

static void run_body() {
  body();
  threads[current].state = ENDED;
  swapcontext(&threads[current].context, &scheduler);
}

static void wait(State state) {
  int me = current;
  threads[me].state = state;
  swapcontext(&threads[me].context, &scheduler);
}

static bool release(State state, int first, int last) {
  bool any = false;
  for (int t = first; t < last; ++t) {
    if (threads[t].state == RUNS || (threads[t].state != ENDED && threads[t].state != state)) return false;
    any |= threads[t].state == state;
  }
  for (int t = first; t < last; ++t)
    if (threads[t].state == state) threads[t].state = RUNS;
  return any;
}

static void run_block(int count, bool descending) {
  threads.resize(count);
  for (auto& thread : threads) {
    thread.stack.resize(STACK);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    thread.state = RUNS;
    makecontext(&thread.context, run_body, 0);
  }
  for (;;) {
    bool moved = false;
    for (int at = 0; at < count; ++at) {
      int t = descending ? count - 1 - at : at;
      if (threads[t].state != RUNS) continue;
      moved = true;
      current = t;
      threadIdx = {(unsigned)t, 0, 0};
      swapcontext(&scheduler, &threads[t].context);
    }
    for (int first = 0; first < count; first += WARP) moved |= release(AT_WARP, first, std::min(first + WARP, count));
    moved |= release(AT_BLOCK, 0, count);
    if (std::all_of(threads.begin(), threads.end(), [](const Thread& t) { return t.state == ENDED; })) return;
    if (!moved) {
      fprintf(stderr, "threads wait for others that never come\n");
      abort();
    }
  }
}

static void launch(int64_t blocks, int64_t count, std::function<void()> kernel) {
  const bool descending = getenv("EMULATED_DESCENDING") != nullptr;
  body = std::move(kernel);
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx = {(unsigned)block, 0, 0};
    run_block((int)count, descending);
  }
}

template <typename T> static T shuffle(T value, int source) {
  int warp = current / WARP * WARP;
  memcpy(&exchanged[current], &value, sizeof(T));
  wait(AT_WARP);
  if (warp + source < (int)threads.size()) memcpy(&value, &exchanged[warp + source], sizeof(T));
  wait(AT_WARP);
  return value;
}

}  // namespace emulated

static inline void __syncthreads() { emulated::wait(emulated::AT_BLOCK); }
static inline unsigned __activemask() { return ~0u; }
template <typename T> static inline T __shfl_sync(unsigned, T value, int lane, int) {
  return emulated::shuffle(value, lane);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T value, int by, int width) {
  int lane = emulated::current % emulated::WARP;
  return emulated::shuffle(value, lane % width + by < width ? lane + by : lane);
}

// Memory that kernels hand values on in; until then it holds NaN.
extern "C" void* emulated_alloc(int, int, uint64_t bytes, int, int) {
  return memset(aligned_alloc(64, (bytes + 63) / 64 * 64), 0xff, bytes);
}
extern "C" int emulated_free(int, int, void* memory) {
  free(memory);
  return 0;
}
