// Attention of a batch, or within each sequence of a packed batch, float32.
//
// A task is a block of queries of one head of one sequence: scores against all keys, which are scaled and transposed for
// it, then softmax, then the sum of values. Both products are one micro-kernel: broadcast numbers against NV
// vectors, summed in registers; a panel of the right operand stays in the first-level cache for all rows of the task.
// Tiles of keys that a mask hides from all queries of a block are left out where all keys and values are finite, so that
// a window costs what is in it. A hidden score that overflows, NaN with -inf added to it, then is hidden, too.
// Windows that are given as the first and the end of each query's keys say so without a mask; sinks are keys at the
// start that queries see beside their windows. Above a threshold, if there is one, softmax and sum are of few keys.

#include "call.h"
#include "softmax.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t QUERIES = 128; // of one task
constexpr int64_t TILE = 64;     // keys that are left out together: a multiple of LANES; of few keys LANES
constexpr int64_t FEW = 4;       // queries: of fewer, keys are read where they are, and not left out: that is reading, too
constexpr int64_t ROWS = 8;      // queries for which what a threshold leaves out is left out together

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

  // Whether some of the keys from an offset on, of which each is `step` further, is seen.
  bool shows(int64_t offset, int64_t step, int64_t count) const {
    int64_t hidden = 0;
    if (boolean) {
      const uint8_t* values = static_cast<const uint8_t*>(data) + offset;
      for (int64_t n = 0; n < count; ++n) hidden += !values[n * step];
    } else {
      const float* values = static_cast<const float*>(data) + offset;
      for (int64_t n = 0; n < count; ++n) hidden += values[n * step] == NEVER;
    }
    return hidden < count;
  }

  // What is added to a score.
  float at(int64_t offset) const {
    if (!boolean) return static_cast<const float*>(data)[offset];
    return static_cast<const uint8_t*>(data)[offset] ? 0.f : NEVER;
  }

  // Adds it to scores of keys that lie side by side.
  void add(int64_t offset, int64_t count, float* scores) const {
    int64_t n = 0;
    for (; n + LANES <= count; n += LANES) {
      const Vec added = boolean ? (load_bytes(static_cast<const uint8_t*>(data) + offset + n) != 0 ? Vec{} : all(NEVER))
                                : load(static_cast<const float*>(data) + offset + n);
      store(scores + n, load(scores + n) + added);
    }
    for (; n < count; ++n) scores[n] += at(offset + n);
  }
};

struct Strided {
  int64_t batch, token, head;

  int64_t at(int64_t b, int64_t n, int64_t h) const { return batch * b + token * n + head * h; }
};

// Queries `first` to `last` of a sequence that starts at a token, of a batch, and has `keys` keys.
struct Block {
  int64_t batch, start, first, last, keys, sequence;
};

// Keys side by side that some query of a block may see.
struct Run {
  int64_t first, count;
};

template <>
inline Strided Call::next<Strided>() {
  const int64_t batch = next(), token = next(), head = next();
  return {batch, token, head};
}

template <>
inline Mask Call::next<Mask>() {
  const void* data = next<const void*>();
  const int64_t row = next(), head = next(), query = next(), key = next();
  return {data, row, head, query, key, next<bool>()};
}

struct Buffer {
  std::vector<float> memory;

  float* of(int64_t size) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
  }
};

struct Scratch {
  Buffer keys, values, scores, sums, kept;
  std::vector<int32_t> places;
};

// Numbers times a factor.
inline void scaled(const float* from, float factor, int64_t count, float* to) {
  int64_t d = 0;
  for (; d + LANES <= count; d += LANES) store(to + d, load(from + d) * factor);
  for (; d < count; ++d) to[d] = from[d] * factor;
}

// Whether all numbers of `rows` lines are finite: then a hidden key has no part in a result, not even as 0 * inf.
inline bool finite(const float* from, int64_t stride, int64_t rows, int64_t width) {
  Vec sums = {};
  float rest = 0.f;
  for (int64_t n = 0; n < rows; ++n) {
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) sums += load(from + n * stride + d) * 0.f;
    for (; d < width; ++d) rest += from[n * stride + d] * 0.f;
  }
  return rest + reduce(sums, [](Vec x, Vec y) { return x + y; }) == 0.f; // else NaN
}

} // namespace

extern "C" void attention(const int64_t* numbers) {
  Call call{numbers};
  const int64_t threads = call.next();
  const auto query = call.next<const float*>(), key = call.next<const float*>(), value = call.next<const float*>();
  const auto result = call.next<float*>();
  const int64_t batch = call.next(), heads = call.next(), key_heads = call.next(), depth = call.next(),
                width = call.next(), dense_queries = call.next(), dense_keys = call.next();
  const auto q = call.next<Strided>(), k = call.next<Strided>(), v = call.next<Strided>();
  const bool causal = call.next();
  const auto row = call.next<const int64_t*>(), position = call.next<const int64_t*>(),
             lengths = call.next<const int64_t*>();
  const auto mask = call.next<Mask>();
  const auto window_first = call.next<const int64_t*>(), window_end = call.next<const int64_t*>();
  const int64_t sinks = call.next();
  const auto scale = static_cast<float>(call.next<double>()), threshold = static_cast<float>(call.next<double>());

  // Blocks of queries; of packed sequences the longest first, so that they end about together.
  std::vector<Block> blocks;
  if (lengths) {
    int64_t start = 0;
    for (int64_t b = 0; b < batch; ++b) start += lengths[b];
    for (int64_t b = batch - 1; b >= 0; --b) {
      start -= lengths[b];
      for (int64_t first = 0; first < lengths[b]; first += QUERIES)
        blocks.push_back({0, start, first, std::min(first + QUERIES, lengths[b]), lengths[b], b});
    }
  } else {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t first = 0; first < dense_queries; first += QUERIES)
        blocks.push_back({b, 0, first, std::min(first + QUERIES, dense_queries), dense_keys, b});
  }
  const int64_t tasks = static_cast<int64_t>(blocks.size()) * heads;

  // Where the mask of a token begins, and which keys some query of a block sees by it.
  const auto mask_at = [&](const Block& block, int64_t head, int64_t m) {
    return mask.row * (row ? row[block.start + block.first] : block.batch) + mask.head * head +
        mask.query * (position ? position[block.start + block.first + m] : block.first + m);
  };
  const auto key_at = [&](const Block& block, int64_t n) { return mask.key * (position ? position[block.start + n] : n); };
  const auto seen_by = [&](const Block& block) { return causal ? std::min(block.last, block.keys) : block.keys; };
  const auto sees = [&](const Block& block, int64_t head, int64_t first, int64_t last) {
    for (int64_t m = 0; m < (mask.query ? block.last - block.first : 1); ++m) {
      const int64_t at = mask_at(block, head, m);
      if (!position) {
        if (mask.shows(at + mask.key * first, mask.key, last - first)) return true;
        continue;
      }
      for (int64_t n = first; n < last; ++n)
        if (mask.shows(at + key_at(block, n), 1, 1)) return true;
    }
    return false;
  };
  const int64_t masks = mask.data && mask.head ? heads : 1, held = static_cast<int64_t>(blocks.size()) * masks;
  std::vector<std::vector<Run>> runs(held);
  const bool windows = window_first != nullptr, few = !lengths && dense_queries <= FEW,
             skips = windows || (mask.data && mask.key && !few);
  // The keys that lie in the windows of queries `first` to `last`, side by side.
  const auto window_of = [&](int64_t first, int64_t last, int64_t keys) {
    const int64_t end = std::clamp<int64_t>(*std::max_element(window_end + first, window_end + last), 0, keys);
    const int64_t begin = std::clamp<int64_t>(*std::min_element(window_first + first, window_first + last), 0, end);
    return Run{begin, end - begin};
  };

#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (held > 1 && skips)
  for (int64_t at = 0; at < held; ++at) {
    const Block& block = blocks[at / masks];
    const int64_t seen = seen_by(block), tile = seen > 4 * TILE ? TILE : LANES;
    std::vector<Run>& found = runs[at];
    if (windows) {
      const Run window = window_of(block.first, block.last, block.keys);
      const int64_t end = window.first + window.count, head = padded(std::min(sinks, end));
      if (sinks && window.first > head) found.push_back({0, head});
      const int64_t begin = sinks && window.first <= head ? 0 : window.first;
      if (end > begin) found.push_back({begin, end - begin});
    }
    for (int64_t first = 0; skips && !windows && first < seen; first += tile) {
      const int64_t last = std::min(first + tile, seen);
      if (!sees(block, at % masks, first, last)) continue;
      if (!found.empty() && found.back().first + found.back().count == first)
        found.back().count += last - first;
      else
        found.push_back({first, last - first});
    }
    if (found.empty()) found.push_back({0, skips ? std::min(seen, tile) : seen});
  }

  const bool asks = skips || threshold > 0.f;
  std::vector<char> safe(asks ? batch * key_heads : 0);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (safe.size() > 1)
  for (int64_t at = 0; at < static_cast<int64_t>(safe.size()); ++at) {
    const int64_t sequence = at / key_heads, key_head = at % key_heads;
    for (const Block& block : blocks) {
      if (block.sequence != sequence) continue;
      safe[at] = finite(key + k.at(block.batch, block.start, key_head), k.token, block.keys, depth) &&
          finite(value + v.at(block.batch, block.start, key_head), v.token, block.keys, width);
      break;
    }
  }

#pragma omp parallel num_threads(threads) if (tasks > 1)
  {
    static thread_local Scratch scratch; // kept: memory that is new at each call is slow
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      const Block block = blocks[task / heads];
      const int64_t head = task % heads, key_head = head / (heads / key_heads);
      const int64_t rows = block.last - block.first, all_seen = seen_by(block);
      const float* keys = key + k.at(block.batch, block.start, key_head);
      const float* values = value + v.at(block.batch, block.start, key_head);
      const std::vector<Run> everything{{0, all_seen}};
      const std::vector<Run>& some = runs[task / heads * masks + head % masks];
      const bool is_safe = asks && safe[block.sequence * key_heads + key_head];
      const std::vector<Run>& parts = is_safe ? some : everything;
      int64_t seen = 0;
      for (const Run& part : parts) seen += part.count;
      const int64_t columns = padded(seen), out = padded(width);
      const int64_t line = columns % 128 ? columns : columns + LANES; // lines that do not share cache sets

      int64_t value_line = v.token;
      if (width != out || parts.size() > 1) {
        float* copy = scratch.values.of(seen * out);
        value_line = out;
        for (const Run& part : parts)
          for (int64_t n = part.first; n < part.first + part.count; ++n, copy += out) {
            std::memcpy(copy, values + n * v.token, width * sizeof(float));
            std::fill_n(copy + width, out - width, 0.f);
          }
        values = copy - seen * out;
      } else {
        values += parts[0].first * v.token;
      }

      const int64_t token = block.start + block.first;
      float* scores = scratch.scores.of(rows * line);
      float* sums = scratch.sums.of(rows * out);
      float total[QUERIES];
      Seen visible[QUERIES];
      const float* queries = query + q.at(block.batch, token, head);
      if (few) {
        for (int64_t m = 0; m < rows; ++m) {
          float* to = scores + m * line;
          for (const Run& part : parts)
            for (int64_t n = part.first; n < part.first + part.count; ++n)
              dots<1>(keys + n * k.token, queries + m * q.token, 0, depth, to++, 0);
          scaled(scores + m * line, scale, seen, scores + m * line);
        }
      } else {
        float* transposed = scratch.keys.of(depth * line);
        int64_t done = 0; // a multiple of LANES: only the last run may end within a tile
        for (const Run& part : parts) {
          turn(keys + part.first * k.token, k.token, part.count, depth, transposed + done, line,
               padded(part.count) / LANES, [=](auto x) { return x * scale; });
          done += part.count;
        }
        multiply_panels(rows, queries, q.token, transposed, line, depth, scores, line, columns / LANES);
      }
      for (int64_t m = 0; m < rows; ++m) {
        int64_t shown = 0, place = 0; // of this query: keys that are not later, where it is causal
        const int64_t at = mask.data ? mask_at(block, head, m) : 0, end = causal ? block.first + m + 1 : all_seen;
        for (const Run& part : parts) {
          float* some = scores + m * line + place - part.first;
          if (mask.data && mask.key == 1 && !position)
            mask.add(at + part.first, part.count, some + part.first);
          else if (mask.data)
            for (int64_t n = part.first; n < part.first + part.count; ++n) some[n] += mask.at(at + key_at(block, n));
          shown += std::max<int64_t>(0, std::min(end - part.first, part.count));
          place += part.count;
        }
        int64_t head = 0, hidden = 0; // sinks that this query sees, and where its window begins
        if (windows) {
          const Run window = window_of(block.first + m, block.first + m + 1, block.keys), last = parts.back();
          const int64_t end = window.first + window.count, before = seen - last.count;
          head = std::min(sinks, end);
          hidden = before + std::clamp<int64_t>(window.first - last.first, 0, last.count);
          shown = before + std::clamp<int64_t>(end - last.first, 0, last.count);
          if (!is_safe) { // as a mask would
            for (int64_t n = head; n < seen; ++n) scores[m * line + n] += n < hidden || n >= shown ? NEVER : 0.f;
            head = hidden = 0, shown = seen;
          }
        }
        visible[m] = {head, hidden, shown};
      }
      if (threshold > 0.f) {
        float* kept = scratch.kept.of(ROWS * (line + LANES));
        scratch.places.resize(std::max<size_t>(scratch.places.size(), line));
        int64_t m = 0;
        const auto next = [&](auto count) {
          threshold_softmax<count>(
              scores + m * line, line, visible + m, seen, threshold, is_safe, values, value_line, kept,
              scratch.places.data(), sums + m * out, out, total + m);
          m += count;
        };
        while (m + ROWS <= rows) next(std::integral_constant<int, ROWS>());
        while (m < rows) next(std::integral_constant<int, 1>());
      } else {
        int64_t m = 0;
        for (; m + 4 <= rows; m += 4) softmax<4>(scores + m * line, line, visible + m, columns, total + m);
        for (; m < rows; ++m) softmax<1>(scores + m * line, line, visible + m, columns, total + m);
        multiply_panels(rows, scores, line, values, value_line, seen, sums, out, out / LANES);
      }
      float* to = result + ((block.batch * dense_queries + token) * heads + head) * width;
      for (int64_t m = 0; m < rows; ++m) {
        const float over = total[m] == 0.f ? 0.f : 1.f / total[m];
        scaled(sums + m * out, over, width, to + m * heads * width);
      }
    }
  }
}
