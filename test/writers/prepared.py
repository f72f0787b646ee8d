# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and forks a child for each writer's run.

Started with disturb.c preloaded, so that a run costs a fork instead of seconds of start-up. It
reads a request a line, JSON, and answers with what became of the child. No reader is opened and
nothing is multiplied in this process itself: threads don't outlive a fork.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
import time

COUNT, FAIL_ONCE, FAIL_ON, KILL = range(4)


class _Shared(ctypes.Structure):
    _fields_ = [('count', ctypes.c_long), ('first', ctypes.c_double),
                ('last', ctypes.c_char * 4096), ('disturbed', ctypes.c_char * 4096)]


def _run(call: str, arguments: list) -> int:
    """Do what is asked for; return the exit status as a process would have it."""
    module, _, function = call.partition(':')
    try:
        return getattr(importlib.import_module(module), function)(*arguments) or 0
    except SystemExit as ended:
        return ended.code
    except BaseException:
        import traceback
        traceback.print_exc()
        return 70


def _ended(child: int, shared, seconds: float | None, after_first: bool) -> int:
    """Wait for a child; kill it after so many seconds, from its first write on where wanted."""
    start = time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        since = start
        if after_first:
            since = shared.first or time.monotonic()
        if seconds is not None and time.monotonic() - since >= seconds:
            os.kill(child, signal.SIGKILL)
            seconds = None
        time.sleep(0.0002 if seconds is not None else 0.002)


def answer(arm, request: dict) -> dict:
    """Fork a child for a request, wait for it and tell what became of it."""
    shared = arm(request['folder'].encode(), request.get('number', 0), request.get('action', 0),
                 request.get('errno', 0)).contents
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = _run(request['call'], request['arguments'])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = _ended(child, shared, request.get('seconds'), request.get('after_first', False))
        took = time.monotonic() - began
        count, first = shared.count, shared.first
        disturbed, last = (text.decode(errors='replace')
                           for text in (shared.disturbed, shared.last))
        arm(b'', 0, 0, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors='replace'))
    return {'code': code, 'out': texts[0], 'err': texts[1], 'calls': count, 'disturbed': disturbed,
            'last': last, 'seconds': took, 'writing': first and began + took - first}


def main() -> None:
    arm = ctypes.CDLL(None).disturb_arm
    arm.restype = ctypes.POINTER(_Shared)
    arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    for name in sys.argv[1:]:
        importlib.import_module(name)
    requests, answers = os.fdopen(os.dup(0), 'r'), os.fdopen(os.dup(1), 'w')
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        print(json.dumps(answer(arm, json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
    main()
