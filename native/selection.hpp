// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Which rows of a group to read: top-k and the greedy, multi-scale choice of chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace neuron_chunk {

struct Interval {
  std::int64_t first;
  std::int64_t rows;
};

// The `rows` most important of `count` rows (all of them when rows >= count), as ascending
// intervals that don't touch. Ties go to the lower index; NaN counts as minus infinity.
std::vector<Interval> select_topk(const float* importance, std::size_t count, std::int64_t rows);

// As few rows as keep at least `kept` of the summed importance; all of them where none do. NaN
// counts as 0 in the sum.
std::vector<Interval> select_topk_keeping(const float* importance, std::size_t count, double kept);

// Kilobytes (1024 bytes) as the paper's Algorithm 1 takes them.
struct GreedyOptions {
  std::int64_t row_bytes;
  double min_kib;
  double max_kib;
  double step_kib;
  double jump_kib;
  // latency[s - 1] = T[s], seconds for a read of s KiB.
  const double* latency;
  std::size_t latency_count;
};

// Algorithm 1 of arXiv 2511.18692. Windows of equal score are walked smaller ones first, then
// lower first rows first. T between two table entries is interpolated linearly; below the first
// it is the first, beyond the last it grows in proportion to the bytes. Importance that is NaN
// counts as 0. The walk ends as soon as `kept` of the summed importance is reached. Throws
// std::invalid_argument.
std::vector<Interval> select_greedy(const float* importance, std::size_t count, std::int64_t rows,
                                    const GreedyOptions& options,
                                    double kept = std::numeric_limits<double>::infinity());

// A storage profile's T(s): two lines that meet at the knee, in KiB (1024 bytes) and seconds.
struct TwoLines {
  double low_request;
  double low_kib;
  double high_request;
  double high_kib;
  double knee_kib;
};

// The sum of T over the runs, each rounded out to whole blocks, for a group that begins on one.
double reading_seconds(const Interval* intervals, std::size_t count, std::int64_t row_bytes,
                       std::int64_t block, const TwoLines& lines);

}  // namespace neuron_chunk
