// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#include "job_queue.hpp"

#include <algorithm>
#include <cstring>

namespace neuron_chunk {

namespace {

std::int64_t packed_bytes(const Job& job) {
  return job.packed == 0 ? 0 : job.plan.requests()[job.packed - 1].packed_end;
}

}  // namespace

bool JobQueue::push(Job& job) {
  const std::size_t requests = job.plan.requests().size();
  std::size_t wake = 0;
  {
    Lock lock(mutex_);
    if (closed_) return false;
    job.stop = Job::Stop::kNone;
    job.error = 0;
    job.issued = job.in_flight = job.packed = 0;
    job.packing = job.complete = false;
    job.finished.assign(requests, 0);
    job.bytes_read = job.awaited = 0;
    job.next = nullptr;
    if (requests == 0) {
      settle_locked(job);
      return true;
    }
    (last_ ? last_->next : first_) = &job;
    last_ = &job;
    wake = std::min(idle_, requests);
  }
  for (; wake > 0; --wake) work_.notify_one();
  return true;
}

bool JobQueue::try_take(Ticket& ticket) {
  Lock lock(mutex_);
  return take_locked(ticket);
}

bool JobQueue::take(Ticket& ticket) {
  Lock lock(mutex_);
  while (!take_locked(ticket)) {
    if (closed_) return false;
    ++idle_;
    work_.wait(lock);
    --idle_;
  }
  return true;
}

bool JobQueue::take_locked(Ticket& ticket) {
  Job* const job = first_;
  if (job == nullptr) return false;
  const Request& request = job->plan.requests()[job->issued];
  ticket = {job, &request, job->buffer->data() + request.buffer_offset, job->file->fd()};
  ++job->in_flight;
  if (++job->issued == job->plan.requests().size()) {
    first_ = job->next;
    if (first_ == nullptr) last_ = nullptr;
    job->next = nullptr;
  }
  return true;
}

void JobQueue::finish(const Ticket& ticket, std::int64_t got, int error) {
  Job& job = *ticket.job;
  const Request& request = *ticket.request;
  Lock lock(mutex_);
  --job.in_flight;
  job.bytes_read += got;
  if (error != 0 || got < request.required) {
    if (job.stop == Job::Stop::kNone) {
      job.error = error;
      job.fail_offset = request.file_offset + got;
      stop_locked(job, error != 0 ? Job::Stop::kError : Job::Stop::kEndOfFile);
    }
  } else {
    job.finished[static_cast<std::size_t>(&request - job.plan.requests().data())] = 1;
    pack(job, lock);
  }
  settle_locked(job);
}

// Makes the moves of all requests that are done with everything before them. One thread at a
// time does this for a job; another one that finishes meanwhile leaves its request to it.
void JobQueue::pack(Job& job, Lock& lock) {
  if (job.packing) return;
  const std::vector<Request>& requests = job.plan.requests();
  const Move* const moves = job.plan.moves().data();
  std::byte* const base = job.buffer->data();
  while (job.packed < requests.size() && job.finished[job.packed] != 0 &&
         job.stop == Job::Stop::kNone) {
    const std::size_t begin = job.packed == 0 ? 0 : requests[job.packed - 1].moves_end;
    const std::size_t end = requests[job.packed].moves_end;
    if (begin != end) {
      job.packing = true;
      lock.unlock();
      for (const Move* move = moves + begin; move != moves + end; ++move) {
        std::memmove(base + move->to, base + move->from, static_cast<std::size_t>(move->length));
      }
      lock.lock();
      job.packing = false;
    }
    ++job.packed;
    if (job.awaited > 0 && packed_bytes(job) >= job.awaited) job.done.notify_all();
  }
}

// Nothing may touch the job after this has made it complete: its owner may use it anew.
void JobQueue::settle_locked(Job& job) {
  if (job.complete || job.packing || job.in_flight != 0) return;
  if (job.stop == Job::Stop::kNone && job.packed != job.plan.requests().size()) return;
  job.complete = true;
  job.completed = std::chrono::steady_clock::now();
  job.done.notify_all();
}

void JobQueue::stop_locked(Job& job, Job::Stop stop) {
  job.stop = stop;
  Job** link = &first_;
  Job* before = nullptr;
  while (*link != nullptr && *link != &job) {
    before = *link;
    link = &before->next;
  }
  if (*link == nullptr) return;
  *link = job.next;
  if (last_ == &job) last_ = before;
  job.next = nullptr;
}

bool JobQueue::wait(Job& job, std::chrono::milliseconds patience) {
  Lock lock(mutex_);
  return job.done.wait_for(lock, patience, [&job] { return job.complete; });
}

std::int64_t JobQueue::wait_packed(Job& job, std::int64_t bytes,
                                   std::chrono::milliseconds patience) {
  Lock lock(mutex_);
  job.awaited = bytes;
  job.done.wait_for(lock, patience, [&] { return job.complete || packed_bytes(job) >= bytes; });
  job.awaited = 0;
  return packed_bytes(job);
}

bool JobQueue::complete(Job& job) {
  Lock lock(mutex_);
  return job.complete;
}

void JobQueue::cancel(Job& job) {
  Lock lock(mutex_);
  if (job.complete) return;
  if (job.stop == Job::Stop::kNone) stop_locked(job, Job::Stop::kCancelled);
  settle_locked(job);
  job.done.wait(lock, [&job] { return job.complete; });
}

void JobQueue::close() {
  {
    Lock lock(mutex_);
    closed_ = true;
    while (first_ != nullptr) {
      Job& job = *first_;
      stop_locked(job, Job::Stop::kClosed);
      settle_locked(job);
    }
  }
  work_.notify_all();
}

}  // namespace neuron_chunk
