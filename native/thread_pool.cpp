// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace neuron_chunk {
namespace {

constexpr int kMostThreads = 256;  // they stay to the end, whatever one caller asked for

class Pool {
 public:
  explicit Pool(pid_t owner) : owner_(owner) {}

  pid_t owner() const { return owner_; }

  // Runs work(0) here and work(1) .. work(shares - 1) elsewhere; returns when all are done, or
  // throws what one of them threw.
  void run(int shares, const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> one_at_a_time(turn_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      shares_ = shares;
      pending_ = shares;
      failure_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    do_share(0, work);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  // How many threads there are beside the caller's, as near to `wanted` as the system allows.
  int grow(int wanted) {
    std::lock_guard<std::mutex> one_at_a_time(turn_);
    try {
      threads_.reserve(static_cast<std::size_t>(wanted));
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
      do_share(number, *work);
    }
  }

  // What a share throws (there is no memory) must neither end the process nor the wait for others.
  void do_share(int number, const std::function<void(int)>& work) {
    std::exception_ptr failure;
    try {
      work(number);
    } catch (...) {
      failure = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure != nullptr) failure_ = failure;
    if (--pending_ == 0) done_.notify_one();
  }

  const pid_t owner_;
  std::mutex turn_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int shares_ = 0;
  int pending_ = 0;
  std::exception_ptr failure_;
  std::uint64_t generation_ = 0;
};

// Never destroyed: its threads sleep to the end. A forked child has none of them: one of its own.
// Found without a lock, which another thread may hold when the process forks.
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  const pid_t here = getpid();
  Pool* known = current.load(std::memory_order_acquire);
  while (known == nullptr || known->owner() != here) {
    auto made = std::make_unique<Pool>(here);
    if (current.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) {
      return *made.release();
    }
  }
  return *known;
}

}  // namespace

void share_out(int shares, const std::function<void(int, int)>& work) {
  shares = std::min(shares, kMostThreads);
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
