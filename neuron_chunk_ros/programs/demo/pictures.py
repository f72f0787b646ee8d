# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: frames with their answers drawn in, and what each policy reads."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neuron_chunk_ros.figure_file import save_figure
from neuron_chunk_ros.programs.demo.report import Asked

_BAR = 84
_RIGHT, _WRONG = (120, 220, 130), (255, 120, 110)


def _font(size: int):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one small font
        return ImageFont.load_default()


def annotate(asked: Asked) -> Image.Image:
    """Return the frame with question, answer and truth in a bar below."""
    height, width = asked.image.shape[:2]
    picture = Image.new('RGB', (width, height + _BAR), (24, 24, 28))
    picture.paste(Image.fromarray(asked.image), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.text((14, height + 10), asked.question, font=_font(24), fill=(235, 235, 235))
    verdict = asked.answer or asked.failure or '(no answer)'
    if not asked.right:
        verdict += f'   (truth: {asked.truth})'
    draw.text((14, height + 44), verdict, font=_font(28),
              fill=_RIGHT if asked.right else _WRONG)
    bill = f'{asked.seconds * 1e3:.0f} ms, {asked.bytes_read / 1e6:.1f} MB read'
    draw.text((width - 14, height + 52), bill, font=_font(18), fill=(160, 160, 165), anchor='ra')
    return picture


def overview(all_asked: list[Asked]) -> Image.Image:
    """Return a sheet of the first picture of each question type, three in a row."""
    first = list({asked.type: asked for asked in reversed(all_asked)}.values())[::-1]
    pictures = [annotate(asked) for asked in first]
    width, height = pictures[0].size
    rows = -(-len(pictures) // 3)
    sheet = Image.new('RGB', (3 * width + 16, rows * height + 8 * (rows - 1)), 'white')
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 3 * (width + 8), i // 3 * (height + 8)))
    return sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS)


def draw_contiguity(answers: dict[str, object], path: Path):
    """Draw the contiguity distribution of one answer per policy as a PNG.

    :param answers: label -> the engine's Answer.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    # Up to the longest chunk there is; the bins beyond are empty.
    bins = 1 + max(int(np.max(np.nonzero(answer.io.contiguity))) for answer in answers.values())
    figure, axes = pyplot.subplots(
        1, len(answers), figsize=(4.2 * len(answers), 3.8), sharey=True, layout='constrained')
    for axis, (label, answer) in zip(np.atleast_1d(axes), answers.items(), strict=True):
        axis.bar(range(bins), answer.io.contiguity[:bins], color='#3b6fb6')
        axis.set_xticks(range(bins), [str(2**k) for k in range(bins)], rotation=45)
        axis.set_xlabel('rows in a chunk (from, up to twice as many)')
        axis.set_title(f'{label}: {answer.io.chunks} chunks, {answer.io.bytes_read / 1e6:.1f} MB\n'
                       f'answer: {answer.text}', fontsize=11)
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
    np.atleast_1d(axes)[0].set_ylabel('chunks read for one answer')
    np.atleast_1d(axes)[0].set_yscale('log')
    save_figure(figure, path, dpi=110)
    pyplot.close(figure)
