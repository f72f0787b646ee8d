// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// A pool of threads that each read with pread. Works on every kernel and in every container.
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "backend.hpp"

namespace neuron_chunk {
namespace {

class ThreadBackend : public Backend {
 public:
  ThreadBackend(JobQueue& queue, const BackendOptions& options)
      : queue_(queue), options_(options) {
    const SignalsBlocked blocked;
    threads_.reserve(static_cast<std::size_t>(options.threads));
    try {
      for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
      // Fewer, then, where there are any.
      if (threads_.empty()) throw BackendUnavailable(error.code().value(), error.what());
    }
  }

  ~ThreadBackend() override { join(); }

 private:
  void work() {
    Ticket ticket;
    while (queue_.take(ticket)) read(ticket);
  }

  void read(const Ticket& ticket) {
    const Request& request = *ticket.request;
    std::int64_t got = 0;
    int error = 0;
    Again again;
    while (got < request.required) {
      const ssize_t last =
          pread(ticket.fd, ticket.into + got, request.length - static_cast<std::size_t>(got),
                request.file_offset + got);
      if (last < 0) {
        error = errno;
        if ((error != EINTR && error != EAGAIN) || !again.once_more()) break;
        error = 0;
        continue;
      }
      got += last;
      if (got < request.required && after_short_read(got, last, options_) == Short::kEndOfFile) {
        break;
      }
    }
    queue_.finish(ticket, got, error);
  }

  void join() {
    for (std::thread& thread : threads_) thread.join();
  }

  JobQueue& queue_;
  const BackendOptions options_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Backend> make_thread_backend(JobQueue& queue, const BackendOptions& options) {
  return std::make_unique<ThreadBackend>(queue, options);
}

}  // namespace neuron_chunk
