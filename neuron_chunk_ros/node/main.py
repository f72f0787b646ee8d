# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `vlm_node` command: spins the node, starts it unless told otherwise, ends cleanly."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import rclpy
from rclpy.executors import MultiThreadedExecutor, TimeoutException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.node.middleware import no_buffers_kept
from neuron_chunk_ros.node.process_memory import keep_no_large_blocks, limit_arenas
from neuron_chunk_ros.node.vlm_node import GRACE, VlmNode

# How long the executor may take to notice that it should end [s].
_SPIN = 0.2
# How long nothing may come before everything sent to the node counts as taken, and how long that
# is waited for at most [s].
_QUIET, _DRAIN = 0.1, 2.0
# What the executor leaves to its threads after each turn [s]. rclpy hands a callback to them again
# and again until one has begun it, and holds them up by that for a quarter of a second.
_PAUSE = 1e-4


class _Signals:
    """Has SIGINT and SIGTERM end wait(), and the loading of a model by KeyboardInterrupt.

    rclpy's own handlers would shut the context down at once, and questions still waiting for
    their answer would get none.
    """

    def __init__(self):
        # Its put() may come in the middle of its get(), as a handler does. The set() of an Event
        # may not: in the middle of its wait() it would wait for itself.
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._came = self._raising = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_):
        self._came = True
        self._ended.put(None)
        if self._raising:
            self._raising = False
            raise KeyboardInterrupt

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Have a signal that comes within, or came before, raise KeyboardInterrupt, once."""
        try:
            self._raising = not self._came
            if not self._raising:
                raise KeyboardInterrupt
            yield
        finally:
            self._raising = False

    def wait(self):
        """Block until a signal, or stop(), comes."""
        self._ended.get()

    def stop(self):
        """End wait() as a signal does."""
        self._ended.put(None)


class _Spinner:
    """Spins an executor in a thread of its own, which the main thread can end at any time."""

    def __init__(self, node: Node, threads: int, on_failure):
        self._executor = MultiThreadedExecutor(num_threads=threads)
        self._executor.add_node(node)
        self._on_failure = on_failure
        self._ending = False
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._spin, name='executor', daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            while not self._ending:
                self._executor.spin_once(timeout_sec=_SPIN)
                time.sleep(_PAUSE)
        except Exception as error:
            self.error = error
            self._on_failure()

    def end(self):
        """Stop spinning once what was sent is taken; callbacks that run go on to their end."""
        self._ending = True
        self._thread.join(GRACE)
        if self.error is None and not self._thread.is_alive():
            self._drain()

    def close(self):
        """Let go of the node; once no callback runs any more."""
        self._executor.shutdown(0)

    def _drain(self):
        # Questions the middleware holds already: whoever sent one would wait for ever.
        began = came = time.monotonic()
        while came + _QUIET > time.monotonic() < began + _DRAIN:
            try:
                handler, entity, _ = self._executor.wait_for_ready_callbacks(timeout_sec=_QUIET)
            except TimeoutException:
                return
            handler()
            if not isinstance(entity, Timer):
                came = time.monotonic()


def _start(node: VlmNode, signals: _Signals) -> bool:
    """Configure and activate; False, with the reason logged, where that fails.

    :raises KeyboardInterrupt: a signal came before the model was loaded.
    """
    node.starting = True
    with signals.raised():
        started = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    # takes no time, and questions may be under way before it returns
    started = started and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    node.starting = False
    return started


def _run(node: VlmNode, signals: _Signals, closing: list[Callable[[], None]]) -> int:
    logger = node.get_logger()
    spinner = _Spinner(node, VlmNode.executor_threads(node.settings.queue_limit), signals.stop)
    closing.append(spinner.close)
    started = True
    try:
        try:
            started = not node.settings.autostart or _start(node, signals)
            if started:
                signals.wait()
        except KeyboardInterrupt:
            logger.info('ended while loading')
        ended = node.close('the node is shutting down')
    finally:
        spinner.end()
    if spinner.error is not None:
        logger.fatal(f'executor failed: {type(spinner.error).__name__}: {spinner.error}')
        return 1
    if not ended:
        logger.warning('the running step did not end in time; leaving it behind')
        node.send_responses()
        sys.stdout.flush()
        sys.stderr.flush()
        # The worker is deep in a computation that nothing can interrupt.
        os._exit(0)
    return 0 if started else 1


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the process's exit code."""
    signals = _Signals()
    codes = []
    atexit.register(_end, codes)  # the first to be registered is the last to be called
    keep_no_large_blocks()
    limit_arenas()
    node, code, closing = None, 1, []
    try:
        with no_buffers_kept():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            node = VlmNode()
        closing.append(node.destroy_node)
        code = _run(node, signals, closing)
    except NeuronChunkError as error:
        _fatal(node, ' '.join(str(error).split()))
    except Exception as error:
        # Bad command line, bad parameter file, bad QoS override, no memory: one line each.
        _fatal(node, f"{type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        # The executor's threads may still be sending the last responses. The interpreter waits
        # for them before it runs this; destroying the node now would pull it from under them.
        atexit.register(_leave, closing)
        codes.append(code)
    return code


def _end(codes: list[int]):
    # The interpreter would now take torch apart, module by module, for seconds on a busy machine.
    sys.stdout.flush()
    sys.stderr.flush()
    if codes:
        os._exit(codes[0])


def _leave(closing: list[Callable[[], None]]):
    # The interpreter is giving our handlers up; another Ctrl-C would kill it half-way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while closing:
        closing.pop()()
    rclpy.try_shutdown()


def _fatal(node: Node | None, line: str):
    (node.get_logger() if node is not None else get_logger('vlm')).fatal(line)


if __name__ == '__main__':
    sys.exit(main())
