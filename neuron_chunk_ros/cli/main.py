# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Entry point of `neuron-chunk`: finds the sub-commands, turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence

from neuron_chunk_ros import __version__
from neuron_chunk_ros.errors import NeuronChunkError, out_of_memory

# one module each; importing one must stay cheap, it imports its room only when it runs
_MODULES = ('bundle', 'compress', 'profile', 'calibrate', 'attention', 'ask', 'trace', 'play',
            'monitor', 'bench', 'tabletop')
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return the exit status: 0, 1 for an error, 2 for bad usage."""
    # a library's advice would drown the one line that counts
    os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
    # unwind as for Ctrl-C, so that half-written folders are removed
    signal.signal(signal.SIGTERM, _terminate)
    return told(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int | None:
    args = _parser().parse_args(arguments)
    return args.run(args)


def told(work: Callable[[], int | None]) -> int:
    """Do a command's work and return its exit status; what goes wrong is told in one line."""
    try:
        status = work()
        sys.stdout.flush()
        return status or 0
    except NeuronChunkError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(_disk(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ImportError as error:  # no room to map it, or a broken installation
        return _fail(f'{error.name or "a library"} can not be loaded: {error}')
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(f'out of memory ({str(error) or "no reason given"}): give the process more, '
                     'or ask for less with --memory-budget-mb, --max-context or smaller images')
    except BaseException as error:
        if type(error).__name__ != 'PanicException':  # a Rust library's, and no Exception
            raise
        return _fail(f'a library gave up, out of memory or threads: {error}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='neuron-chunk',
        description='Vision-language models that stay on flash: prepare, check and try them.')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in _MODULES:
        path = f'neuron_chunk_ros.cli.{name}'
        if importlib.util.find_spec(path) is not None:
            importlib.import_module(path).register(commands)
    return parser


def _fail(message: str) -> int:
    print('neuron-chunk: error: ' + ' '.join(message.split('\n')), file=sys.stderr)
    return 1


def _disk(error: OSError) -> str:
    from neuron_chunk_ros.storage.disk_errors import UnsyncedError, failure, reason
    if isinstance(error, UnsyncedError):
        return failure(error.filename, error, '')
    return f'{error.filename}: {reason(error)}' if error.filename else reason(error)


def _terminate(number, frame) -> None:
    raise SystemExit(_TERMINATED)


if __name__ == '__main__':
    sys.exit(main())
