# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS image messages to RGB arrays; what a camera can get wrong is refused in one clear line.

cv_bridge does the colours where it is installed, rosbags-image otherwise. Both trust the message,
so sizes are checked, and row padding is taken off, before either sees it.
"""

from types import SimpleNamespace

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_ros.errors import RequestError

# Bytes a pixel has; the planar formats count their luma plane and are handled apart.
PIXEL_BYTES = {
    'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1, '8UC1': 1,
    'bayer_rggb8': 1, 'bayer_bggr8': 1, 'bayer_gbrg8': 1, 'bayer_grbg8': 1,
    'uyvy': 2, 'yuv422': 2, 'yuyv': 2, 'yuv422_yuy2': 2,
}
# Luma plane, then interleaved chroma at half the size; OpenCV's name for each.
PLANAR = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = (*PIXEL_BYTES, *PLANAR)
# Names that cv_bridge or rosbags-image know a format by when the message uses a younger one.
_SYNONYMS = {'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2', '8UC1': 'mono8'}


class ConversionError(RequestError):
    """An image message can't be turned into RGB."""


def _load_converter():
    try:
        from cv_bridge import CvBridge
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401
    except (ImportError, AttributeError):
        # Missing, or built against another numpy than the one installed.
        from rosbags.image import image_to_cvimage
        return 'rosbags-image', image_to_cvimage
    return 'cv_bridge', CvBridge().imgmsg_to_cv2


CONVERTER, _convert = _load_converter()


def _refuse_encoding(encoding: str):
    if '16' in encoding or '32' in encoding or '64' in encoding:
        raise ConversionError(
            f"image encoding '{encoding}' is not 8 bits a channel (a depth or raw sensor image?): "
            'publish rgb8, bgr8 or mono8')
    if encoding.startswith('8'):
        raise ConversionError(
            f"image encoding '{encoding}' doesn't say which channel is red: publish rgb8 or bgr8")
    raise ConversionError(
        f"unknown image encoding '{encoding}': publish one of {', '.join(ENCODINGS)}")


def _rows(message: Image, line: int, rows: int) -> np.ndarray:
    """Return the image's bytes without row padding, uint8 [rows, line]."""
    if message.step < line:
        raise ConversionError(
            f'image step is {message.step} bytes, but {message.width} pixels of '
            f'{message.encoding} take {line}')
    data = np.frombuffer(message.data, np.uint8)
    # The last row's padding may be left out.
    needed = message.step * (rows - 1) + line
    if data.size < needed:
        raise ConversionError(
            f'image data has {data.size} bytes, but {message.width}x{message.height} '
            f'{message.encoding} with step {message.step} takes {needed}')
    padded = np.lib.stride_tricks.as_strided(
        data, (rows, line), (message.step, 1), writeable=False)
    return np.ascontiguousarray(padded)


def _raw_to_rgb(message: Image) -> np.ndarray:
    encoding, width, height = message.encoding, message.width, message.height
    if encoding not in ENCODINGS:
        _refuse_encoding(encoding)
    if width == 0 or height == 0:
        raise ConversionError(f'image is empty ({width}x{height})')
    if encoding in PLANAR:
        if width % 2 or height % 2:
            raise ConversionError(
                f'image is {width}x{height}, but {encoding} needs an even width and height')
        return cv2.cvtColor(_rows(message, width, height * 3 // 2), PLANAR[encoding])
    if PIXEL_BYTES[encoding] == 2 and width % 2:
        raise ConversionError(f'image is {width} pixels wide, but {encoding} needs an even width')
    if encoding.startswith('bayer') and (width < 3 or height < 3):
        raise ConversionError(f'image is {width}x{height}, too small for {encoding}')
    line = width * PIXEL_BYTES[encoding]
    rows = _rows(message, line, height)
    tight = SimpleNamespace(
        height=height, width=width, encoding=_SYNONYMS.get(encoding, encoding), step=line,
        is_bigendian=0, data=rows.reshape(-1))
    return _convert(tight, 'rgb8')


def _compressed_to_rgb(message: CompressedImage) -> np.ndarray:
    described = message.format or 'no format given'
    if 'compressedDepth' in message.format:
        raise ConversionError(f"image format '{described}' is depth, not a picture")
    data = np.frombuffer(message.data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ConversionError(
            f"compressed image ('{described}', {data.size} bytes) can't be decoded")
    if image.dtype != np.uint8:
        raise ConversionError(
            f"compressed image ('{described}') has {image.dtype} channels: 8-bit colour is wanted")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(image, code)


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Convert a message to uint8 [height, width, 3], RGB.

    :raises ConversionError: unknown encoding, empty image, sizes that don't fit each other,
        undecodable data.
    """
    try:
        if isinstance(message, CompressedImage):
            return _compressed_to_rgb(message)
        return _raw_to_rgb(message)
    except ConversionError:
        raise
    except Exception as error:  # the converters raise their own kinds, OpenCV's among them
        reason = ' '.join(str(error).split())
        raise ConversionError(f'image can not be converted: {reason}') from error
