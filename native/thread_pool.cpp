// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace neuron_chunk {
namespace {

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

void share_out(int shares, const std::function<void(int, int)>& work) {
  if (shares > 1) {
    Pool& helpers = pool();
    const int of = 1 + helpers.grow(shares - 1);
    if (of > 1) {
      helpers.run(of, [&](int number) { work(number, of); });
      return;
    }
  }
  work(0, 1);
}

}  // namespace neuron_chunk
