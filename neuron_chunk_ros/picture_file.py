# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A picture file as the model is to see it: upright, opaque, 8 bits a channel, the first frame.

What it would take is known from the file's size and header, before anything is decoded.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.plain_file import open_plain

MOST_BYTES = 256 << 20
MOST_PIXELS = 64 << 20  # more than cameras have; decoded, they take some 200 MB
# Formats whose decoders look at pixels alone. (Pillow hands EPS to another program.)
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'AVIF', 'JPEG2000', 'BMP', 'DIB', 'GIF', 'TIFF', 'PPM')
_WITH_ALPHA = ('RGBA', 'LA', 'PA', 'RGBa', 'La')
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Return a file's picture, uint8 [height, width, 3] RGB.

    :raises RequestError: with one line that names the file, and what is wrong with it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what is bad here is refused, not warned of
            with open_plain(path, MOST_BYTES) as file, _open(file) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise ValueError(f'{width} x {height} pixels, at most '
                                     f'{MOST_PIXELS:,} are read: make it smaller')
                pixels = _rgb(image)
                # Only now: TIFF files are turned as they are decoded, and say so then.
                turn = _UPRIGHT.get(_orientation(image))
        return np.ascontiguousarray(pixels if turn is None else np.asarray(
            Image.fromarray(pixels).transpose(turn)))
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = ' '.join(text.split()) or type(error).__name__
        raise RequestError(f'{path}: not a readable picture ({reason})') from error


def _open(file) -> Image.Image:
    Image.init()
    try:
        return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except Image.UnidentifiedImageError as error:
        raise ValueError(f'none of {", ".join(_FORMATS)}') from error


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture is one, whatever lies in the notes beside it
        return 1


def _rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 [height, width, 3]. Transparent parts are white, as on a sheet of paper."""
    image.load()
    if image.mode == 'I' or image.mode.startswith('I;16'):
        return np.repeat(_grey(np.asarray(image))[..., None], 3, axis=2)
    if image.mode == 'F':
        raise ValueError('its values are fractions, and what is white is not known: save it with '
                         '8 or 16 bits')
    if image.mode in _WITH_ALPHA or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image.convert('RGB'))


def _grey(values: np.ndarray) -> np.ndarray:
    """Return 16 bits of grey as 8."""
    if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
        raise ValueError('its values have more than 16 bits, and what is white is not known: '
                         'save it with 8 or 16 bits')
    return ((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
