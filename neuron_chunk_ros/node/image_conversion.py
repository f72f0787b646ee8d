# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS image messages to RGB arrays; what a camera can get wrong is refused in one clear line.

cv_bridge does the colours where it is installed, rosbags-image otherwise. Both trust the message,
so sizes are checked, and row padding is taken off, before either sees it. OpenCV does the planar
formats, which neither of them knows, Pillow decodes compressed images.
"""

import io
import re
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits

# Bytes a pixel has.
PACKED = {
    'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1, '8UC1': 1,
    'bayer_rggb8': 1, 'bayer_bggr8': 1, 'bayer_gbrg8': 1, 'bayer_grbg8': 1,
    'uyvy': 2, 'yuv422': 2, 'yuyv': 2, 'yuv422_yuy2': 2,
}
# A luma plane, then interleaved chroma: lines of it per line of luma, bytes of it per luma byte
# of a line.
PLANAR = {'nv12': (0.5, 1), 'nv21': (0.5, 1), 'nv24': (1, 2)}
ENCODINGS = (*PACKED, *PLANAR)
_CODED = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM')  # of compressed images
_SCANS = 50  # of a JPEG at most; encoders make a dozen
# Names that cv_bridge or rosbags-image know a format by when the message uses a younger one.
_SYNONYMS = {'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2', '8UC1': 'mono8'}
# Y, U, V, 1 to R, G, B: BT.601 in limited range, as OpenCV has it for the other YUV formats.
_YUV_TO_RGB = np.array([
    [1.164384, 0.0, 1.596027, -222.9216],
    [1.164384, -0.391762, -0.812968, 135.5753],
    [1.164384, 2.017232, 0.0, -276.8358]])
# What image_transport calls a mosaic that it compressed without looking at the colours.
_COMPRESSED_MOSAIC = re.compile(r'(bayer_[rgb]{4}8); (?:jpeg|png) compressed ?')


class ConversionError(RequestError):
    """An image message can't be turned into RGB."""


def _load_converter():
    try:
        from cv_bridge import CvBridge
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401
        return 'cv_bridge', CvBridge().imgmsg_to_cv2
    except (ImportError, AttributeError, SystemError):
        # Missing, or built against another numpy or OpenCV than the one installed.
        from rosbags.image import image_to_cvimage
        return 'rosbags-image', image_to_cvimage


CONVERTER, _convert = _load_converter()


def _quoted(text: str) -> str:
    """Return what a message says of itself in quotes, on one line and not at any length."""
    return repr(text if len(text) <= 60 else text[:57] + '...')


def _refuse_encoding(encoding: str):
    named = f'image encoding {_quoted(encoding)}'
    if re.fullmatch('(16|32|64)[USF]C?[0-9]*', encoding):
        raise ConversionError(
            f'{named} is not a picture in 8 bits a channel (depth, or raw sensor data?): point '
            'the node at a colour topic, or publish rgb8, bgr8 or mono8')
    if encoding.endswith('16') and f'{encoding[:-2]}8' in ENCODINGS:
        raise ConversionError(f'{named} has 16 bits a channel: publish {encoding[:-2]}8')
    if encoding.startswith(('8U', '8S')):
        raise ConversionError(
            f"{named} doesn't say which channel is red: publish rgb8, bgr8 or mono8")
    raise ConversionError(f'{named} is unknown: publish one of {", ".join(ENCODINGS)}')


def _rows(message: Image, line: int, rows: int, step: int, offset: int = 0) -> np.ndarray:
    """Return rows of the image's bytes without their padding, uint8 [rows, line], read-only.

    :param step: bytes from one row to the next.
    :param offset: of the first row.
    """
    if step < line:
        raise ConversionError(
            f'image step is {message.step} bytes, but {message.width} pixels of '
            f'{message.encoding} take {line}')
    data = np.frombuffer(message.data, np.uint8)
    # The last row's padding may be left out.
    needed = offset + step * (rows - 1) + line
    if data.size < needed:
        raise ConversionError(
            f'image data has {data.size} bytes, but {message.width}x{message.height} '
            f'{message.encoding} with step {message.step} takes {needed}')
    padded = np.lib.stride_tricks.as_strided(
        data[offset:], (rows, line), (step, 1), writeable=False)
    return np.ascontiguousarray(padded)


def _planar_to_rgb(message: Image) -> np.ndarray:
    encoding, width, height = message.encoding, message.width, message.height
    lines, per_byte = PLANAR[encoding]
    if lines < 1 and (width % 2 or height % 2):
        raise ConversionError(
            f'image is {width}x{height}, but {encoding} needs an even width and height')
    lines = int(height * lines)
    step = message.step
    if len(message.data) == width * (height + lines * per_byte) and step > width:
        step = width  # some drivers count the chroma in the step: the data says there's no padding
    # The end first: sizes that don't fit are told of the image, not of one plane.
    chroma = _rows(message, width * per_byte, lines, step * per_byte, step * height)
    luma = _rows(message, width, height, step)
    if encoding == 'nv24':
        yuv = cv2.merge([luma, chroma.reshape(height, width, 2)])
        return cv2.transform(yuv, _YUV_TO_RGB)
    code = cv2.COLOR_YUV2RGB_NV12 if encoding == 'nv12' else cv2.COLOR_YUV2RGB_NV21
    return cv2.cvtColorTwoPlane(luma, chroma.reshape(lines, width // 2, 2), code)


def _packed_to_rgb(encoding: str, rows: np.ndarray) -> np.ndarray:
    """Convert uint8 [height, bytes of a line] without padding."""
    height, line = rows.shape
    width = line // PACKED[encoding]
    if encoding == 'rgb8':
        return rows.reshape(height, width, 3)
    if encoding.startswith('bayer') and (width < 3 or height < 3):
        raise ConversionError(f'image is {width}x{height}, too small for {encoding}')
    tight = SimpleNamespace(
        height=height, width=width, encoding=_SYNONYMS.get(encoding, encoding), step=line,
        is_bigendian=0, data=rows.reshape(-1))
    return _convert(tight, 'rgb8')


def _raw_to_rgb(message: Image) -> np.ndarray:
    encoding, width, height = message.encoding, message.width, message.height
    if encoding not in ENCODINGS:
        _refuse_encoding(encoding)
    if width == 0 or height == 0:
        raise ConversionError(f'image is empty ({width}x{height})')
    if encoding in PLANAR:
        return _planar_to_rgb(message)
    if PACKED[encoding] == 2 and width % 2:
        raise ConversionError(f'image is {width} pixels wide, but {encoding} needs an even width')
    rows = _rows(message, width * PACKED[encoding], height, message.step)
    return _packed_to_rgb(encoding, rows)


def _check_pixels(width: int, height: int, limits: Limits):
    if width * height > limits.megapixels * 1e6:
        raise ConversionError(f'image has {width} x {height} pixels, {limits.megapixels:g} '
                              'million are allowed (max_megapixels)')


def _decoded(data: np.ndarray, limits: Limits) -> tuple[str, np.ndarray]:
    """Return Pillow's mode of a coded image and its pixels, uint8 [height, width(, 3)].

    One library says how large it is and decodes it: what two think of a broken file may differ.
    """
    with PIL.Image.open(io.BytesIO(data), formats=_CODED) as image:
        _check_pixels(*image.size, limits)  # fifty bytes may tell of a billion pixels
        # JPEG's rotation tag is not followed, for image_transport doesn't either, and camera_info
        # is about the pixels as they lie.
        image.load()
        mode = image.mode
        if mode in ('I', 'F') or mode.startswith('I;16'):
            return mode, np.empty((0, 0), np.uint8)
        return mode, np.asarray(image if mode in ('L', 'RGB') else image.convert('RGB'))


def _compressed_to_rgb(message: CompressedImage, limits: Limits) -> np.ndarray:
    described = _quoted(message.format) if message.format else 'no format given'
    if 'compressedDepth' in message.format:
        raise ConversionError(f'image format {described} is depth, not a picture: point the node '
                              "at a colour camera's topic")
    data = np.frombuffer(message.data, np.uint8)
    _check_jpeg(data, f'compressed image ({described}, {data.size} bytes)')
    try:
        mode, pixels = _decoded(data, limits)
    except ConversionError:
        raise
    except PIL.Image.DecompressionBombError:
        _check_pixels(1 << 31, 1 << 31, limits)
    except Exception as error:  # whatever its decoders raise
        raise ConversionError(f"compressed image ({described}, {data.size} bytes) can't be "
                              'decoded: publish jpeg or png') from error
    if not pixels.size:
        raise ConversionError(f'compressed image ({described}) has more than 8 bits a channel '
                              f'({mode}): publish 8-bit colour or grey')
    if pixels.ndim == 3:
        return pixels
    mosaic = _COMPRESSED_MOSAIC.fullmatch(message.format)
    return _packed_to_rgb(mosaic[1] if mosaic and mosaic[1] in PACKED else 'mono8', pixels)


def _check_jpeg(data: np.ndarray, what: str):
    """Raise ConversionError where a JPEG's last scan has no end, or its scans are a bomb.

    Each scan of a progressive one goes through all pixels, and may take a dozen bytes.
    """
    coded = data.tobytes()
    if not coded.startswith(b'\xff\xd8'):
        return
    # Neither marker can be in a scan's own bytes; a thumbnail's lie before the last scan.
    if coded.rfind(b'\xff\xd9') < coded.rfind(b'\xff\xda'):
        raise ConversionError(f'{what} is a JPEG cut short: its end is missing')
    if (scans := coded.count(b'\xff\xda')) > _SCANS:
        raise ConversionError(f'{what} is a JPEG of {scans} scans, {_SCANS} are allowed')


def to_rgb(message: Image | CompressedImage, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Convert a message to uint8 [height, width, 3], RGB.

    The array may be a read-only view of the message's data. Transparency is dropped.

    :param limits: what is larger is refused before it is decoded.
    :raises ConversionError: unknown encoding, empty image, sizes that don't fit each other,
        undecodable data.
    """
    try:
        if isinstance(message, CompressedImage):
            return _compressed_to_rgb(message, limits)
        _check_pixels(message.width, message.height, limits)
        return _raw_to_rgb(message)
    except ConversionError:
        raise
    except Exception as error:  # the converters raise their own kinds, OpenCV's among them
        reason = ' '.join(str(error).split())
        raise ConversionError(f'image can not be converted: {reason}') from error
