# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tries what a model folder brings that could run for ever: its chat template, its tokenizer.

A process of its own, see families/trial.py, with bounds on its memory and on its processor time.
Of the package it imports nothing, for it has to start quickly.

Takes one task as JSON, and prints {"done": ...} or {"failed": reason}. Where it takes too long,
the process ends by SIGPROF and prints nothing.
"""

import json
import re
import resource
import signal
import sys
from datetime import datetime

_MEMORY = 1 << 30
# Kinds of text that a tokenizer's patterns may be slow on.
_PROBES = ('a', ' ', '\n', '1', '.', 'é', 'aA1 ', '\ud7a3', "'s ", '-a', 'a\n ')
_PROBE_BYTES = 4096


def render(template: str, variables: dict, messages: list, longest: int) -> list[str]:
    """Render a chat template as transformers does, once for each list of messages."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    if tuple(map(int, re.findall(r'\d+', jinja2.__version__)[:3])) < (3, 1, 6):
        raise ImportError(f'Jinja2 {jinja2.__version__} has known ways out of its sandbox: '
                          "pip install 'jinja2>=3.1.6'")

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` only marks what assistants said."""

        tags = {'generation'}

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(
                parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters['tojson'] = lambda value, ensure_ascii=False, **how: json.dumps(
        value, ensure_ascii=ensure_ascii, **how)
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form))
    made = environment.from_string(template)
    found = []
    for one in messages:
        text, size = [], 0
        for piece in made.generate(messages=one, tools=None, documents=None,
                                   add_generation_prompt=True, **variables):
            size += len(piece)
            if size > longest:
                raise ValueError(f'it makes a prompt of over {longest} characters')
            text.append(piece)
        found.append(''.join(text))
    return found


def tokenize(file: str) -> int:
    """Load a tokenizer and have it take texts of many kinds; return how many tokens they were."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(file)
    return sum(len(tokenizer.encode(probe * (_PROBE_BYTES // len(probe.encode()))).ids)
               for probe in _PROBES)


def main() -> None:
    """Do the task of standard input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    task = json.loads(sys.stdin.read())
    work = {'render': render, 'tokenize': tokenize}[task.pop('do')]
    signal.setitimer(signal.ITIMER_PROF, task.pop('seconds'))
    try:
        answer = {'done': work(**task)}
    except MemoryError:
        answer = {'failed': f'it takes more than {_MEMORY >> 20} MiB of memory'}
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        answer = {'failed': ' '.join(str(error).split()) or type(error).__name__}
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(answer))


if __name__ == '__main__':
    main()
