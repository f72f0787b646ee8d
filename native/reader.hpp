// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// Reads lists of extents into a reusable buffer, in the background, several lists at a time.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "aligned_buffer.hpp"
#include "backend.hpp"
#include "job_queue.hpp"
#include "read_plan.hpp"
#include "source_file.hpp"

namespace neuron_chunk {

enum class BackendChoice { kAuto, kIoUring, kThreads };

struct ReaderOptions {
  BackendChoice backend = BackendChoice::kAuto;
  DirectMode direct = DirectMode::kAuto;
  int threads = 6;
  int queue_depth = 128;
  // Longer runs are split into requests of at most this many bytes.
  std::int64_t max_request = std::int64_t{1} << 20;
};

struct ReadStats {
  std::int64_t bytes_wanted;
  std::int64_t bytes_read;
  std::int64_t requests;
  double seconds;
};

class Reader;

// A list of extents on its way into a buffer, which it keeps alive together with the reader.
// Destroying it takes back what has not started and waits for what has.
class Batch {
 public:
  Batch(std::shared_ptr<Reader> reader, std::unique_ptr<Job> job);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  bool ready() const;
  // True when the batch is complete, after no longer than `patience`.
  bool wait_for(std::chrono::milliseconds patience);
  // How many bytes, from the first extent's on, are in place after no longer than `patience`, or
  // as soon as there are so many. Fewer of a complete batch: it failed, see `result`.
  std::int64_t wait_bytes(std::int64_t bytes, std::chrono::milliseconds patience);
  // Of a complete batch. Throws ReadFailure.
  ReadStats result() const;

 private:
  friend class Reader;
  std::shared_ptr<Reader> reader_;
  std::unique_ptr<Job> job_;
};

// Safe to be called from several threads.
class Reader : public std::enable_shared_from_this<Reader> {
 public:
  // Throws ReadFailure, BackendUnavailable, std::invalid_argument. Where the last owner is in a
  // process made by fork, files are closed and the rest is left: its condition variables count
  // waiters that only the parent has, and would wait for them.
  static std::shared_ptr<Reader> open(const std::vector<std::string>& paths,
                                      const ReaderOptions& options);
  Reader(const std::vector<std::string>& paths, const ReaderOptions& options);
  ~Reader();

  // Buffer bytes that reading these extents needs, slack included.
  std::int64_t capacity(std::int64_t file, const Extent* extents, std::size_t count);

  // Throws ReadFailure for an extent outside the file, std::invalid_argument for misuse.
  std::unique_ptr<Batch> submit(std::int64_t file, const Extent* extents, std::size_t count,
                                std::shared_ptr<AlignedBuffer> buffer, std::int64_t at);

  // Batches whose requests all are on their way still arrive; others end with an error. Waits for
  // those, however long the device takes; meanwhile other threads are refused, not held.
  void close();

  const char* backend() const { return uring_ ? "io_uring" : "threads"; }
  bool direct() const { return set_.direct; }
  std::int64_t block_size() const { return set_.block; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  friend class Batch;
  bool forked() const { return getpid() != owner_; }
  void refuse_forked() const;
  const SourceFile& check(std::int64_t file, const Extent* extents, std::size_t count) const;
  void start_backend(const ReaderOptions& options);
  void start(Job& job);
  std::unique_ptr<Job> take_job();
  void give_back(std::unique_ptr<Job> job);

  FileSet set_;
  std::int64_t max_request_;
  bool uring_ = false;
  std::vector<std::string> notes_;
  JobQueue queue_;
  std::mutex ending_;                       // whoever closes, too, waits for the first to do so
  std::mutex mutex_;                        // of what follows
  std::vector<std::unique_ptr<Job>> idle_;  // kept for their storage
  std::vector<Job*> under_way_;
  std::unique_ptr<Backend> backend_;  // none once closed
  const pid_t owner_ = getpid();      // a process made by fork has no part in this one's reads
};

// Whether a reader could use io_uring here: built in and allowed.
bool io_uring_available();

}  // namespace neuron_chunk
