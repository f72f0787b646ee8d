# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One contestant in a process of its own: `python -m ...contestants JOB`, JSON lines out.

Under the ceiling from before the first weight is read: Python and its libraries as they are then,
and so many bytes more.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from neuron_chunk_ros.bench.ceiling import Ceiling

_LEARNING = 4  # frames ahead of those that count: a session learns what skipping is worth
FRAME, QUESTION, WORDS = 196, 16, 3  # tokens of a frame and of a question, words measured


def _resident(key: str = 'VmRSS') -> int:
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{key}:\s+(\d+)', status)[1]) << 10


def _bytes_read() -> int:
    return int(re.search(r'read_bytes: (\d+)', Path('/proc/self/io').read_text())[1])


class _Teller:
    """Measures and tells, until the time is over."""

    def __init__(self, job: dict):
        self._ends = time.monotonic() + job['seconds']
        self.repeats = job['repeats']
        self.warm = True

    def over(self) -> bool:
        return time.monotonic() > self._ends

    def tell(self, way: str, what: str, seconds: float, nbytes: int, **more) -> None:
        print(json.dumps({'way': way, 'what': what, 'seconds': seconds, 'bytes': nbytes,
                          'warm_up': self.warm, **more}), flush=True)

    def take(self, way: str, what: str, work: Callable[[], object]):
        before, started = _bytes_read(), time.perf_counter()
        found = work()
        self.tell(way, what, time.perf_counter() - started, _bytes_read() - before)
        return found


def _close(job: dict) -> int:
    """Set the ceiling above what is there; return what that is."""
    base = _resident()
    if job['cgroup']:
        Ceiling(Path(job['cgroup'][0]), job['cgroup'][1]).close_at(base + job['ceiling'])
    return base


def ours(job: dict, teller: _Teller) -> int:
    """Dense and the sparsities in turns, in one session under the budget."""
    import accelerate  # noqa: F401 (the ceiling is set above all libraries)
    import transformers.models.llava_onevision.modeling_llava_onevision
    import transformers.models.qwen2.modeling_qwen2
    import transformers.models.siglip.modeling_siglip  # noqa: F401

    from neuron_chunk_ros.bench.end_to_end.models import frames
    from neuron_chunk_ros.engine.session import Session
    base = _close(job)
    rows = f'{job["rows"]} rows, ' if job['rows'] else ''
    ways = [(f'{rows}dense', 0.0)] + [(f'{rows}{s:.0%} skipped', s) for s in job['sparsities']]
    pictures = frames(3)
    began = time.perf_counter()
    with Session.open(job['bundle'], memory_budget_mb=job['ceiling'] >> 20, drafts=False,
                      max_context=512) as session:
        opened = time.perf_counter() - began
        stream = session.stream(window=1)
        turn = 0
        for repeat in range(-_LEARNING, job['repeats']):
            teller.warm = repeat < 0
            for way, sparsity in ways:
                if teller.over():
                    break
                session.configure(policy='optimal' if sparsity else 'dense', sparsity=sparsity)
                started, turn = time.perf_counter(), turn + 1
                bill = stream.append(pictures[turn % len(pictures)])
                _tell_bill(teller, way, 'frame', bill)
                first = []
                answer = stream.ask('what is there?', max_new_tokens=1 + WORDS,
                                    on_progress=lambda stage, *_, first=first: first.append(
                                        time.perf_counter()) if stage == 'decode' else None)
                teller.tell(way, 'first', first[0] - started, 0)
                for step in answer.steps[1:]:
                    _tell_bill(teller, way, 'decode', step)
                if turn == 1:
                    teller.tell(way, 'start', opened + first[0] - started, 0)
        teller.tell('', 'memory', 0.0, 0, **session.memory())
    return base


def _tell_bill(teller: _Teller, way: str, what: str, bill) -> None:
    teller.tell(way, what, bill.seconds, bill.bytes_read, wait=bill.wait_seconds,
                read=bill.read_seconds, compute=bill.compute_seconds,
                choose=bill.select_seconds, tokens=bill.tokens, rows=bill.rows_selected,
                held=bill.rows_held, all_rows=bill.rows_total)


def transformers(job: dict, teller: _Teller) -> int:
    """Plain transformers over memory-mapped weights; with `offload`, accelerate's to disk."""
    import torch
    from accelerate import disk_offload, init_empty_weights
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.cache_utils import DynamicCache

    from neuron_chunk_ros.families import family_for
    torch.set_grad_enabled(False)
    folder = Path(job['checkpoint'])
    config = AutoConfig.from_pretrained(folder)
    family = family_for(json.loads((folder / 'config.json').read_text()))
    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    base = _close(job)
    state = {family.canonical(name): tensor for file in sorted(folder.glob('*.safetensors'))
             for name, tensor in load_file(file).items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    del state
    model.eval()
    decoder = model.get_submodule(family.decoder_path.rpartition('.')[0])
    head = model.lm_head
    if job.get('offload'):
        disk_offload(decoder.layers, job['offload'], execution_device=torch.device('cpu'))
    way, generator = job['label'], torch.Generator().manual_seed(0)

    def run(cache, tokens: int):
        inputs = torch.randn(1, tokens, config.text_config.hidden_size, generator=generator)
        hidden = decoder(inputs_embeds=inputs.bfloat16(), past_key_values=cache,
                         use_cache=True).last_hidden_state
        return head(hidden[0, -1:])

    for repeat in range(-1, job['repeats']):
        teller.warm = repeat < 0
        if teller.over():
            break
        cache, started = DynamicCache(), time.perf_counter()
        teller.take(way, 'frame', lambda: run(cache, FRAME))  # noqa: B023
        run(cache, QUESTION)
        teller.tell(way, 'first', time.perf_counter() - started, 0)
        for _ in range(WORDS):
            if not teller.over():
                teller.take(way, 'decode', lambda: run(cache, 1))  # noqa: B023
    return base


def llama_cpp(job: dict, teller: _Teller) -> int:
    """llama.cpp, its weights memory-mapped and left as they are.

    Repacked for this processor, as it does by itself, they would be in memory of their own, and
    the kernel ends it under a ceiling.
    """
    from llama_cpp import Llama, llama_cpp
    defaults = llama_cpp.llama_model_default_params

    def as_they_are():
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    llama_cpp.llama_model_default_params = as_they_are
    base = _close(job)
    model = Llama(job['gguf'], n_ctx=512, n_batch=512, n_ubatch=512, use_mmap=True,
                  n_threads=job['threads'], n_threads_batch=job['threads'], verbose=False)
    way = job['label']
    for repeat in range(-1, job['repeats']):
        teller.warm = repeat < 0
        if teller.over():
            break
        model.reset()
        started = time.perf_counter()
        teller.take(way, 'frame', lambda: model.eval(list(range(100, 100 + FRAME))))
        model.eval(list(range(500, 500 + QUESTION)))
        teller.tell(way, 'first', time.perf_counter() - started, 0)
        for word in range(WORDS):
            teller.take(way, 'decode', lambda: model.eval([7 + word]))  # noqa: B023
    return base


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(sys.argv[1])
    if job['cgroup']:
        Ceiling(Path(job['cgroup'][0]), job['cgroup'][1]).enter()
    teller = _Teller(job)
    base = {'ours': ours, 'transformers': transformers, 'llama_cpp': llama_cpp}[job['who']](
        job, teller)
    teller.tell('', 'peak', 0.0, 0, over_base=_resident('VmHWM') - base)


if __name__ == '__main__':
    main()
