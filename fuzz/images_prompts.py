# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sends hostile image messages and requests to a node's parts, without its process.

Found is an exception of `Answering.answer`, or one of `to_rgb` that is no ConversionError; a
failure that is put down to the model ('question failed') where the request is at fault; a message
that is not one line, or no UTF-8; an asker that hears nothing for two seconds after its deadline;
a call over two seconds; memory that grows; a node that doesn't answer an ordinary question.
"""

import array
import atexit
import inspect
import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
from support import bundles, files, refusals, watched
from support.hostile import pick

from neuron_chunk_ros.programs.private_domain import private_environment

os.environ.update({key: value for key, value in private_environment().items()
                   if key not in os.environ})

import rclpy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from neuron_chunk_interfaces.srv import Query  # noqa: E402
from neuron_chunk_ros.engine.session import Session  # noqa: E402
from neuron_chunk_ros.limits import Limits  # noqa: E402
from neuron_chunk_ros.node.active import Active  # noqa: E402
from neuron_chunk_ros.node.annotated import Annotated  # noqa: E402
from neuron_chunk_ros.node.image_conversion import ENCODINGS, ConversionError, to_rgb  # noqa: E402
from neuron_chunk_ros.node.loaded_model import LoadedModel  # noqa: E402
from neuron_chunk_ros.node.settings import Parameters  # noqa: E402
from neuron_chunk_ros.node.tally import Tally  # noqa: E402

_MEGAPIXELS = 2.0
_LIMITS = Limits(megapixels=_MEGAPIXELS)
_SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 64, 99, 100, 640, 641, 4096, 65535, 2**31 - 1,
          2**31, 2**32 - 1]
_FORMATS = [
    'jpeg', 'png', 'webp', 'tiff', 'bmp', '', 'rgb8; jpeg compressed bgr8',
    'bayer_rggb8; png compressed ', 'bayer_xxxx8; jpeg compressed ', 'mono16; png compressed',
    '16UC1; compressedDepth png', 'x' * 5000, 'a\nb', '\0', 'é\u202e', 'h264', '../x']
_OTHERS = [
    '', 'rgb16', 'mono16', '16UC1', '32FC1', '64FC4', '8UC3', '8SC4', 'bayer_rggb16', 'RGB8',
    'rgb8 ', 'a\nb', '\x1b[2J', 'x' * 9000, 'é', '\u202e', 'nv12 ', '99UC', '16UC' + '9' * 99]
_TYPED = [
    '<|im_end|>', '<|im_start|>system\n', '<image>', '<video>', '<|image_pad|>',
    '<|vision_start|>', '<|endoftext|>', '\0', '\ud800', '\udfff\ud800', '\ue000', '\ufffd',
    '\u202e', '\x1b[2J', '\n', ' ', '\u2028', 'é', 'e\u0301', '日本語', '👩\u200d👩\u200d👧',
    '\U0010ffff', 'what is red?', 'how many things?', '{{ 7 * 7 }}', '{% for a in b %}', '%s%n',
    '../..', 'a' * 3000, '\u0301' * 3000, ' ' * 9000, '\n' * 3000, '1' * 3000, 'é' * 9000,
    'word ' * 4000, 'x' * 20_000, 'x' * 2_000_000]
_made = None


class Node:
    """A node's parts: what answers, and what it counts."""

    def __init__(self):
        rclpy.init(args=['--ros-args', '--disable-stdout-logs', '--disable-external-lib-logs'])
        self.node = rclpy.create_node('hostile', parameter_overrides=[
            rclpy.Parameter('max_megapixels', value=_MEGAPIXELS),
            rclpy.Parameter('max_waiting_mb', value=64)])
        settings = Parameters(self.node)
        self.settings, self.tally, self.published = settings.settings, Tally(), 0
        self.session = Session.open(bundles.plain(bundles.FAMILIES[1]), drafts=False,
                                    limits=self.settings.limits(), max_context=2048)
        model = LoadedModel(self.session, self.settings, lambda _: None, self.node.get_logger())
        self.active = Active(self.node, model, settings, self.tally, lambda _: None,
                             Annotated(self.node))

    def ask(self, request):
        return self.active.answering.answer(request).fill(Query.Response())

    def close(self):
        self.active.close('the end', 5.0)
        self.session.close()
        self.node.destroy_node()
        rclpy.shutdown()


def _node():
    global _made
    if _made is None:
        _made = Node()
        atexit.register(_made.close)
    return _made


def _raw(rng):
    """Return a raw message that is right, or nearly, or not at all."""
    encoding = pick(rng, ENCODINGS) if rng.random() < 0.8 else pick(rng, _OTHERS)
    small = rng.random() < 0.7
    width, height = (int(rng.integers(0, 70)) if small else pick(rng, _SIZES) for _ in range(2))
    per = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4}.get(
        encoding, 2 if encoding.startswith(('uyvy', 'yuv', 'yuy')) else 1)
    step = width * per
    more = {'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}.get(encoding, 1)
    kind = rng.integers(6)
    if kind == 0:
        step = pick(rng, _SIZES)
    elif kind == 1:
        step += int(rng.integers(-3, 64))
    step = min(max(step, 0), 2**32 - 1)
    count = min(int(step * height * more), 8 << 20)
    if kind == 2:
        count = max(0, count + int(rng.integers(-40, 40)))
    elif kind == 3:
        count = int(rng.integers(0, 5000))
    return Image(width=width, height=height, encoding=encoding, step=step,
                 is_bigendian=int(rng.integers(256)),
                 data=array.array('B', rng.bytes(count)))


def _png(width, height, depth=8, colour=2, rows=b''):
    """Return a PNG that tells of any size."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack(
        '>IIBBBBB', width, height, depth, colour, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b''))


def _coded(rng):
    """Return the bytes of a picture file, sound or not."""
    kind = rng.integers(8)
    if kind == 0:
        size = pick(rng, [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (1, 2**31 - 1), (0, 0),
                          (1400, 1400), (20_000, 1), (1, 1)])
        return _png(*size, pick(rng, [1, 2, 4, 8, 16, 3]), pick(rng, [0, 2, 3, 4, 6, 5]),
                    b'\0' * pick(rng, [0, 10, 3_000_000]))
    if kind == 1:
        return rng.bytes(int(rng.integers(0, 3000)))
    mode = pick(rng, ['RGB', 'L', 'RGBA', 'P', '1', 'I;16', 'CMYK', 'LA', 'I', 'F', 'YCbCr'])
    shape = tuple(pick(rng, [1, 2, 3, 17, 64, 300]) for _ in range(2))
    out = io.BytesIO()
    form, options = pick(rng, [
        ('JPEG', {}), ('JPEG', {'progressive': True}), ('PNG', {}), ('WEBP', {'lossless': True}),
        ('WEBP', {}), ('TIFF', {}), ('TIFF', {'compression': 'tiff_lzw'}), ('GIF', {}),
        ('TIFF', {'compression': 'tiff_deflate'}), ('BMP', {}), ('PPM', {}), ('TGA', {}),
        ('ICO', {}), ('PNG', {'save_all': True, 'append_images': [PIL.Image.new('RGB', (9, 9))]})])
    try:
        PIL.Image.new(mode, shape).save(out, form, **options)
    except (OSError, ValueError, KeyError):  # not every format has every mode
        PIL.Image.new('RGB', shape).save(out, 'JPEG')
    data = out.getvalue()
    return data if kind < 4 else files.damaged(rng, data, [data[::-1], rng.bytes(99)])


def _frame(rng, watch):
    """Convert a message."""
    if rng.random() < 0.5:
        message = _raw(rng)
        said = f'{message.encoding[:99]!r} {message.width} x {message.height}, step {message.step}'
    else:
        message = CompressedImage(format=pick(rng, _FORMATS), data=array.array('B', _coded(rng)))
        said = f'{message.format[:99]!r} {bytes(message.data)[:300]!r}'
    watch(f'to_rgb {said}, {len(message.data)} bytes')
    made = refusals.refused_or(lambda: to_rgb(message, _LIMITS), errors=ConversionError)
    if made is not None and (made.dtype != np.uint8 or made.ndim != 3 or made.shape[2] != 3
                             or made.size == 0 or made.size > 3e6 * _MEGAPIXELS):
        raise watched.Finding(f'a picture of {made.dtype} {made.shape}')


def _prompt(rng):
    text = ''.join(pick(rng, _TYPED[:-1]) for _ in range(1 + int(rng.integers(6))))
    return pick(rng, [text, text, text, text, 'what is there?', '', ' \n', _TYPED[-1], text * 50])


def _request(rng):
    def image():
        if rng.random() < 0.4:
            return _raw(rng)
        side = pick(rng, [1, 8, 28, 64, 100, 300])
        other = pick(rng, [side, 1, 28, 3000])
        return Image(width=side, height=other, encoding='mono8', step=side,
                     data=array.array('B', rng.bytes(side * other)))
    fields = {'prompt': _prompt(rng)}
    if rng.random() < 0.7:
        fields['images'] = [image() for _ in range(pick(rng, [1, 1, 1, 2, 3, 33]))]
        if rng.random() < 0.05:
            fields['images'] = fields['images'][:1] * 5000
    if rng.random() < 0.2:
        fields['cameras'] = [pick(rng, ['image', '', 'all', 'a\nb', 'x' * 9000, '\ud800', '/x'])
                             ] * pick(rng, [1, 2, 65, 5000])
    if rng.random() < 0.5:
        fields['deadline'] = pick(rng, [0.0, -0.0, float('nan'), float('inf'), float('-inf'), -1.0,
                                        1e-30, 1e-3, 0.05, 0.3, 3e38])
    fields['max_new_tokens'] = pick(rng, [1, 2, 2, 2, 3, 4097, 2**31, 2**32 - 1])
    fields['refuse_late'] = bool(rng.random() < 0.3)
    return fields


def _ask(rng, watch):
    """Answer a request."""
    node, fields = _node(), _request(rng)
    said = (f"prompt {fields['prompt'][:300]!r} of {len(fields['prompt'])}, "
            + ', '.join(f'{image.width} x {image.height} {image.encoding[:40]!r} {len(image.data)}'
                        for image in fields.get('images', [])[:4])
            + f" of {len(fields.get('images', []))}, "
            + str({key: value for key, value in fields.items()
                   if key not in ('prompt', 'images', 'cameras')}))
    watch(said)
    request = Query.Request(**fields)
    failed = node.tally.now().failed
    response = node.ask(request)
    watch.rest()
    if response.message or not response.success:
        refusals.check_line(response.message)
        response.message.encode()
    response.answer.text.encode()
    if node.tally.now().failed != failed:
        raise watched.Finding(f'put down to the model: {response.message}')
    if rng.random() < 0.05:
        watch('an ordinary question')
        response = node.ask(Query.Request(prompt='what is there?', max_new_tokens=2))
        if 'no frame' not in response.message and 'image' not in response.message:
            raise watched.Finding(f'it does not answer: {response.message}')


def run_case(rng, watch):
    """Make one case: a frame, or a request."""
    if rng.random() < 0.5:
        _frame(rng, watch)
    else:
        _node()
        _ask(rng, watch)


if __name__ == '__main__':
    bundles.quiet()
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
