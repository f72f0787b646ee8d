// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "selection.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>

namespace neuron_chunk {
namespace {

// One bit a row; the intervals of set rows come out merged.
class RowSet {
 public:
  explicit RowSet(std::size_t count) : words_((count + 63) / 64, 0), count_(count) {}

  void add(std::size_t first, std::size_t rows) {
    visit(first, rows, [this](std::size_t word, std::uint64_t mask) {
      words_[word] |= mask;
      return false;
    });
  }

  bool touches(std::size_t first, std::size_t rows) const {
    return visit(first, rows, [this](std::size_t word, std::uint64_t mask) {
      return (words_[word] & mask) != 0;
    });
  }

  std::vector<Interval> intervals() const {
    std::vector<Interval> found;
    std::size_t row = 0;
    while (row < count_) {
      const std::uint64_t word = words_[row / 64];
      if (row % 64 == 0 && word == 0) {
        row += 64;
        continue;
      }
      if (((word >> (row % 64)) & 1) == 0) {
        ++row;
        continue;
      }
      const std::size_t first = row;
      while (row < count_ && ((words_[row / 64] >> (row % 64)) & 1) != 0) ++row;
      found.push_back({static_cast<std::int64_t>(first), static_cast<std::int64_t>(row - first)});
    }
    return found;
  }

 private:
  // Calls use(word, mask) for the words of a range of rows until one call returns true.
  template <typename Use>
  static bool visit(std::size_t first, std::size_t rows, Use use) {
    const std::size_t stop = first + rows;
    while (first < stop) {
      const std::size_t bit = first % 64;
      const std::size_t taken = std::min<std::size_t>(64 - bit, stop - first);
      const std::uint64_t mask = (~std::uint64_t{0} >> (64 - taken)) << bit;
      if (use(first / 64, mask)) return true;
      first += taken;
    }
    return false;
  }

  std::vector<std::uint64_t> words_;
  std::size_t count_;
};

std::size_t clamp_rows(std::int64_t rows, std::size_t count) {
  if (rows <= 0) return 0;
  return std::min(static_cast<std::size_t>(rows), count);
}

float ordered(float value) {
  return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
}

// Finite, so that differences of prefix sums stay numbers.
double summable(float value) {
  if (std::isnan(value)) return 0.0;
  constexpr float kMost = std::numeric_limits<float>::max();
  return std::clamp(value, -kMost, kMost);
}

constexpr double kMostWindows = 16777216.0;    // 400 MB
constexpr std::size_t kWindowsKept = 1 << 20;  // from call to call

struct Window {
  double score;
  std::uint32_t order;  // as generated: by size, then by first row
  std::uint32_t first;
  std::uint32_t rows;
};

bool better(const Window& a, const Window& b) {
  return a.score != b.score ? a.score > b.score : a.order < b.order;
}

double seconds(const GreedyOptions& options, std::size_t rows) {
  const double kib = static_cast<double>(rows) * static_cast<double>(options.row_bytes) / 1024.0;
  const auto last = static_cast<double>(options.latency_count);
  if (kib <= 1.0) return options.latency[0];
  if (kib >= last) return options.latency[options.latency_count - 1] * (kib / last);
  const auto below = static_cast<std::size_t>(kib);
  const double part = kib - static_cast<double>(below);
  const double low = options.latency[below - 1];
  return low + (options.latency[below] - low) * part;
}

std::size_t floor_to_rows(double kib, std::int64_t row_bytes) {
  // No more than there can be: a double beyond the range of an integer is none in particular.
  constexpr double kMost = 4294967296.0;
  return static_cast<std::size_t>(
      std::clamp(std::floor(kib * 1024.0 / static_cast<double>(row_bytes)), 1.0, kMost));
}

void check(const GreedyOptions& options, std::size_t count) {
  if (options.row_bytes <= 0) throw std::invalid_argument("row_bytes must be positive");
  if (options.latency_count == 0) throw std::invalid_argument("the latency table is empty");
  for (std::size_t i = 0; i < options.latency_count; ++i) {
    if (!(options.latency[i] > 0.0) || !std::isfinite(options.latency[i])) {
      throw std::invalid_argument("the latency table must hold positive, finite seconds");
    }
  }
  for (const double kib : {options.min_kib, options.max_kib, options.step_kib, options.jump_kib}) {
    if (!(kib > 0.0) || !std::isfinite(kib)) {
      throw std::invalid_argument("min_kib, max_kib, step_kib and jump_kib must be positive");
    }
  }
  if (options.min_kib > options.max_kib) {
    throw std::invalid_argument("min_kib must not be above max_kib");
  }
  if (count > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("more than 2^31 rows");
  }
}

// The bytes of a run from the group's begin. Throws where they leave what an offset can say.
void byte_range(const Interval& run, std::int64_t row_bytes, std::int64_t block,
                std::int64_t& begin, std::int64_t& end) {
  std::int64_t rows = 0, room = 0;
  if (run.first < 0 || run.rows < 0 || __builtin_add_overflow(run.first, run.rows, &rows) ||
      __builtin_mul_overflow(rows, row_bytes, &end) || __builtin_add_overflow(end, block, &room)) {
    throw std::invalid_argument("runs must be of rows whose bytes an offset can count");
  }
  begin = run.first * row_bytes;
}

// Steps 1 and 2: every window that could be taken at all, with its score.
void score_windows(const float* importance, std::size_t count, std::size_t budget,
                   const GreedyOptions& options, std::vector<double>& sums,
                   std::vector<Window>& windows) {
  sums.resize(count + 1);
  sums[0] = 0.0;
  for (std::size_t i = 0; i < count; ++i) sums[i + 1] = sums[i] + summable(importance[i]);

  const std::size_t least = floor_to_rows(options.min_kib, options.row_bytes);
  const std::size_t most = floor_to_rows(options.max_kib, options.row_bytes);
  const std::size_t step = floor_to_rows(options.step_kib, options.row_bytes);
  const std::size_t jump = floor_to_rows(options.jump_kib, options.row_bytes);
  windows.clear();
  // A window above the whole budget would be skipped by the walk whatever its score.
  const std::size_t widest = std::min({most, count, budget});
  double made = 0.0;
  for (std::size_t rows = least; rows <= widest && made <= kMostWindows; rows += step) {
    made += static_cast<double>((count - rows) / std::min(rows, jump) + 1);
  }
  if (made > kMostWindows) {
    throw std::invalid_argument(
        "these sizes make more than 2^24 windows: take a larger step_kib or jump_kib");
  }
  windows.reserve(static_cast<std::size_t>(made));
  for (std::size_t rows = least; rows <= widest; rows += step) {
    const double cost = seconds(options, rows);
    const std::size_t stride = std::min(rows, jump);
    for (std::size_t first = 0; first + rows <= count; first += stride) {
      windows.push_back({(sums[first + rows] - sums[first]) / cost,
                         static_cast<std::uint32_t>(windows.size()),
                         static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(rows)});
    }
  }
}

}  // namespace

std::vector<Interval> select_topk(const float* importance, std::size_t count, std::int64_t rows) {
  const std::size_t budget = clamp_rows(rows, count);
  if (budget == 0) return {};
  if (budget == count) return {{0, static_cast<std::int64_t>(count)}};

  // The importance of the last row taken; above it all are taken, at it the first few.
  thread_local std::vector<float> keys;
  keys.resize(count);
  std::transform(importance, importance + count, keys.begin(), ordered);
  const auto last = keys.begin() + static_cast<std::ptrdiff_t>(budget - 1);
  std::nth_element(keys.begin(), last, keys.end(), std::greater<float>());
  const float threshold = *last;
  std::size_t ties = budget;
  for (auto key = keys.begin(); key != last; ++key) ties -= *key > threshold;

  std::vector<Interval> found;
  for (std::size_t row = 0; row < count; ++row) {
    const float key = ordered(importance[row]);
    if (key < threshold) continue;
    if (key == threshold) {
      if (ties == 0) continue;
      --ties;
    }
    const auto index = static_cast<std::int64_t>(row);
    if (!found.empty() && found.back().first + found.back().rows == index) {
      ++found.back().rows;
    } else {
      found.push_back({index, 1});
    }
  }
  return found;
}

std::vector<Interval> select_topk_keeping(const float* importance, std::size_t count,
                                          double kept) {
  std::vector<double> order(count);
  std::transform(importance, importance + count, order.begin(), summable);
  std::sort(order.begin(), order.end(), std::greater<double>());
  double sum = 0.0;
  std::size_t rows = 0;
  while (rows < count && sum < kept) sum += order[rows++];
  return select_topk(importance, count, static_cast<std::int64_t>(rows));
}

std::vector<Interval> select_greedy(const float* importance, std::size_t count, std::int64_t rows,
                                    const GreedyOptions& options, double kept) {
  check(options, count);
  if (std::isnan(kept)) throw std::invalid_argument("what is to be kept is not a number");
  std::size_t left = clamp_rows(rows, count);
  thread_local std::vector<double> sums;
  thread_local std::vector<Window> windows;
  score_windows(importance, count, left, options, sums, windows);

  // Steps 3 and 4. The order of the walk is that of a full sort, but only the best windows are
  // sorted at a time, and those that earlier choices have ruled out leave before the next round:
  // most of them are never sorted at all.
  RowSet chosen(count);
  double sum = 0.0;
  auto next = windows.begin();
  auto stop = windows.end();
  std::ptrdiff_t round = 1024;
  while (next != stop && left > 0 && sum < kept) {
    const auto sorted = next + std::min(round, stop - next);
    if (sorted != stop) std::nth_element(next, sorted, stop, better);
    std::sort(next, sorted, better);
    for (; next != sorted && left > 0 && sum < kept; ++next) {
      if (next->rows > left || chosen.touches(next->first, next->rows)) continue;
      chosen.add(next->first, next->rows);
      left -= next->rows;
      sum += sums[next->first + next->rows] - sums[next->first];
    }
    stop = std::remove_if(next, stop, [&](const Window& window) {
      return window.rows > left || chosen.touches(window.first, window.rows);
    });
    round *= 2;
  }
  if (windows.capacity() > kWindowsKept) std::vector<Window>().swap(windows);
  return chosen.intervals();
}

double reading_seconds(const Interval* intervals, std::size_t count, std::int64_t row_bytes,
                       std::int64_t block, const TwoLines& lines) {
  if (row_bytes <= 0) throw std::invalid_argument("row_bytes must be positive");
  if (block <= 0) throw std::invalid_argument("block must be positive");
  double sum = 0.0;
  for (const Interval* run = intervals; run != intervals + count;) {
    std::int64_t begin = 0, end = 0;
    byte_range(*run, row_bytes, block, begin, end);
    const std::int64_t first = begin / block;
    std::int64_t stop = (end + block - 1) / block;
    // As the reader does: neighbours that share or touch a block are one request.
    for (++run; run != intervals + count; ++run) {
      std::int64_t next = 0, next_end = 0;
      byte_range(*run, row_bytes, block, next, next_end);
      if (next < end || next / block > stop) break;
      end = next_end;
      stop = (end + block - 1) / block;
    }
    const double kib = static_cast<double>((stop - first) * block) / 1024.0;
    sum += kib <= lines.knee_kib ? lines.low_request + lines.low_kib * kib
                                 : lines.high_request + lines.high_kib * kib;
  }
  return sum;
}

}  // namespace neuron_chunk
