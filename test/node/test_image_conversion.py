# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every encoding against a plain numpy reference, and every way a message can be wrong."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.node.image_conversion import ENCODINGS, ConversionError, to_rgb


def message(encoding, pixels, padding=0):
    """Make a message of uint8 [height, width * bytes], each row padded with rubbish."""
    rows, line = pixels.shape[0], int(np.prod(pixels.shape[1:]))
    padded = np.full((rows, line + padding), 201, np.uint8)
    padded[:, :line] = pixels.reshape(rows, line)
    per_pixel = pixels.shape[2] if pixels.ndim == 3 else 1
    return Image(height=rows, width=line // per_pixel, encoding=encoding, step=line + padding,
                 data=padded.tobytes())


def random_rgb(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_yuv(height, width):
    """Y [height, width] and U, V [height // 2, width // 2] without extremes, float."""
    rng = np.random.default_rng(3)
    chroma = rng.integers(100, 156, (2, height // 2, width // 2))
    return rng.integers(60, 190, (height, width)), *chroma


def yuv_to_rgb(y, u, v):
    """ITU-R BT.601, limited range: planes of one size to uint8 [height, width, 3]."""
    y, u, v = (1.164 * (y - 16.0), u - 128.0, v - 128.0)
    rgb = np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def close(image, reference, tolerance=2):
    assert image.dtype == np.uint8 and image.shape == reference.shape
    assert np.abs(image.astype(int) - reference.astype(int)).max() <= tolerance


PACKED = {
    'rgb8': lambda rgb: rgb,
    'bgr8': lambda rgb: rgb[..., ::-1],
    'rgba8': lambda rgb: np.dstack([rgb, rgb[..., :1] // 2]),
    'bgra8': lambda rgb: np.dstack([rgb[..., ::-1], rgb[..., :1] // 2]),
}


@pytest.mark.parametrize('encoding', PACKED)
@pytest.mark.parametrize('padding', [0, 1, 64])
def test_colour_order_alpha_and_row_padding(encoding, padding):
    rgb = random_rgb(7, 5)
    assert np.array_equal(to_rgb(message(encoding, PACKED[encoding](rgb), padding)), rgb)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_size_and_padding(height, width, padding, seed):
    rgb = random_rgb(height, width, seed)
    assert np.array_equal(to_rgb(message('bgr8', rgb[..., ::-1], padding)), rgb)


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_becomes_three_equal_channels(encoding):
    grey = random_rgb(6, 9)[..., 0]
    assert np.array_equal(to_rgb(message(encoding, grey, 3)), np.dstack([grey] * 3))


@pytest.mark.parametrize('encoding,order', [
    ('uyvy', (1, 0, 3, 2)), ('yuv422', (1, 0, 3, 2)),
    ('yuyv', (0, 1, 2, 3)), ('yuv422_yuy2', (0, 1, 2, 3))])
def test_packed_yuv(encoding, order):
    y, u, v = smooth_yuv(8, 12)
    u, v = np.repeat(u, 2, 0), np.repeat(v, 2, 0)
    yuyv = np.stack([y[:, 0::2], u, y[:, 1::2], v], -1).astype(np.uint8)  # [8, 6, 4]
    packed = yuyv[..., list(order)].reshape(8, 12, 2)
    reference = yuv_to_rgb(y, np.repeat(u, 2, 1), np.repeat(v, 2, 1))
    close(to_rgb(message(encoding, packed, 4)), reference)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
@pytest.mark.parametrize('padding', [0, 6])
def test_planar_yuv(encoding, padding):
    y, u, v = smooth_yuv(8, 12)
    chroma = np.stack([u, v] if encoding == 'nv12' else [v, u], -1).reshape(4, 12)
    planes = message(encoding, np.vstack([y, chroma]).astype(np.uint8), padding)
    planes.height = 8
    reference = yuv_to_rgb(y, *(np.repeat(np.repeat(p, 2, 0), 2, 1) for p in (u, v)))
    close(to_rgb(planes), reference)


def mosaic(rgb, pattern):
    """What a sensor with this 2x2 colour filter sees, and which pixels see which channel."""
    channel = np.tile(np.array(['rgb'.index(c) for c in pattern]).reshape(2, 2),
                      (rgb.shape[0] // 2, rgb.shape[1] // 2))
    return np.take_along_axis(rgb, channel[..., None], 2)[..., 0], channel


def bilinear(raw, channel):
    """Each colour as the mean of its nearest sensors: the pixel's own, else those around it."""
    height, width = raw.shape
    out = np.zeros((height, width, 3))
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            around = (slice(row - 1, row + 2), slice(column - 1, column + 2))
            for k in range(3):
                if channel[row, column] == k:
                    out[row, column, k] = raw[row, column]
                else:
                    out[row, column, k] = raw[around][channel[around] == k].mean()
    return out[1:-1, 1:-1]


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer(pattern):
    raw, channel = mosaic(random_rgb(10, 14), pattern)
    image = to_rgb(message(f'bayer_{pattern}8', raw, 2))
    assert image.shape == (10, 14, 3)
    close(image[1:-1, 1:-1], np.rint(bilinear(raw, channel)).astype(np.uint8), 1)


def test_every_encoding_is_covered_here():
    tested = {*PACKED, 'mono8', '8UC1', 'uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21',
              *(f'bayer_{p}8' for p in ('rggb', 'bggr', 'gbrg', 'grbg'))}
    assert tested == set(ENCODINGS)


@pytest.mark.parametrize('encoding,says', [
    ('mono16', '8 bits'), ('rgb16', '8 bits'), ('16UC1', '8 bits'), ('32FC1', '8 bits'),
    ('bayer_rggb16', '8 bits'), ('8UC3', 'which channel'), ('', 'unknown'), ('jpeg', 'unknown'),
    ('RGB8', 'unknown')])
def test_encodings_that_mean_no_rgb_are_refused(encoding, says):
    with pytest.raises(ConversionError, match=says):
        to_rgb(Image(height=2, width=2, encoding=encoding, step=6, data=bytes(12)))


@pytest.mark.parametrize('change,says', [
    ({'width': 0}, 'empty'), ({'height': 0}, 'empty'), ({'step': 11}, 'step is 11'),
    ({'data': bytes(35)}, '35 bytes'), ({'data': b''}, '0 bytes'), ({'height': 4}, '36 bytes'),
    ({'width': 5}, 'step is 12'), ({'width': 2**32 - 1}, 'step'), ({'height': 2**32 - 1}, 'data'),
    ({'encoding': 'uyvy', 'width': 3}, 'even'), ({'encoding': 'nv12'}, 'even'),
    ({'encoding': 'bayer_rggb8', 'width': 2, 'height': 2}, 'too small')])
def test_sizes_that_do_not_fit_are_refused(change, says):
    wrong = Image(height=3, width=4, encoding='rgb8', step=12, data=bytes(36))
    for field, value in change.items():
        setattr(wrong, field, value)
    with pytest.raises(ConversionError, match=says) as caught:
        to_rgb(wrong)
    assert '\n' not in str(caught.value) and isinstance(caught.value, RequestError)


def test_surplus_data_is_ignored_and_last_padding_may_be_missing():
    rgb = random_rgb(3, 4)
    surplus = message('rgb8', rgb)
    surplus.data = surplus.data.tobytes() + b'more'
    assert np.array_equal(to_rgb(surplus), rgb)
    short = message('rgb8', rgb, 5)
    short.data = short.data.tobytes()[:-5]
    assert np.array_equal(to_rgb(short), rgb)


def compressed(pixels, extension, described):
    return CompressedImage(
        format=described, data=cv2.imencode(extension, pixels)[1].tobytes())


def test_compressed_png_is_exact_whatever_its_channels():
    rgb = random_rgb(9, 11)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    assert np.array_equal(to_rgb(compressed(bgr, '.png', 'png')), rgb)
    bgra = np.dstack([bgr, bgr[..., 0]])
    assert np.array_equal(to_rgb(compressed(bgra, '.png', 'rgba8; png compressed ')), rgb)
    grey = rgb[..., 0].copy()
    assert np.array_equal(to_rgb(compressed(grey, '.png', 'png')), np.dstack([grey] * 3))


@pytest.mark.parametrize('described', ['jpeg', 'rgb8; jpeg compressed bgr8', ''])
def test_compressed_jpeg_keeps_its_colours(described):
    rgb = np.empty((32, 32, 3), np.uint8)
    rgb[:] = (200, 40, 90)
    close(to_rgb(compressed(rgb[..., ::-1], '.jpg', described)), rgb, 6)


def test_compressed_that_is_no_picture_is_refused():
    depth = np.full((4, 4), 1000, np.uint16)
    for wrong, says in [
            (CompressedImage(format='jpeg', data=b''), "can't be decoded"),
            (CompressedImage(format='jpeg', data=b'not a jpeg'), "can't be decoded"),
            (compressed(depth, '.png', '16UC1; png compressed '), 'uint16'),
            (compressed(depth, '.png', '16UC1; compressedDepth png'), 'depth')]:
        with pytest.raises(ConversionError, match=says):
            to_rgb(wrong)
