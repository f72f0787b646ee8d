# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor's three ways to run: on a terminal, as plain lines, one snapshot."""

import os
import signal
import sys
import time

from rclpy.exceptions import NameValidationException

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.programs.monitor import plain
from neuron_chunk_ros.programs.monitor.listener import Listener
from neuron_chunk_ros.programs.monitor.screen import Screen
from neuron_chunk_ros.programs.monitor.view import ASCII, Glyphs, screen, snapshot

# News is drawn at once, but no more often than this; figures once a second, a growing silence
# twice [s].
_SHORTEST, _SILENT, _USUAL = 0.25, 0.5, 1.0
# Nodes are discovered one after the other: when one is found, others may still come [s].
_SETTLE = 0.5
# A node that runs is found, and heard, sooner than this [s].
_DISCOVERY = 5.0
_REDRAW = '\x0c'  # Ctrl-L
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _Signals:
    """Notes signals for the loop to see, so that nothing is cut off half-way. A context."""

    def __enter__(self):
        self.ending = 0
        self.suspend = False
        self._before = {number: signal.signal(number, self._end) for number in _ENDING}
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number, frame):
        self.ending = number

    def _suspend(self, number, frame):
        self.suspend = True

    def stop_process(self):
        """Stop as Ctrl-Z asked; returns when the shell continues the process."""
        self.suspend = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)


def run(node: str = '', namespace: str | None = None, once: float | None = None) -> int:
    """Watch one node until q or a signal; return the exit status.

    :param node: its name, or its full name; '' for the only one there is.
    :param namespace: look only there; with a node's name, the node needn't be there yet.
    :param once: print one snapshot so many seconds after the node's first word.
    :raises NeuronChunkError: with several nodes to choose from; with `once`, when there is no
        node or nothing was heard of it.
    """
    live = once is None and sys.stdout.isatty() and os.environ.get('TERM', 'dumb') != 'dumb'
    if not live:
        sys.stdout.reconfigure(errors='replace')
    tell = _print if once is None and not live else lambda event: None
    with _Signals() as signals, Listener(tell) as listener:
        name = _find(listener, signals, node, namespace, once)
        if name is not None:
            try:
                listener.listen(name)
            except NameValidationException as error:
                raise NeuronChunkError(f"'{name}' can't be a node's name") from error
            if once is not None:
                _once(listener, signals, once)
            elif live:
                _live(listener, signals)
            else:
                _plain(listener, signals)
        return 128 + signals.ending if signals.ending else 0


def full_name(node: str, namespace: str | None) -> str | None:
    """Return a node's full name, or None where it must be looked for."""
    if node.startswith('/'):
        return node.rstrip('/')
    if node and namespace is not None:
        return '/' + '/'.join(filter(None, (namespace.strip('/'), node)))
    return None


def _find(listener: Listener, signals: _Signals, node: str, namespace: str | None,
          once: float | None) -> str | None:
    """Return the full name of the node to watch; None when a signal came first."""
    if (name := full_name(node, namespace)) is not None:
        return name
    inside = '' if namespace is None else '/' + namespace.strip('/')
    started, found_at, hinted = time.monotonic(), None, False
    where = f'ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")}'
    what = f"node '{node}'" if node else 'vlm node'
    what += f' in {inside}' if namespace is not None else ''
    while not signals.ending:
        listener.spin(0.1)
        now = time.monotonic()
        found = [c for c in listener.candidates()
                 if (not node or c.rpartition('/')[2] == node)
                 and (namespace is None or c.rpartition('/')[0] == inside.rstrip('/'))]
        if found:
            found_at = found_at or now
            if now - found_at >= _SETTLE:
                return _only(found)
        elif once is not None and now - started >= max(once, _DISCOVERY):
            raise NeuronChunkError(f'no {what} answers in {where}: is it running and configured, '
                                   'and is ROS_DOMAIN_ID the same?')
        elif now - started >= _DISCOVERY and not hinted:
            hinted = True
            print(f'no {what} answers in {where} yet (another ROS_DOMAIN_ID?); waiting, '
                  'Ctrl-C ends', file=sys.stderr, flush=True)
    return None


def _only(names: list[str]) -> str:
    if len(names) > 1:
        raise NeuronChunkError(f'several nodes answer: {", ".join(names)}; choose one with '
                               f'--node {names[0]}')
    return names[0]


def _live(listener: Listener, signals: _Signals):
    known, drawn, drawn_at, seen = listener.known, None, 0.0, None
    with Screen() as terminal:
        glyphs = Glyphs() if terminal.unicode else ASCII
        while not signals.ending:
            now = time.monotonic()
            # The age of a word is looked at again just when it becomes too old.
            state = (known.news, known.silence(now) is None, known.last_word is None)
            size = terminal.size()
            pause = _SHORTEST if (state, size) != seen else _SILENT if not state[1] else _USUAL
            if drawn is None or now - drawn_at >= pause:
                listener.look_around()
                drawn = screen(known, now, *size, glyphs)
                terminal.draw(drawn, size)
                seen, drawn_at = (state, size), now
            keys = terminal.keys()
            if 'q' in keys or 'Q' in keys:
                return
            if _REDRAW in keys:
                terminal.forget()
                drawn = None
            if signals.suspend:
                terminal.__exit__()
                signals.stop_process()
                terminal.__enter__()
                drawn = None
            listener.spin(_SHORTEST)


def _plain(listener: Listener, signals: _Signals):
    silent, known = False, listener.known
    while not signals.ending:
        listener.spin(_SHORTEST)
        silence = known.silence(time.monotonic())
        if (silence is not None) != silent:
            silent = not silent
            _say(f'no word from {known.name} for {silence:.1f} s' if silent
                 else f'{known.name} is heard')


def _once(listener: Listener, signals: _Signals, duration: float):
    known, end = listener.known, time.monotonic() + max(duration, _DISCOVERY)
    heard = False
    while not signals.ending and (left := end - time.monotonic()) > 0:
        listener.spin(left)
        if not heard and known.last_word is not None:
            heard, end = True, time.monotonic() + duration
    if signals.ending:
        return
    listener.look_around()
    if known.last_word is None:
        waited = max(duration, _DISCOVERY)
        raise NeuronChunkError(f'{known.name}: nothing heard within {waited:g} s: is it running, '
                               'and is ROS_DOMAIN_ID the same?')
    encoding = (sys.stdout.encoding or '').lower().replace('-', '')
    glyphs = Glyphs() if encoding.startswith('utf') else ASCII
    for line in snapshot(known, time.monotonic(), time.time(), glyphs=glyphs):
        print(line)


def _print(event):
    print(plain.line(event), flush=True)


def _say(text: str):
    print(plain.stamped(time.time(), text), flush=True)
