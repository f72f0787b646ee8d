// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// The reads that are wanted, who has taken which, and when a batch is done. Back ends take
// requests from here and report back; this is the only place where threads meet.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "aligned_buffer.hpp"
#include "read_plan.hpp"
#include "source_file.hpp"

namespace neuron_chunk {

// One batch on its way. Everything below the line is guarded by the queue's mutex; what is above
// is set before the job is pushed and constant until it is complete.
struct Job {
  ReadPlan plan;
  const SourceFile* file = nullptr;
  std::shared_ptr<AlignedBuffer> buffer;
  std::int64_t at = 0;
  std::chrono::steady_clock::time_point submitted;
  // ----
  enum class Stop { kNone, kError, kEndOfFile, kCancelled, kClosed };
  Stop stop = Stop::kNone;
  int error = 0;                 // errno, with kError
  std::int64_t fail_offset = 0;  // where reading stopped, with kError and kEndOfFile
  std::size_t issued = 0;        // requests taken by a back end, in order
  std::size_t in_flight = 0;     // taken and not yet finished
  std::size_t packed = 0;        // requests finished with all before them, moves made
  bool packing = false;          // some thread is making moves outside the lock
  bool complete = true;
  std::vector<unsigned char> finished;
  std::int64_t bytes_read = 0;
  std::int64_t awaited = 0;  // packed bytes that somebody waits for
  std::chrono::steady_clock::time_point completed;
  std::condition_variable done;
  Job* next = nullptr;  // in the queue of jobs with requests not yet taken
};

// One request, handed to a back end.
struct Ticket {
  Job* job = nullptr;
  const Request* request = nullptr;
  std::byte* into = nullptr;
  int fd = -1;
};

class JobQueue {
 public:
  // Puts the job at the end. False when the queue is closed.
  bool push(Job& job);

  // The next request in submission order. try_take returns at once; take waits and returns false
  // when the queue is closed.
  bool try_take(Ticket& ticket);
  bool take(Ticket& ticket);

  // Reports a taken request: `got` bytes arrived; error is 0 or an errno. Fewer bytes than
  // required without an error mean that the file ended. Packs what can be packed by now.
  void finish(const Ticket& ticket, std::int64_t got, int error);

  // True when the job is complete, after waiting no longer than `patience`.
  bool wait(Job& job, std::chrono::milliseconds patience);
  bool complete(Job& job);
  // How many packed bytes are in place, after waiting no longer than `patience` for so many, or
  // for the job to be complete, which it also is when it failed.
  std::int64_t wait_packed(Job& job, std::int64_t bytes, std::chrono::milliseconds patience);
  // Takes no further requests of this job and returns when none is in flight any more.
  void cancel(Job& job);
  // No further requests are given out; what is in flight may finish.
  void close();

 private:
  using Lock = std::unique_lock<std::mutex>;
  bool take_locked(Ticket& ticket);
  void stop_locked(Job& job, Job::Stop stop);
  void pack(Job& job, Lock& lock);
  void settle_locked(Job& job);

  std::mutex mutex_;
  std::condition_variable work_;
  std::size_t idle_ = 0;  // threads waiting in take
  bool closed_ = false;
  Job* first_ = nullptr;
  Job* last_ = nullptr;
};

}  // namespace neuron_chunk
