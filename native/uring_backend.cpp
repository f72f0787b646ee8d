// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
// One io_uring ring and the one thread that drives it: takes requests, submits, reaps.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "backend.hpp"
#include "read_failure.hpp"

namespace neuron_chunk {
namespace {

[[noreturn]] void unavailable(int error, const char* what) {
  throw BackendUnavailable(error, std::string(what) + ": " + errno_text(error));
}

class Ring {
 public:
  explicit Ring(unsigned entries) {
    io_uring_params params{};
    const int result = io_uring_queue_init_params(entries, &ring_, &params);
    if (result < 0) unavailable(-result, "the kernel or container refuses io_uring");
    try {
      probe();
    } catch (...) {
      io_uring_queue_exit(&ring_);
      throw;
    }
  }
  ~Ring() { io_uring_queue_exit(&ring_); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  io_uring* get() { return &ring_; }

 private:
  // Containers may allow a ring to be made and refuse its use; kernels before 5.6 lack plain
  // reads.
  void probe() {
    io_uring_probe* const known = io_uring_get_probe_ring(&ring_);
    const bool reads = known != nullptr && io_uring_opcode_supported(known, IORING_OP_READ);
    if (known != nullptr) io_uring_free_probe(known);
    if (!reads) unavailable(ENOSYS, "this kernel's io_uring has no read operation");
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    const int submitted = io_uring_submit_and_wait(&ring_, 1);
    if (submitted < 0) unavailable(-submitted, "the kernel or container refuses to run io_uring");
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(&ring_, &cqe) == 0) io_uring_cqe_seen(&ring_, cqe);
  }

  io_uring ring_{};
};

class UringBackend : public Backend {
 public:
  UringBackend(JobQueue& queue, const BackendOptions& options)
      : queue_(queue),
        options_(options),
        // One entry more than reads in flight, for the bell.
        ring_(static_cast<unsigned>(options.queue_depth) + 1),
        slots_(static_cast<std::size_t>(options.queue_depth)) {
    free_.reserve(slots_.size());
    for (Slot& slot : slots_) free_.push_back(&slot);
    bell_ = eventfd(0, EFD_CLOEXEC);
    if (bell_ < 0) unavailable(errno, "eventfd");
    const SignalsBlocked blocked;
    try {
      driver_ = std::thread([this] { drive(); });
    } catch (const std::system_error& error) {
      close(bell_);
      throw BackendUnavailable(error.code().value(), std::string("a thread: ") + error.what());
    }
  }

  ~UringBackend() override {
    ring_bell(kStop);
    driver_.join();
    close(bell_);
  }

  void wake() override { ring_bell(kWork); }

 private:
  struct Slot {
    Ticket ticket;
    std::int64_t got = 0;
    Again again;
    bool busy = false;
    std::uint64_t number = 0;  // of its latest entry, counted from the first one ever prepared
  };

  // Added up in the eventfd: a stop stays visible whatever number of work calls came with it.
  static constexpr std::uint64_t kWork = 1;
  static constexpr std::uint64_t kStop = std::uint64_t{1} << 32;
  // A device serves what it has been given all at once, so what is wanted first would come as
  // late as what is wanted last: it gets no more than keeps it busy.
  static constexpr std::int64_t kMostBytes = std::int64_t{16} << 20;

  void ring_bell(std::uint64_t what) {
    while (write(bell_, &what, sizeof what) < 0 && errno == EINTR) {
    }
  }

  // The driver's one place to sleep is the ring; the bell is a read like any other in it.
  void drive() {
    bool stopping = false;
    Again again;
    arm_bell();
    while (!stopping || free_.size() != slots_.size()) {
      Ticket ticket;
      while (!free_.empty() && in_flight_ < kMostBytes && queue_.try_take(ticket)) {
        Slot* const slot = free_.back();
        free_.pop_back();
        *slot = {};
        slot->ticket = ticket;
        slot->busy = true;
        in_flight_ += ticket.request->length;
        prepare(*slot);
      }
      const int result = io_uring_submit_and_wait(ring_.get(), 1);
      // Entries that the kernel could not take now (out of memory, completions to be reaped
      // first) stay in the ring and go with the next call; but not for ever.
      if (result >= 0 || result == -EINTR) {
        again = {};
      } else if (!again.once_more()) {
        refused(-result);
        return;
      }
      stopping |= reap();
    }
  }

  // The kernel takes nothing any more: every read ends with its error, from now on at once. But
  // what it took before still fills its buffers, and completes without being asked.
  void refused(int error) {
    Ticket ticket;
    for (bool waiting = true; waiting;) {
      while (queue_.try_take(ticket)) queue_.finish(ticket, 0, error);
      reap();
      const std::uint64_t taken = prepared_ - io_uring_sq_ready(ring_.get());
      waiting = false;
      for (Slot& slot : slots_) {
        if (slot.busy && slot.number < taken) {
          waiting = true;
        } else if (slot.busy) {
          slot.busy = false;
          queue_.finish(slot.ticket, slot.got, error);
        }
      }
      if (waiting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    while (queue_.take(ticket)) queue_.finish(ticket, 0, error);
  }

  // Handles all completions there are. True when the bell said stop.
  bool reap() {
    bool stop = false;
    std::array<io_uring_cqe*, 32> batch;
    for (;;) {
      const unsigned count = io_uring_peek_batch_cqe(ring_.get(), batch.data(), batch.size());
      if (count == 0) return stop;
      for (unsigned i = 0; i < count; ++i) {
        auto* const slot = static_cast<Slot*>(io_uring_cqe_get_data(batch[i]));
        if (slot != nullptr) {
          completed(*slot, batch[i]->res);
        } else {
          stop |= bell_count_ >= kStop;
          if (!stop) arm_bell();
        }
      }
      io_uring_cq_advance(ring_.get(), count);
    }
  }

  void completed(Slot& slot, int result) {
    const Request& request = *slot.ticket.request;
    int error = 0;
    if ((result == -EINTR || result == -EAGAIN) && slot.again.once_more()) {
      prepare(slot);
      return;
    }
    if (result < 0) {
      error = -result;
    } else {
      slot.got += result;
      if (slot.got < request.required &&
          after_short_read(slot.got, result, options_) == Short::kContinue) {
        prepare(slot);
        return;
      }
    }
    in_flight_ -= request.length;
    slot.busy = false;
    queue_.finish(slot.ticket, slot.got, error);
    free_.push_back(&slot);
  }

  void prepare(Slot& slot) {
    const Request& request = *slot.ticket.request;
    io_uring_sqe* const sqe = next_sqe();
    io_uring_prep_read(sqe, slot.ticket.fd, slot.ticket.into + slot.got,
                       static_cast<unsigned>(request.length - slot.got),
                       static_cast<std::uint64_t>(request.file_offset + slot.got));
    io_uring_sqe_set_data(sqe, &slot);
    slot.number = prepared_++;
  }

  void arm_bell() {
    bell_count_ = 0;
    io_uring_sqe* const sqe = next_sqe();
    io_uring_prep_read(sqe, bell_, &bell_count_, sizeof bell_count_, 0);
    io_uring_sqe_set_data(sqe, nullptr);
    ++prepared_;
  }

  // Never full for good: at most queue_depth + 1 entries are prepared between two submissions.
  io_uring_sqe* next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
    while (sqe == nullptr) {
      io_uring_submit(ring_.get());
      sqe = io_uring_get_sqe(ring_.get());
    }
    return sqe;
  }

  JobQueue& queue_;
  const BackendOptions options_;
  Ring ring_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::int64_t in_flight_ = 0;  // bytes
  std::uint64_t prepared_ = 0;  // entries, those of the bell among them
  int bell_ = -1;
  std::uint64_t bell_count_ = 0;
  std::thread driver_;
};

}  // namespace

std::unique_ptr<Backend> make_uring_backend(JobQueue& queue, const BackendOptions& options) {
  return std::make_unique<UringBackend>(queue, options);
}

}  // namespace neuron_chunk
