#!/bin/sh
# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs a package from apt where that needs no password. Never fails: we do without it.
# Arguments: its name, a command that succeeds where it is there, what happens without it.
package=$1
if sh -c "$2" >/dev/null 2>&1; then
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
  echo "make: installing $package"
  install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $package"
  $install >/dev/null 2>&1 && exit 0
  # A fresh machine has no package lists yet.
  $as_root apt-get update -qq >/dev/null 2>&1 && $install >/dev/null 2>&1 && exit 0
fi
echo "make: $package is not installed, so $3: apt install $package" >&2
