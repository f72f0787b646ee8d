// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// How requests reach the device. A back end takes requests from a JobQueue, reads, reports back.
#pragma once

#include <signal.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "job_queue.hpp"

namespace neuron_chunk {

// Destroying a back end returns once nothing it took is in flight. The queue is closed first.
class Backend {
 public:
  virtual ~Backend() = default;
  // Called after a job was pushed.
  virtual void wake() {}
};

// Why a back end can't be had here.
class BackendUnavailable : public std::runtime_error {
 public:
  BackendUnavailable(int error, const std::string& why) : std::runtime_error(why), error(error) {}
  int error;
};

// `direct` says that the files were opened with O_DIRECT, in blocks of `block` bytes.
struct BackendOptions {
  int threads;
  int queue_depth;
  bool direct;
  std::int64_t block;
};

std::unique_ptr<Backend> make_thread_backend(JobQueue& queue, const BackendOptions& options);

// Throws BackendUnavailable where the build or the kernel has no io_uring.
std::unique_ptr<Backend> make_uring_backend(JobQueue& queue, const BackendOptions& options);

// Signals are for the program's own threads, not for those of a back end. Blocks all of them in
// the calling thread while it lives, so that a thread started meanwhile begins with them blocked.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// What says "again" is asked again, but not for ever: most of the times a millisecond later.
class Again {
 public:
  // False once it has been too often.
  bool once_more() {
    if (++count_ > kMost) return false;
    if (count_ > kAtOnce) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return true;
  }

 private:
  static constexpr int kAtOnce = 100;
  static constexpr int kMost = 1000;
  int count_ = 0;
};

// What a read that returned short means, the same for every back end.
enum class Short { kContinue, kEndOfFile };
inline Short after_short_read(std::int64_t got, std::int64_t last, const BackendOptions& options) {
  // Only the end of the file makes a direct read stop off a block boundary, and reading on from
  // there would be refused.
  if (last == 0 || (options.direct && got % options.block != 0)) return Short::kEndOfFile;
  return Short::kContinue;
}

}  // namespace neuron_chunk
