// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "row_products.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

// The loops below are plain; the compiler makes vectors of them, on x86 for each generation of
// processors, and the loader takes what this one has. Elsewhere the base has vectors (NEON).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NEURON_CHUNK_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define NEURON_CHUNK_CLONES
#endif

namespace neuron_chunk {
namespace {

constexpr std::int64_t kSums = 4096;  // columns whose sums stay in the first cache
constexpr std::int64_t kTile = 512;   // columns widened at a time, where several tokens want them
constexpr std::int64_t kRows = 8;     // rows added in one go: their sum is loaded and stored once
constexpr std::int64_t kLine = 64;    // columns; a thread's share is a multiple

struct Share {
  std::int64_t begin;
  std::int64_t end;
};

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widened(std::uint16_t bits, std::false_type) {
  return from_bits(static_cast<std::uint32_t>(bits) << 16);
}

// float16: shifted to float32's place its exponent is 112 too small. The factor mends that, for
// subnormal numbers too; infinity and NaN get their exponent back.
inline float widened(std::uint16_t bits, std::true_type) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fff) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const float scaled = from_bits(magnitude) * 0x1p112f;
  std::uint32_t wide;
  std::memcpy(&wide, &scaled, sizeof wide);
  wide = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : wide;
  return from_bits(wide | sign);
}

// One token: widened and multiplied in one go. Several: a tile of rows is widened once for all.
#define NEURON_CHUNK_KERNEL(NAME, TYPE, WIDEN)                                                                                                                                                                                                      \
  NEURON_CHUNK_CLONES void NAME(const RowProduct& product, Share share) {                                                                                                                                                                           \
    const TYPE* const weights = static_cast<const TYPE*>(product.weights);                                                                                                                                                                          \
    const std::int64_t columns = product.columns, count = product.count;                                                                                                                                                                            \
    const std::int64_t step = product.tokens == 1 ? kSums : kTile;                                                                                                                                                                                  \
    alignas(64) float tile[kRows][kTile];                                                                                                                                                                                                           \
    for (std::int64_t first = share.begin; first < share.end; first += step) {                                                                                                                                                                      \
      const std::int64_t width = std::min(step, share.end - first);                                                                                                                                                                                 \
      std::int64_t row = 0;                                                                                                                                                                                                                         \
      for (; row + kRows <= count; row += kRows) {                                                                                                                                                                                                  \
        const TYPE* __restrict w0 = weights + row * columns + first;                                                                                                                                                                                \
        if (product.tokens == 1) {                                                                                                                                                                                                                  \
          const TYPE* __restrict w1 = w0 + columns, * __restrict w2 = w1 + columns, * __restrict w3 = w2 + columns, * __restrict w4 = w3 + columns, * __restrict w5 = w4 + columns, * __restrict w6 = w5 + columns, * __restrict w7 = w6 + columns; \
          const float* x = product.inputs + row;                                                                                                                                                                                                    \
          const float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];                                                                                                                                                                                   \
          const float x4 = x[4], x5 = x[5], x6 = x[6], x7 = x[7];                                                                                                                                                                                   \
          float* __restrict out = product.out + first;                                                                                                                                                                                              \
          for (std::int64_t c = 0; c < width; ++c) {                                                                                                                                                                                                \
            out[c] += ((x0 * WIDEN(w0[c]) + x1 * WIDEN(w1[c])) +                                                                                                                                                                                    \
                       (x2 * WIDEN(w2[c]) + x3 * WIDEN(w3[c]))) +                                                                                                                                                                                   \
                      ((x4 * WIDEN(w4[c]) + x5 * WIDEN(w5[c])) +                                                                                                                                                                                    \
                       (x6 * WIDEN(w6[c]) + x7 * WIDEN(w7[c])));                                                                                                                                                                                    \
          }                                                                                                                                                                                                                                         \
          continue;                                                                                                                                                                                                                                 \
        }                                                                                                                                                                                                                                           \
        for (std::int64_t i = 0; i < kRows; ++i) {                                                                                                                                                                                                  \
          const TYPE* __restrict w = w0 + i * columns;                                                                                                                                                                                              \
          float* __restrict wide = tile[i];                                                                                                                                                                                                         \
          for (std::int64_t c = 0; c < width; ++c) wide[c] = WIDEN(w[c]);                                                                                                                                                                           \
        }                                                                                                                                                                                                                                           \
        for (std::int64_t token = 0; token < product.tokens; ++token) {                                                                                                                                                                             \
          const float* x = product.inputs + token * count + row;                                                                                                                                                                                    \
          const float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];                                                                                                                                                                                   \
          const float x4 = x[4], x5 = x[5], x6 = x[6], x7 = x[7];                                                                                                                                                                                   \
          float* __restrict out = product.out + token * columns + first;                                                                                                                                                                            \
          for (std::int64_t c = 0; c < width; ++c) {                                                                                                                                                                                                \
            out[c] +=                                                                                                                                                                                                                               \
                ((x0 * tile[0][c] + x1 * tile[1][c]) + (x2 * tile[2][c] + x3 * tile[3][c])) +                                                                                                                                                       \
                ((x4 * tile[4][c] + x5 * tile[5][c]) + (x6 * tile[6][c] + x7 * tile[7][c]));                                                                                                                                                        \
          }                                                                                                                                                                                                                                         \
        }                                                                                                                                                                                                                                           \
      }                                                                                                                                                                                                                                             \
      for (; row < count; ++row) {                                                                                                                                                                                                                  \
        const TYPE* __restrict w = weights + row * columns + first;                                                                                                                                                                                 \
        for (std::int64_t token = 0; token < product.tokens; ++token) {                                                                                                                                                                             \
          const float x = product.inputs[token * count + row];                                                                                                                                                                                      \
          float* __restrict out = product.out + token * columns + first;                                                                                                                                                                            \
          for (std::int64_t c = 0; c < width; ++c) out[c] += x * WIDEN(w[c]);                                                                                                                                                                       \
        }                                                                                                                                                                                                                                           \
      }                                                                                                                                                                                                                                             \
    }                                                                                                                                                                                                                                               \
  }

#define NEURON_CHUNK_BF16(bits) widened(bits, std::false_type{})
#define NEURON_CHUNK_F16(bits) widened(bits, std::true_type{})
#define NEURON_CHUNK_F32(value) (value)

NEURON_CHUNK_KERNEL(add_bfloat16, std::uint16_t, NEURON_CHUNK_BF16)
NEURON_CHUNK_KERNEL(add_float16, std::uint16_t, NEURON_CHUNK_F16)
NEURON_CHUNK_KERNEL(add_float32, float, NEURON_CHUNK_F32)

void add(const RowProduct& product, Share share) {
  if (product.type == RowType::kBfloat16) {
    add_bfloat16(product, share);
  } else if (product.type == RowType::kFloat16) {
    add_float16(product, share);
  } else {
    add_float32(product, share);
  }
}

// Threads that sleep between products. One product at a time.
class Pool {
 public:
  // Runs work(0) here and work(1) .. work(shares - 1) elsewhere; returns when all are done.
  void run(int shares, const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> one_at_a_time(turn_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      shares_ = shares;
      pending_ = shares - 1;
      ++generation_;
    }
    wake_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

  // How many threads there are beside the caller's, as near to `wanted` as the system allows.
  int grow(int wanted) {
    std::lock_guard<std::mutex> one_at_a_time(turn_);
    try {
      while (static_cast<int>(threads_.size()) < wanted) {
        const int number = static_cast<int>(threads_.size()) + 1;
        threads_.emplace_back([this, number, seen = generation_] { serve(number, seen); });
        threads_.back().detach();
      }
    } catch (const std::system_error&) {
      // Fewer, then.
    }
    return std::min(wanted, static_cast<int>(threads_.size()));
  }

 private:
  void serve(int number, std::uint64_t seen) {
    for (;;) {
      const std::function<void(int)>* work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (number >= shares_) continue;
        work = work_;
      }
      (*work)(number);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int shares_ = 0;
  int pending_ = 0;
  std::uint64_t generation_ = 0;
};

// Never destroyed: its threads sleep to the end. A forked child has none of them: one of its own.
Pool& pool() {
  static std::mutex mutex;
  static Pool* current = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (current == nullptr || owner != getpid()) {
    current = new Pool;
    owner = getpid();
  }
  return *current;
}

}  // namespace

void gather_columns(const Gather& gather, const Run* runs, std::size_t count) {
  for (std::int64_t token = 0; token < gather.tokens; ++token) {
    const char* source = gather.source + token * gather.source_stride;
    char* const row = gather.target + token * gather.target_stride;
    char* target = row;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t bytes = runs[i].count * gather.item;
      std::memcpy(target, source + runs[i].first * gather.item, static_cast<std::size_t>(bytes));
      target += bytes;
    }
    std::memset(target, 0, static_cast<std::size_t>(row + gather.room * gather.item - target));
  }
}

void add_row_product(const RowProduct& product, int threads) {
  const std::int64_t lines = (product.columns + kLine - 1) / kLine;
  // Waking a thread takes some 20 us, in which one reads half a megabyte.
  const std::int64_t worth = 1 + product.count * product.columns / (1 << 18);
  int shares = static_cast<int>(std::min<std::int64_t>({threads, lines, worth}));
  Pool* helpers = nullptr;
  if (shares > 1) {
    helpers = &pool();
    shares = 1 + helpers->grow(shares - 1);
  }
  const auto work = [&](int number) {
    const Share share{lines * number / shares * kLine,
                      std::min(lines * (number + 1) / shares * kLine, product.columns)};
    add(product, share);
  };
  if (shares > 1) {
    helpers->run(shares, work);
  } else {
    work(0);
  }
}

}  // namespace neuron_chunk
