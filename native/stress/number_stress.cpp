// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Threads that multiply, round, sum up and select at the same time on the one pool, each compared
// with what one thread alone makes of the same numbers. For sanitizers, as reader_stress.
// Usage: number_stress SECONDS
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

#include "importance.hpp"
#include "optimal_selection.hpp"
#include "packed_rows.hpp"
#include "row_products.hpp"
#include "selection.hpp"

using namespace neuron_chunk;
using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

namespace {

std::int64_t below(Random& random, std::int64_t bound) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
}

// To the byte as long as they have to be: what is read beyond is found.
template <typename Value>
std::vector<Value> some(Random& random, std::int64_t count) {
  std::vector<Value> values(static_cast<std::size_t>(count));
  for (Value& value : values) {
    value = static_cast<Value>(static_cast<std::int64_t>(random() % 255) - 127);
  }
  return values;
}

template <typename Value>
bool same(const std::vector<Value>& a, const std::vector<Value>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Value)) == 0);
}

bool multiplied(Random& random) {
  const RowType type =
      std::array{RowType::kBfloat16, RowType::kFloat16, RowType::kFloat32}[random() % 3];
  const std::int64_t tokens = 1 + below(random, 9), count = below(random, 600),
                     columns = 1 + below(random, 3000);
  const auto inputs = some<float>(random, tokens * count);
  const auto weights =
      some<float>(random, type == RowType::kFloat32 ? count * columns : (count * columns + 1) / 2);
  std::vector<float> alone(static_cast<std::size_t>(tokens * columns)), shared = alone;
  RowProduct product{inputs.data(), weights.data(), alone.data(), type, tokens, count, columns};
  add_row_product(product, 1);
  product.out = shared.data();
  add_row_product(product, 1 + static_cast<int>(below(random, 5)));
  return same(alone, shared);
}

// Rows of some format, perhaps with a refinement, in memory that ends with the last row.
bool multiplied_packed(Random& random) {
  struct Format {
    int bits;
    std::int64_t group;
    int finer;
  };
  const Format formats[] = {{8, 64, 0}, {8, 16, 0}, {4, 32, 0}, {4, 16, 4}, {3, 16, 5},
                            {2, 16, 0}, {5, 16, 0}, {6, 16, 0}, {4, 96, 0}};
  const Format format = formats[random() % std::size(formats)];
  const std::int64_t tokens = 1 + below(random, 9), rows = below(random, 70),
                     columns = 1 + below(random, 2500);
  const std::int64_t groups = (columns + format.group - 1) / format.group;
  PackedPart part{{}, {}, format.finer != 0, nullptr};
  part.segment = {nullptr, 0, rows, columns, format.group, format.bits};
  part.segment.stride = part.segment.value_bytes() + 2 * groups;
  part.finer = {nullptr, 0, rows, columns, format.group, format.finer};
  part.finer.stride = part.finer.value_bytes();
  const auto packed = some<std::uint8_t>(random, rows * part.segment.stride + 1);
  const auto finer = some<std::uint8_t>(random, rows * part.finer.stride + 1);
  // Odd addresses, as a row in the middle of what was read may have.
  std::vector<std::uint8_t> moved(packed), low(finer);
  part.segment.data = moved.data() + 1;
  part.finer.data = low.data() + 1;
  const auto inputs = some<float>(random, tokens * rows);
  bool right = true;
  for (const PackedKernel& kernel : packed_kernels()) {
    std::vector<float> alone(static_cast<std::size_t>(tokens * columns)), shared = alone;
    part.out = alone.data();
    add_packed_products({part}, inputs.data(), tokens, columns, 1, kernel);
    part.out = shared.data();
    add_packed_products({part}, inputs.data(), tokens, columns,
                        1 + static_cast<int>(below(random, 5)), kernel);
    // Scales of any bits may make NaN, whose sign and payload are the compiler's.
    right &= std::equal(alone.begin(), alone.end(), shared.begin(),
                        [](float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; });
    std::vector<float> one(static_cast<std::size_t>(rows * columns)), other = one;
    const Segment* const refinement = part.refined ? &part.finer : nullptr;
    unpack_packed(part.segment, refinement, one.data(), nullptr, columns, 1, kernel);
    unpack_packed(part.segment, refinement, other.data(), nullptr, columns, 3, kernel);
    right &= same(one, other);
    std::vector<std::uint16_t> halves(one.size());
    unpack_packed(part.segment, refinement, nullptr, halves.data(), columns, 2, kernel);
  }
  return right;
}

bool rounded(Random& random) {
  const std::int64_t rows = 1 + below(random, 40), columns = 1 + below(random, 6000),
                     group = 1 + below(random, 200);
  const std::int64_t groups = (columns + group - 1) / group;
  const auto values = some<float>(random, rows * columns);
  const double shrinks[] = {1.0, 0.9, 0.8};
  std::vector<std::int8_t> alone(values.size()), shared(values.size());
  std::vector<float> one(static_cast<std::size_t>(rows * groups)), other = one;
  const int bits = 2 + static_cast<int>(random() % 7);
  round_rows({values.data(), rows, columns, group, bits, shrinks, 3, alone.data(), one.data()}, 1);
  round_rows({values.data(), rows, columns, group, bits, shrinks, 3, shared.data(), other.data()},
             1 + static_cast<int>(below(random, 5)));
  return same(alone, shared) && same(one, other);
}

bool summed(Random& random) {
  const std::int64_t tokens = below(random, 900), rows = 1 + below(random, 5000), kinds = 2;
  const auto activations = some<std::uint16_t>(random, tokens * rows);
  const auto weights = some<float>(random, kinds * tokens);
  std::vector<float> alone(static_cast<std::size_t>(kinds * rows)), shared = alone;
  const Activations given{activations.data(), rows * 2, RowType::kBfloat16, tokens, rows};
  sum_magnitudes(given, weights.data(), kinds, alone.data(), 1);
  sum_magnitudes(given, weights.data(), kinds, shared.data(), 4);
  return std::equal(alone.begin(), alone.end(), shared.begin(),
                    [](float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; });
}

bool gathered(Random& random) {
  const std::int64_t tokens = 1 + below(random, 9), width = 1 + below(random, 900);
  std::vector<Run> runs;
  std::int64_t taken = 0;
  for (std::int64_t at = 0; at < width; at += 1 + below(random, 50)) {
    runs.push_back({at, below(random, std::min<std::int64_t>(width - at, 40) + 1)});
    taken += runs.back().count;
  }
  const std::int64_t room = taken + below(random, 20);
  const auto source = some<float>(random, tokens * width);
  std::vector<float> target(static_cast<std::size_t>(tokens * room), 7.0F), want;
  gather_columns({reinterpret_cast<const char*>(source.data()), width * 4,
                  reinterpret_cast<char*>(target.data()), room * 4, tokens, 4, room},
                 runs.data(), runs.size());
  for (std::int64_t token = 0; token < tokens; ++token) {
    const float* const row = source.data() + token * width;
    for (const Run& run : runs)
      want.insert(want.end(), row + run.first, row + run.first + run.count);
    want.resize(static_cast<std::size_t>((token + 1) * room), 0.0F);
  }
  return same(target, want);
}

bool equal(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Interval)) == 0);
}

// Every element of the table is used, every row at the end of a group. Twice: what a thread keeps
// from call to call changes nothing.
bool selected(Random& random) {
  auto importance = some<float>(random, 1 + below(random, 5000));
  const std::vector<double> latency(static_cast<std::size_t>(1 + below(random, 300)), 1e-5);
  const GreedyOptions options{1 + below(random, 8000),
                              4,
                              300,
                              1.0 + (random() % 20),
                              1.0 + (random() % 20),
                              latency.data(),
                              latency.size()};
  const std::int64_t rows = below(random, 6000);
  const std::size_t count = importance.size();
  const RunCosts costs{1 + below(random, 9), 3.0, 1.0};
  const auto target = static_cast<Target>(random() % 3);
  const double value = static_cast<double>(below(random, 7000));
  bool right = true;
  const auto greedy = select_greedy(importance.data(), count, rows, options);
  const auto optimal = select_optimal(importance.data(), count, costs, target, value, -1);
  right &= equal(greedy, select_greedy(importance.data(), count, rows, options));
  right &= equal(
      optimal.intervals,
      select_optimal(importance.data(), count, costs, target, value, optimal.price).intervals);
  select_topk(importance.data(), count, rows);
  select_topk_keeping(importance.data(), count, value);
  frontier(importance.data(), count, costs, 17);
  return right;
}

bool any_of_them(Random& random) {
  using Kind = bool (*)(Random&);
  constexpr Kind kKinds[] = {multiplied, multiplied_packed, rounded, summed, gathered, selected};
  return kKinds[random() % std::size(kKinds)](random);
}

// AddressSanitizer's memory has locks of its own, which a child finds as they were: nobody may
// allocate at the moment of a fork.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kBusy = false;
#else
constexpr bool kBusy = true;
#endif

// Whoever is on the pool at the moment of a fork, the child has one of its own.
bool forked(Random& random) {
  std::atomic<bool> stop{!kBusy};
  std::thread busy([&, seed = random()] {
    for (Random own(seed); !stop;) multiplied(own);
  });
  if (!kBusy) busy.join();
  bool right = true;
  for (int turn = 0; turn < 10; ++turn) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      _exit(multiplied(random) && rounded(random) ? 0 : 1);
    }
    int status = -1;
    right &= child > 0 && waitpid(child, &status, 0) == child && status == 0;
  }
  stop = true;
  if (kBusy) busy.join();
  return right;
}

// ThreadSanitizer has no threads after a fork from a process with several.
#if defined(__SANITIZE_THREAD__)
constexpr bool kForks = false;
#else
constexpr bool kForks = true;
#endif

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: number_stress SECONDS\n");
    return 2;
  }
  std::atomic<int> wrong{0};
  std::atomic<long> compared{0};
  Random random(1);
  const auto stop = Clock::now() + std::chrono::seconds(std::atoi(argv[1]));
  while (Clock::now() < stop) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, seed = random()] {
        Random own(seed);
        for (int turn = 0; turn < 30; ++turn, ++compared) wrong += !any_of_them(own);
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (kForks) wrong += !forked(random);
  }
  std::printf("number_stress: %ld results compared, %d wrong\n", compared.load(), wrong.load());
  return wrong.load() == 0 ? 0 : 1;
}
