// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "reader.hpp"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "read_failure.hpp"

namespace neuron_chunk {
namespace {

constexpr int kMostThreads = 256;
constexpr int kDeepestQueue = 4096;
constexpr std::int64_t kLeastRequest = 512;
// Of all extents together: far more than any buffer has, and no sum of them goes beyond 2^63.
constexpr std::int64_t kMostBytes = std::int64_t{1} << 56;

std::string describe(const Extent& extent) {
  return "extent of " + std::to_string(extent.length) + " bytes at offset " +
         std::to_string(extent.offset);
}

}  // namespace

Reader::Reader(const std::vector<std::string>& paths, const ReaderOptions& options) {
  if (paths.empty()) throw std::invalid_argument("a reader needs at least one file");
  if (options.threads < 1 || options.threads > kMostThreads) {
    throw std::invalid_argument("threads must be 1 to " + std::to_string(kMostThreads));
  }
  if (options.queue_depth < 1 || options.queue_depth > kDeepestQueue) {
    throw std::invalid_argument("queue_depth must be 1 to " + std::to_string(kDeepestQueue));
  }
  set_ = open_files(paths, options.direct);
  if (!set_.note.empty()) notes_.push_back(set_.note);
  const std::int64_t least = std::max(set_.block, kLeastRequest);
  if (options.max_request < least || options.max_request > (std::int64_t{1} << 30)) {
    throw std::invalid_argument("max_request must be " + std::to_string(least) +
                                " bytes to 1 GiB");
  }
  max_request_ = options.max_request - options.max_request % set_.block;
  start_backend(options);
}

std::shared_ptr<Reader> Reader::open(const std::vector<std::string>& paths,
                                     const ReaderOptions& options) {
  return {new Reader(paths, options), [](Reader* reader) {
            if (reader->forked()) {
              reader->close();
            } else {
              delete reader;
            }
          }};
}

Reader::~Reader() {
  close();
}

void Reader::start_backend(const ReaderOptions& options) {
  const BackendOptions wanted{options.threads, options.queue_depth, set_.direct, set_.block};
  if (options.backend != BackendChoice::kThreads) {
    try {
      backend_ = make_uring_backend(queue_, wanted);
      uring_ = true;
      return;
    } catch (const BackendUnavailable& reason) {
      if (options.backend == BackendChoice::kIoUring) {
        throw ReadFailure(reason.error, set_.files.front().path(), -1,
                          std::string("io_uring can't be used: ") + reason.what() +
                              "; open with backend='auto' or 'threads'");
      }
      notes_.push_back(std::string("io_uring can't be used: ") + reason.what() +
                       "; reading with a pool of threads");
    }
  }
  try {
    backend_ = make_thread_backend(queue_, wanted);
  } catch (const BackendUnavailable& reason) {
    throw ReadFailure(reason.error, set_.files.front().path(), -1,
                      std::string("no thread can be started to read with: ") + reason.what());
  }
}

const SourceFile& Reader::check(std::int64_t file, const Extent* extents,
                                std::size_t count) const {
  if (file < 0 || file >= static_cast<std::int64_t>(set_.files.size())) {
    throw std::invalid_argument("file " + std::to_string(file) + " is not one of the reader's " +
                                std::to_string(set_.files.size()));
  }
  const SourceFile& source = set_.files[static_cast<std::size_t>(file)];
  std::int64_t wanted = 0;
  for (const Extent* extent = extents; extent != extents + count; ++extent) {
    if (extent->offset < 0 || extent->length < 0) {
      throw std::invalid_argument(source.path() + ": " + describe(*extent) +
                                  ": neither may be negative");
    }
    if (extent->length > source.size() || extent->offset > source.size() - extent->length) {
      throw ReadFailure(EINVAL, source.path(), extent->offset,
                        source.path() + ": " + describe(*extent) + " ends beyond the file's " +
                            std::to_string(source.size()) + " bytes");
    }
    if (extent->length > kMostBytes || extent->offset > INT64_MAX - 2 * kMostBytes ||
        (wanted += extent->length) > kMostBytes) {
      throw std::invalid_argument(source.path() + ": " + describe(*extent) +
                                  ": more than can be read at once");
    }
  }
  return source;
}

std::int64_t Reader::capacity(std::int64_t file, const Extent* extents, std::size_t count) {
  refuse_forked();
  check(file, extents, count);
  return ReadPlan::capacity_of(extents, count, set_.block, 0);
}

std::unique_ptr<Batch> Reader::submit(std::int64_t file, const Extent* extents, std::size_t count,
                                      std::shared_ptr<AlignedBuffer> buffer, std::int64_t at) {
  refuse_forked();
  const auto submitted = std::chrono::steady_clock::now();
  const SourceFile& source = check(file, extents, count);
  if (at < 0 || at % set_.block != 0) {
    throw std::invalid_argument("at = " + std::to_string(at) +
                                " must be a multiple of the block size, " +
                                std::to_string(set_.block));
  }
  // Before there is a plan: that of a file's whole terabytes is large itself.
  const std::int64_t needed =
      ReadPlan::capacity_of(extents, count, set_.block, std::min<std::int64_t>(at, kMostBytes));
  if (at > buffer->nbytes() || needed > buffer->nbytes() - at) {
    throw std::invalid_argument("buffer too small: " + std::to_string(needed) +
                                " bytes are needed from " + std::to_string(at) +
                                " on, the buffer has " + std::to_string(buffer->nbytes()));
  }
  std::unique_ptr<Job> job = take_job();
  job->plan.build(extents, count, set_.block, max_request_, at);
  job->file = &source;
  job->buffer = std::move(buffer);
  job->at = at;
  job->submitted = submitted;
  auto batch = std::make_unique<Batch>(shared_from_this(), std::move(job));
  start(*batch->job_);
  return batch;
}

void Reader::start(Job& job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Job* const other : under_way_) {
    if (other->buffer == job.buffer && other->at < job.at + job.plan.capacity() &&
        job.at < other->at + other->plan.capacity() && !queue_.complete(*other)) {
      throw std::invalid_argument("the buffer's bytes from " + std::to_string(job.at) +
                                  " on are still being filled by another batch: wait for it");
    }
  }
  if (backend_ == nullptr || !queue_.push(job)) throw std::invalid_argument("reader is closed");
  backend_->wake();
  under_way_.push_back(&job);
}

void Reader::refuse_forked() const {
  if (forked()) {
    throw std::invalid_argument(
        "this reader belongs to the process that opened it; open another one after fork");
  }
}

void Reader::close() {
  if (forked()) {
    // Threads and ring are the parent's; so, perhaps, is the lock.
    backend_.release();
    for (SourceFile& file : set_.files) file.close();
    return;
  }
  const std::lock_guard<std::mutex> ending(ending_);
  std::unique_ptr<Backend> ended;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.close();
    ended = std::move(backend_);
  }
  ended.reset();
  for (SourceFile& file : set_.files) file.close();
}

std::unique_ptr<Job> Reader::take_job() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.empty()) return std::make_unique<Job>();
  std::unique_ptr<Job> job = std::move(idle_.back());
  idle_.pop_back();
  return job;
}

void Reader::give_back(std::unique_ptr<Job> job) {
  // Let go of outside the lock, since the last owner unmaps the memory; but no earlier than the
  // job leaves the list that start() looks through.
  std::shared_ptr<AlignedBuffer> released;
  const std::lock_guard<std::mutex> lock(mutex_);
  under_way_.erase(std::remove(under_way_.begin(), under_way_.end(), job.get()), under_way_.end());
  released = std::move(job->buffer);
  idle_.push_back(std::move(job));
}

Batch::Batch(std::shared_ptr<Reader> reader, std::unique_ptr<Job> job)
    : reader_(std::move(reader)), job_(std::move(job)) {}

Batch::~Batch() {
  if (reader_->forked()) {
    job_.release();  // the parent's driver has it in hand; here nobody will ever finish it
    return;
  }
  reader_->queue_.cancel(*job_);
  reader_->give_back(std::move(job_));
}

bool Batch::ready() const {
  reader_->refuse_forked();
  return reader_->queue_.complete(*job_);
}

bool Batch::wait_for(std::chrono::milliseconds patience) {
  reader_->refuse_forked();
  return reader_->queue_.wait(*job_, patience);
}

std::int64_t Batch::wait_bytes(std::int64_t bytes, std::chrono::milliseconds patience) {
  reader_->refuse_forked();
  return reader_->queue_.wait_packed(*job_, bytes, patience);
}

ReadStats Batch::result() const {
  const Job& job = *job_;
  const std::string& path = job.file->path();
  const std::string offset = std::to_string(job.fail_offset);
  switch (job.stop) {
    case Job::Stop::kNone:
      break;
    case Job::Stop::kError:
      throw ReadFailure(
          job.error, path, job.fail_offset,
          path + ": reading at offset " + offset + " failed: " + errno_text(job.error));
    case Job::Stop::kEndOfFile:
      throw ReadFailure(ENODATA, path, job.fail_offset,
                        path + ": the file ends at offset " + offset +
                            ", inside an extent: it was cut short after it was opened");
    case Job::Stop::kCancelled:
    case Job::Stop::kClosed:
      throw ReadFailure(ECANCELED, path, -1,
                        path + ": the reader was closed before the read was done");
  }
  return {job.plan.bytes_wanted(), job.bytes_read,
          static_cast<std::int64_t>(job.plan.requests().size()),
          std::chrono::duration<double>(job.completed - job.submitted).count()};
}

bool io_uring_available() {
  JobQueue queue;
  try {
    make_uring_backend(queue, {1, 1, false, 1});
  } catch (const BackendUnavailable&) {
    return false;
  }
  return true;
}

}  // namespace neuron_chunk
