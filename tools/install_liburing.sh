#!/bin/sh
# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs liburing's headers where that needs no password. Never fails: the native module is
# built without io_uring then, and reads go through its thread pool.
if echo '#include <liburing.h>' | g++ -E -x c++ - >/dev/null 2>&1; then
  exit 0
fi

if [ "$(id -u)" = 0 ]; then
  as_root=
elif sudo -n true 2>/dev/null; then
  as_root='sudo -n'
else
  as_root=no
fi

if [ "$as_root" != no ] && command -v apt-get >/dev/null; then
  echo 'make: installing liburing-dev'
  install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq liburing-dev"
  $install >/dev/null 2>&1 && exit 0
  # A fresh machine has no package lists yet.
  $as_root apt-get update -qq >/dev/null 2>&1 && $install >/dev/null 2>&1 && exit 0
fi
echo 'make: liburing-dev is not installed, so reads go without io_uring (slower on fast storage):' \
     'apt install liburing-dev, then make clean build' >&2
