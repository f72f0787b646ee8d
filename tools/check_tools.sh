#!/bin/sh
# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# Checks that what the build needs is there: one line for each thing that is missing.
# Environment: PYTHON, the interpreter to build with (python3).
python=${PYTHON:-python3}
missing=0

need() {
  echo "make: $1 is missing: apt install $2" >&2
  missing=1
}

for tool in g++ cmake; do
  command -v "$tool" >/dev/null || need "$tool" "$tool"
done

if ! command -v "$python" >/dev/null; then
  need "$python" python3
elif ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
  echo "make: $python is $("$python" -V 2>&1); 3.10 to 3.13 is needed: apt install one of them and" \
       "say which, e.g. make PYTHON=python3.12" >&2
  missing=1
else
  "$python" -c 'import venv, ensurepip' 2>/dev/null || need "Python's venv" python3-venv
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || need Python.h python3-dev
fi

# ROS 2 comes as pip wheels on x86_64 only.
if [ "$(uname -m)" != x86_64 ] && [ -z "${AMENT_PREFIX_PATH:-}" ]; then
  echo "make: ROS 2 is missing: install it with apt and source /opt/ros/DISTRO/setup.bash" >&2
  missing=1
fi
exit "$missing"
