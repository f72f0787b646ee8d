# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writers that no command runs in moments: called in a prepared process, as a command would."""

import types
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.bench.report import Column, Report, Table
from neuron_chunk_ros.cli.main import told
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.tabletop import resumable
from neuron_chunk_ros.tabletop.resumable import ResumableRun


def save_profile(path: str) -> int:
    return told(lambda: profile_file.save(Profile.simulated('agx-orin'), path))


# Two runs of one second are told apart by nothing but what they did.
resumable.time = types.SimpleNamespace(strftime=lambda _: 'then')


class _Recipe:
    def __init__(self):
        self.steps, self.rate, self.save_every = 2, 0.1, 1


class Run(ResumableRun):
    """A run whose model is one small matrix."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(8, 8))
        super().__init__(Path(folder), _Recipe(), {'weight': self.weight})

    def losses(self):
        return self.weight.square().sum(), {}

    def learning_rate(self):
        return 0.1

    def write(self, folder):
        (folder / 'weight').write_bytes(self.weight.detach().numpy().tobytes())
        (folder / 'config.json').write_text('{}')


def train(folder: str, until: int) -> int:
    """Go on to a step, saving it, and write the model as a finished run does."""
    def work():
        run = Run(folder)
        if run.step < until:
            run.run(lambda *_: None, stop=lambda: run.step == until)
        run.export(Path(folder) / 'model')
    return told(work)


def _picture():
    from matplotlib.figure import Figure
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


def write_report(folder: str, word: str) -> int:
    """Write a benchmark's files, and their part of the document beside."""
    records = [{'name': word, 'value': number} for number in range(3)]
    table = Table('some', [Column('name', 'name'), Column('value', 'value')], records)
    report = Report('read', {'command': word, 'machine': {'cpu': word}}, {'rows': records}, [],
                    [table])
    report.add_figure('curve', _picture, word)

    def work():
        report.write_json(Path(folder) / 'report.json')
        report.write_files(Path(folder) / 'benchmarks')
    return told(work)


def play(folder: str) -> int:
    """Write what a playback without any answer leaves."""
    from neuron_chunk_ros.programs.playback import output
    from neuron_chunk_ros.programs.playback.options import PlaybackOptions
    from neuron_chunk_ros.programs.playback.results import Results
    results = Results(
        PlaybackOptions(bag=Path('bag'), out=Path(folder)), 'sqlite3', 0,
        [('/image', 0, 0)], {'answer': [], 'telemetry': [], 'diagnostics': []},
        {'answer': '/vlm/answer', 'telemetry': '/vlm/telemetry', 'diagnostics': '/diagnostics'})
    return told(lambda: output.write(results))


def tabletop(folder: str) -> int:
    """Make the shipped model's bundle in a cache that is empty."""
    from neuron_chunk_ros.tabletop.shipped import bundle_dir
    return told(lambda: print(bundle_dir(Path(folder))) or 0)


def pictures(folder: Path, count: int) -> None:
    from PIL import Image
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (56, 56, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.png')
