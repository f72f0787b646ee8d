# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `~/annotated` topic: what the model looked at, with question, answer and bill below.

Nothing is drawn while nobody listens.
"""

import array
import bisect
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import cv2
import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from neuron_chunk_interfaces.msg import Answer

# Pixels: what the pictures may take together, a width that text can be read in, and a height below
# which pictures are enlarged.
WIDEST, HIGHEST, NARROWEST, LOWEST = 1920, 1080, 480, 180
# Pictures shown, the last ones of the prompt; how many lines a text may take, and characters that
# are more than fit into them.
MOST_PICTURES, MOST_LINES, _MOST_CHARACTERS = 8, 12, 4000
# Pixels between pictures, and what the thinnest one gets for its caption.
_GAP, _CELL = 6, 80
_GROUND, _CAPTION, _QUESTION, _ANSWER, _BILL = (
    (24, 24, 28), (200, 205, 215), (175, 180, 190), (255, 255, 255), (150, 155, 165))
_SURE, _UNSURE, _TRACK = (110, 205, 125), (235, 165, 70), (62, 62, 70)


class Annotated:
    """Publishes `~/annotated` (sensor_msgs/Image, rgb8) for whoever listens."""

    def __init__(self, node: Node):
        self._logger = node.get_logger()
        self._node = node
        self._lock = threading.Lock()
        self._complaints = set()
        # Reliable, so that readers of either kind match.
        self._publisher = node.create_publisher(
            Image, '~/annotated', QoSProfile(depth=1),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def wanted(self) -> bool:
        """Tell whether anybody listens."""
        with self._lock:
            return self._publisher is not None and self._publisher.get_subscription_count() > 0

    def publish(self, answer: Answer, pictures: Sequence[np.ndarray]):
        """Draw an answer and publish it, when anybody listens; from any thread, never raises.

        :param pictures: uint8 [height, width, 3] RGB, parallel to the answer's images.
        """
        try:
            if not self.wanted():
                return
            picture = draw(answer, pictures)
            # rclpy takes an array.array as it is; anything else is checked byte by byte.
            message = Image(
                header=answer.header, height=picture.height, width=picture.width, encoding='rgb8',
                step=picture.width * 3, data=array.array('B', picture.tobytes()))
            with self._lock:
                if self._publisher is not None:
                    self._publisher.publish(message)
        except Exception as error:  # a picture is no reason to lose an answer
            kind = type(error).__name__
            if kind not in self._complaints:
                self._complaints.add(kind)
                self._logger.warning('an annotated image could not be published (told once): '
                                     f'{kind}: {" ".join(str(error).split())}')

    def close(self):
        """Take the topic down; publishing from then on does nothing."""
        with self._lock:
            if self._publisher is not None:
                self._node.destroy_publisher(self._publisher)
                self._publisher = None


def draw(answer: Answer, pictures: Sequence[np.ndarray]) -> PIL.Image.Image:
    """Return the pictures side by side, each under its camera's name, and the answer below.

    A picture keeps its pixels where its height is that of the others and all fit.

    :param pictures: uint8 [height, width, 3] RGB, parallel to the answer's images.
    """
    shown = list(pictures)[-MOST_PICTURES:]
    captions = _captions(answer, len(pictures))[-MOST_PICTURES:]
    columns = len(shown) if len(shown) <= 4 else -(-len(shown) // 2)
    rows = [range(i, min(i + columns, len(shown))) for i in range(0, len(shown), columns or 1)]
    shown = _common_height(shown, rows)
    cells = [max(picture.shape[1], _CELL) for picture in shown]
    row_widths = [sum(cells[i] + _GAP for i in row) - _GAP for row in rows]
    width = max([NARROWEST, *row_widths])
    size = min(34, max(17, width // 40))
    small = _Text(max(13, size * 3 // 4), _CAPTION)
    band = _band(answer, width, size, len(pictures) - len(shown))

    # Where each picture and each line of its caption goes.
    placed, lettered, top = [], [], 0
    for row, row_width in zip(rows, row_widths, strict=True):
        left = (width - row_width) // 2
        wrapped = [small.wrap(captions[i], cells[i] - 2 * _GAP, 3) for i in row]
        strip = max(map(len, wrapped)) * small.line
        for i, lines in zip(row, wrapped, strict=True):
            lettered += [(left + _GAP, top + k * small.line, line) for k, line in enumerate(lines)]
            placed.append((left, top + strip, shown[i]))
            left += cells[i] + _GAP
        top += strip + shown[row[0]].shape[0] + _GAP
    canvas = PIL.Image.new('RGB', (width, top + band.height), _GROUND)
    for left, y, pixels in placed:
        canvas.paste(PIL.Image.fromarray(pixels), (left, y))
    pen = ImageDraw.Draw(canvas)
    for left, y, line in lettered:
        small.write(pen, left, y, line)
    canvas.paste(band, (0, top))
    return canvas


def _captions(answer: Answer, count: int) -> list[str]:
    """Return each image's camera, and its age against the newest where a camera has several."""
    names = [*answer.cameras, *[''] * count][:count]
    stamps = [h.stamp.sec + h.stamp.nanosec * 1e-9 for h in answer.images]
    if len(stamps) != count or len(set(stamps)) < 2:
        return names
    newest = max(stamps)
    return [f'{name} {stamp - newest:.2f} s'.strip()
            if names.count(name) > 1 and stamp < newest else name
            for name, stamp in zip(names, stamps, strict=True)]


def _common_height(pictures: list[np.ndarray], rows: list[range]) -> list[np.ndarray]:
    """Scale the pictures to one height such that the widest row and all rows fit."""
    if not pictures:
        return []
    height = max(picture.shape[0] for picture in pictures)
    height *= -(-LOWEST // height)  # whole pixels become whole squares
    height = min(height, HIGHEST // len(rows))
    rooms = [WIDEST - _GAP * (len(row) - 1) for row in rows]
    for row, room in zip(rows, rooms, strict=True):
        aspects = sum(pictures[i].shape[1] / pictures[i].shape[0] for i in row)
        height = min(height, max(1, int(room / aspects)))
    # Lines a thousand times as long as high can't keep their shape.
    return [_scaled(pictures[i], height, room if height > 1 else room // len(row))
            for row, room in zip(rows, rooms, strict=True) for i in row]


def _scaled(picture: np.ndarray, height: int, widest: int) -> np.ndarray:
    before, width = picture.shape[:2]
    if before == height and width <= widest:
        return picture
    width = min(widest, max(1, width * height // before))
    if height < before:
        how = cv2.INTER_AREA
    else:
        how = cv2.INTER_LINEAR if height % before else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how)


def _band(answer: Answer, width: int, size: int, left_out: int) -> PIL.Image.Image:
    """Return question, answer, confidence and bill, as wide as told and as high as they need."""
    question, reply, bill = (_Text(size, _QUESTION), _Text(size * 5 // 4, _ANSWER),
                             _Text(max(13, size * 3 // 4), _BILL))
    margin = size * 2 // 3
    room = width - 2 * margin
    asked = question.wrap(('watch: ' if answer.standing else '') + answer.prompt, room, 6)
    said = reply.wrap(answer.text, room) or ['(no answer)']
    charged = bill.wrap(_bill(answer, left_out), room)
    bar = max(6, size // 3)
    height = (len(asked) * question.line + len(said) * reply.line + bill.line + margin // 2
              + len(charged) * bill.line + 2 * margin)
    band = PIL.Image.new('RGB', (width, height), _GROUND)
    pen = ImageDraw.Draw(band)
    y = margin
    for style, lines in ((question, asked), (reply, said)):
        for line in lines:
            style.write(pen, margin, y, line)
            y += style.line
    y += margin // 2
    # Confidence as a bar and in words.
    sure = min(1.0, max(0.0, answer.confidence))
    long, middle = size * 6, y + bill.line // 2
    pen.rectangle((margin, middle - bar // 2, margin + long, middle + bar // 2), _TRACK)
    if sure:
        pen.rectangle((margin, middle - bar // 2, margin + round(sure * long), middle + bar // 2),
                      _SURE if sure >= 0.5 else _UNSURE)
    bill.write(pen, margin + long + margin, y, f'confidence {sure * 100:.0f} %')
    y += bill.line
    for line in charged:
        bill.write(pen, margin, y, line)
        y += bill.line
    return band


def _bill(answer: Answer, left_out: int) -> str:
    parts = [f'{answer.io.bytes_read / 1e6:.1f} MB read',
             f'{answer.io.importance_kept * 100:.0f} % of the importance kept',
             f'{answer.timing.total * 1e3:.0f} ms']
    if 0 < answer.io.attention_density < 1:
        parts.append(f'{answer.io.attention_density * 100:.0f} % of the attention')
    if answer.finish_reason in (Answer.FINISH_DEADLINE, Answer.FINISH_CANCELLED):
        parts.append(f'ended early: {answer.finish_reason}')
    if answer.coarse:
        parts.append('coarse')
    if left_out:
        parts.append(f'{left_out} earlier images not shown')
    about = ', '.join(filter(None, (answer.model, answer.io.policy)))
    return f'{about}: {", ".join(parts)}' if about else ', '.join(parts)


class _Text:
    """One size and colour of writing."""

    def __init__(self, size: int, colour: tuple[int, int, int]):
        self._font = _font(size)
        self._colour = colour
        self._scalable = hasattr(self._font, 'getmetrics')
        # Pixels from one line to the next.
        self.line = sum(self._font.getmetrics()) + size // 6 if self._scalable else 15

    def wrap(self, text: str, width: int, most: int = MOST_LINES) -> list[str]:
        """Break a text into lines of so many pixels; what is too long ends in an ellipsis.

        Only words that are wider than a line are broken.
        """
        text = ''.join(c if c.isprintable() else ' ' for c in text[:_MOST_CHARACTERS])
        lines, line, words = [], '', text.split()[::-1]
        while words and len(lines) < most:
            word = words.pop()
            joined = f'{line} {word}' if line else word
            if self._width(joined) <= width:
                line = joined
                continue
            words.append(word)
            if not line:
                fitting = bisect.bisect_right(
                    range(1, len(word)), width, key=lambda end, w=word: self._width(w[:end]))
                line = word[:max(1, fitting)]
                words[-1] = word[len(line):]
            lines.append(line)
            line = ''
        if line and len(lines) < most:
            lines.append(line)
        elif lines and (words or line):
            last = lines[-1]
            while last and self._width(f'{last} …') > width:
                last = last.rpartition(' ')[0] or last[:-1]
            lines[-1] = f'{last} …'.strip()
        return lines

    def write(self, pen: ImageDraw.ImageDraw, x: int, y: int, text: str):
        """Write one line; x, y [pixels] is its top left corner."""
        pen.text((x, y), self._writable(text), font=self._font, fill=self._colour)

    def _writable(self, text: str) -> str:
        # The small font knows Latin-1 and fails on anything else.
        return text if self._scalable else text.encode('latin-1', 'replace').decode('latin-1')

    def _width(self, text: str) -> float:
        text = self._writable(text)
        measure = getattr(self._font, 'getlength', None)
        return measure(text) if measure else self._font.getsize(text)[0]


@lru_cache
def _font(size: int):
    # matplotlib brings a font of many scripts, or the system's packages do with apt's matplotlib;
    # Pillow's own has Latin letters alone.
    spec = find_spec('matplotlib')
    folders = spec.submodule_search_locations if spec else ()
    for file in (*(f'{folder}/mpl-data/fonts/ttf/DejaVuSans.ttf' for folder in folders),
                 'DejaVuSans.ttf'):
        try:
            return ImageFont.truetype(file, size)
        except (OSError, ImportError):  # no such file, or Pillow without FreeType
            pass
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow before 10.1 has one small font
        return ImageFont.load_default()
