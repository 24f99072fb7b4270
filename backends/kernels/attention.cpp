// Attention of a batch, or within each sequence of a packed batch, float32.
//
// A task is a block of queries of one head of one sequence: scores against all keys, which are scaled and transposed for
// it, then softmax, then the sum of values. Both products are one micro-kernel: broadcast numbers against NV
// vectors, summed in registers; a panel of the right operand stays in the first-level cache for all rows of the task.

#include "product.h"

#include <limits>
#include <vector>

namespace {

constexpr int64_t QUERIES = 128; // of one task

// C = A B for any number of vectors: a panel of B stays in the first-level cache for all rows.
inline void multiply_panels(
    int64_t rows, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc,
    int64_t vectors) {
  const Panels panels(vectors * LANES);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t at = panels.first(p) * LANES;
    multiply(panels.width(p), rows, a, lda, b + at, ldb, depth, c + at, ldc);
  }
}

struct Mask {
  const void* data; // null: none
  int64_t row, head, query, key;
  bool boolean;

  // What is added to a score.
  float at(int64_t offset) const {
    if (!boolean) return static_cast<const float*>(data)[offset];
    return static_cast<const uint8_t*>(data)[offset] ? 0.f : -std::numeric_limits<float>::infinity();
  }
};

struct Strided {
  int64_t batch, token, head;

  int64_t at(int64_t b, int64_t n, int64_t h) const { return batch * b + token * n + head * h; }
};

// Queries `first` to `last` of a sequence that starts at a token, of a batch, and has `keys` keys.
struct Block {
  int64_t batch, start, first, last, keys;
};

struct Buffer {
  std::vector<float> memory;

  float* of(int64_t size) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
  }
};

struct Scratch {
  Buffer keys, values, scores, sums;
};

inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

// Scores of one query to weights, in place; returns their sum. Those from `seen` on are 0.
inline float softmax(float* scores, int64_t seen, int64_t width) {
  const float lowest = -std::numeric_limits<float>::infinity();
  for (int64_t n = seen; n < width; ++n) scores[n] = lowest;
  const auto larger = [](Vec x, Vec y) { return x > y ? x : y; };
  Vec most = all(lowest);
  for (int64_t n = 0; n < width; n += LANES) most = larger(load(scores + n), most);
  float top = reduce(most, larger);
  if (top == lowest) top = 0.f; // no key is seen: all weights are 0
  Vec sums = {};
  for (int64_t n = 0; n < width; n += LANES) {
    Vec weight = exp_of_negative(load(scores + n) - top);
    sums += weight;
    store(scores + n, weight);
  }
  return reduce(sums, [](Vec x, Vec y) { return x + y; });
}

} // namespace

extern "C" void attention(
    const float* query, const float* key, const float* value, float* result, const int64_t* sizes,
    const int64_t* strides, const int64_t* row, const int64_t* position, const int64_t* lengths, const void* mask_data,
    float scale, int32_t flags, int32_t threads) {
  const int64_t batch = sizes[0], heads = sizes[1], key_heads = sizes[2], depth = sizes[3], width = sizes[4];
  const Strided q{strides[0], strides[1], strides[2]}, k{strides[3], strides[4], strides[5]},
      v{strides[6], strides[7], strides[8]};
  const Mask mask{mask_data, strides[9], strides[10], strides[11], strides[12], (flags & 2) != 0};
  const bool causal = flags & 1;

  // Blocks of queries; of packed sequences the longest first, so that they end about together.
  std::vector<Block> blocks;
  if (lengths) {
    int64_t start = 0;
    for (int64_t b = 0; b < batch; ++b) start += lengths[b];
    for (int64_t b = batch - 1; b >= 0; --b) {
      start -= lengths[b];
      for (int64_t first = 0; first < lengths[b]; first += QUERIES)
        blocks.push_back({0, start, first, std::min(first + QUERIES, lengths[b]), lengths[b]});
    }
  } else {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t first = 0; first < sizes[5]; first += QUERIES)
        blocks.push_back({b, 0, first, std::min(first + QUERIES, sizes[5]), sizes[6]});
  }
  const int64_t tasks = static_cast<int64_t>(blocks.size()) * heads;

#pragma omp parallel num_threads(threads) if (tasks > 1)
  {
    static thread_local Scratch scratch; // kept: memory that is new at each call is slow
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      const Block block = blocks[task / heads];
      const int64_t head = task % heads, key_head = head / (heads / key_heads);
      const int64_t rows = block.last - block.first, seen = causal ? std::min(block.last, block.keys) : block.keys;
      const int64_t columns = padded(seen), out = padded(width);
      const int64_t line = columns % 128 ? columns : columns + LANES; // lines that do not share cache sets

      const float* keys = key + k.at(block.batch, block.start, key_head);
      float* transposed = scratch.keys.of(depth * line);
      turn(keys, k.token, seen, depth, transposed, line, columns / LANES,
           [=](auto x) { return x * scale; });

      const float* values = value + v.at(block.batch, block.start, key_head);
      int64_t value_line = v.token;
      if (width != out) {
        float* copy = scratch.values.of(seen * out);
        for (int64_t n = 0; n < seen; ++n) {
          std::memcpy(copy + n * out, values + n * v.token, width * sizeof(float));
          std::fill_n(copy + n * out + width, out - width, 0.f);
        }
        values = copy, value_line = out;
      }

      const int64_t token = block.start + block.first;
      float* scores = scratch.scores.of(rows * line);
      float* sums = scratch.sums.of(rows * out);
      float total[QUERIES];
      multiply_panels(rows, query + q.at(block.batch, token, head), q.token, transposed, line, depth, scores, line,
                      columns / LANES);
      for (int64_t m = 0; m < rows; ++m) {
        if (mask.data) {
          const int64_t at = mask.row * (row ? row[token] : block.batch) + mask.head * head +
              mask.query * (position ? position[token + m] : block.first + m);
          for (int64_t n = 0; n < seen; ++n)
            scores[m * line + n] += mask.at(at + mask.key * (position ? position[block.start + n] : n));
        }
        total[m] = softmax(scores + m * line, causal ? std::min(block.first + m + 1, seen) : seen, columns);
      }
      multiply_panels(rows, scores, line, values, value_line, seen, sums, out, out / LANES);
      float* to = result + ((block.batch * sizes[5] + token) * heads + head) * width;
      for (int64_t m = 0; m < rows; ++m) {
        const float over = total[m] == 0.f ? 0.f : 1.f / total[m];
        for (int64_t d = 0; d < width; ++d) to[m * heads * width + d] = sums[m * out + d] * over;
      }
    }
  }
}
