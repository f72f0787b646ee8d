// Copyright 2026 The neuron_chunk_ros authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace neuron_chunk {

// Runs work(0) here and work(1) .. work(shares - 1) on threads that sleep in between, or on fewer
// shares where the system gives fewer threads; work(number, shares). Returns when all are done.
// One at a time. A forked child has threads of its own. Throws what a share threw.
void share_out(int shares, const std::function<void(int number, int shares)>& work);

}  // namespace neuron_chunk
