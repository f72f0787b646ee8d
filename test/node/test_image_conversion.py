# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every encoding against a plain numpy reference, and every way a message can be wrong.

Tolerances: colour orders, grey and lossless files are exact; demosaicing is within 1 and YUV
within 2 of 255 (fixed-point coefficients); JPEG and lossy WebP of an even colour are within 6.
"""

import array
import io
import os
import subprocess
import sys

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.node.image_conversion import (
    ENCODINGS,
    PACKED,
    PLANAR,
    ConversionError,
    to_rgb,
)


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


ORDERS = {
    'rgb8': lambda rgb: rgb,
    'bgr8': lambda rgb: rgb[..., ::-1],
    'rgba8': lambda rgb: np.dstack([rgb, rgb[..., :1] // 2]),
    'bgra8': lambda rgb: np.dstack([rgb[..., ::-1], rgb[..., :1] // 2]),
}


@pytest.mark.parametrize('encoding', ORDERS)
@pytest.mark.parametrize('padding', [0, 1, 64])
def test_colour_order_alpha_and_row_padding(encoding, padding):
    rgb = random_rgb(7, 5)
    assert np.array_equal(to_rgb(message(encoding, ORDERS[encoding](rgb), padding)), rgb)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_size_and_padding(height, width, padding, seed):
    rgb = random_rgb(height, width, seed)
    assert np.array_equal(to_rgb(message('bgr8', rgb[..., ::-1], padding)), rgb)


def test_rgb8_without_padding_is_not_copied():
    rgb = random_rgb(4, 6)
    image = message('rgb8', rgb)
    converted = to_rgb(image)
    assert np.shares_memory(converted, np.frombuffer(image.data, np.uint8))
    assert not converted.flags.writeable


def test_byte_order_means_nothing_for_single_bytes():
    for encoding, pixels in [('bgr8', random_rgb(4, 6)), ('mono8', random_rgb(4, 6)[..., 0])]:
        image = message(encoding, pixels, 2)
        little = to_rgb(image)
        image.is_bigendian = 1
        assert np.array_equal(to_rgb(image), little)


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


def planar(encoding, padding=0, height=8, width=12):
    """Return a message of a planar format, and the picture it shows."""
    y, u, v = smooth_yuv(height, width)
    if encoding == 'nv24':  # chroma at full size, its lines twice as long as luma's
        u, v = (np.repeat(np.repeat(p, 2, 0), 2, 1) for p in (u, v))
        u[0, 1] += 9  # no two pixels need share their chroma
        reference = yuv_to_rgb(y, u, v)
    else:
        reference = yuv_to_rgb(y, *(np.repeat(np.repeat(p, 2, 0), 2, 1) for p in (u, v)))
    chroma = np.stack([v, u] if encoding == 'nv21' else [u, v], -1).reshape(len(u), -1)
    per_line = chroma.shape[1] // width
    data = (message('mono8', y.astype(np.uint8), padding).data.tobytes()
            + message('mono8', chroma.astype(np.uint8), padding * per_line).data.tobytes())
    image = Image(height=height, width=width, encoding=encoding, step=width + padding, data=data)
    return image, reference


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'nv24'])
@pytest.mark.parametrize('padding', [0, 6])
def test_planar_yuv(encoding, padding):
    image, reference = planar(encoding, padding)
    close(to_rgb(image), reference)


@pytest.mark.parametrize('encoding,share', [('nv12', 1.5), ('nv21', 2), ('nv24', 3)])
def test_planar_yuv_whose_step_counts_the_chroma(encoding, share):
    image, reference = planar(encoding)
    image.step = int(image.width * share)
    close(to_rgb(image), reference)


def test_nv24_needs_no_even_size():
    image = Image(height=1, width=3, encoding='nv24', step=3,
                  data=bytes([100, 120, 140, 110, 140, 128, 128, 150, 90]))
    reference = yuv_to_rgb(
        np.array([[100, 120, 140]]), np.array([[110, 128, 150]]), np.array([[140, 128, 90]]))
    close(to_rgb(image), reference)


def test_black_and_white_are_black_and_white_in_every_yuv_format():
    for encoding, per_pixel in [('uyvy', 2), ('yuyv', 2), ('nv12', 1.5), ('nv24', 3)]:
        for luma, level in [(16, 0), (235, 255)]:
            data = np.full(int(16 * per_pixel), 128, np.uint8)
            if per_pixel == 2:
                data[encoding == 'uyvy'::2] = luma
            else:
                data[:16] = luma
            image = Image(height=4, width=4, encoding=encoding, step=8 if per_pixel == 2 else 4,
                          data=data.tobytes())
            close(to_rgb(image), np.full((4, 4, 3), level, np.uint8), 1)


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
    tested = {*ORDERS, 'mono8', '8UC1', 'uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21',
              'nv24', *(f'bayer_{p}8' for p in ('rggb', 'bggr', 'gbrg', 'grbg'))}
    assert tested == set(ENCODINGS)


@pytest.mark.parametrize('encoding,says', [
    *((f'{e}16', f'16 bits a channel: publish {e}8') for e in (
        'mono', 'rgb', 'bgr', 'rgba', 'bgra', 'bayer_rggb', 'bayer_bggr', 'bayer_gbrg',
        'bayer_grbg')),
    *((f'{depth}C{channels}', 'point the node at a colour topic')
      for depth in ('16U', '16S', '32S', '32F', '64F') for channels in (1, 2, 3, 4)),
    ('16U', 'colour topic'), ('32FC', 'colour topic'),
    *((e, 'which channel is red') for e in (
        '8UC2', '8UC3', '8UC4', '8SC1', '8SC2', '8SC3', '8SC4', '8U')),
    *((e, 'unknown: publish one of rgb8') for e in ('', 'jpeg', 'RGB8', 'yuv420', 'foo16'))])
def test_encodings_that_mean_no_rgb_are_refused(encoding, says):
    with pytest.raises(ConversionError, match=says) as caught:
        to_rgb(Image(height=2, width=2, encoding=encoding, step=64, data=bytes(128)))
    assert repr(encoding) in str(caught.value) and '\n' not in str(caught.value)


def test_a_strange_encoding_is_named_on_one_short_line():
    with pytest.raises(ConversionError, match='unknown') as caught:
        to_rgb(Image(height=2, width=2, encoding='rgb\n8' * 1000, step=6, data=bytes(12)))
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize('change,says', [
    ({'width': 0}, 'empty'), ({'height': 0}, 'empty'), ({'step': 11}, 'step is 11'),
    ({'data': bytes(35)}, '35 bytes'), ({'data': b''}, '0 bytes'), ({'height': 4}, '36 bytes'),
    ({'width': 5}, 'step is 12'), ({'width': 2**32 - 1}, 'million'),
    ({'height': 2**32 - 1}, 'million'),
    ({'encoding': 'uyvy', 'width': 3}, 'even'), ({'encoding': 'nv12'}, 'even'),
    ({'encoding': 'nv24', 'step': 3}, 'step is 3'),
    ({'encoding': 'nv24', 'data': bytes(35)}, '35 bytes'),
    ({'encoding': 'bayer_rggb8', 'width': 2, 'height': 2}, 'too small')])
def test_sizes_that_do_not_fit_are_refused(change, says):
    wrong = Image(height=3, width=4, encoding='rgb8', step=12, data=bytes(36))
    for field, value in change.items():
        setattr(wrong, field, value)
    with pytest.raises(ConversionError, match=says) as caught:
        to_rgb(wrong)
    assert '\n' not in str(caught.value) and isinstance(caught.value, RequestError)


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('padding', [0, 5])
def test_cut_data_of_every_encoding_is_refused(encoding, padding):
    if encoding in PLANAR:
        image, _ = planar(encoding, padding)
    else:
        image = message(encoding, np.zeros((8, 12, PACKED[encoding]), np.uint8), padding)
    whole = image.data.tobytes()
    assert to_rgb(image).shape == (8, 12, 3)
    needed = len(whole) - padding * (2 if encoding == 'nv24' else 1)
    for size in (0, 1, len(whole) // 2, needed - 1):
        image.data = whole[:size]
        with pytest.raises(ConversionError, match=f'{size} bytes'):
            to_rgb(image)


NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@given(NUMBERS, NUMBERS, NUMBERS, st.one_of(st.sampled_from(ENCODINGS), st.text()),
       st.integers(0, 255), st.binary(max_size=200), st.integers(0, 50))
@settings(max_examples=400, deadline=None)
def test_any_message_is_a_picture_or_refused(
        height, width, step, encoding, bigendian, data, repeats):
    data = array.array('B', data * repeats)
    image = Image(height=height, width=width, step=step, encoding=encoding,
                  is_bigendian=bigendian, data=data)
    try:
        converted = to_rgb(image)
    except ConversionError as error:
        assert '\n' not in str(error)
    else:
        assert converted.dtype == np.uint8 and converted.shape == (height, width, 3)


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


def by_pillow(picture, kind, described='', **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return CompressedImage(format=described, data=file.getvalue())


@pytest.mark.parametrize('extension,channels', [
    ('.png', 3), ('.png', 1), ('.tiff', 3), ('.tiff', 1), ('.bmp', 3), ('.bmp', 1), ('.ppm', 3),
    ('.pgm', 1), ('.webp', 3)])
def test_lossless_files_are_exact(extension, channels):
    rgb = random_rgb(9, 11)
    if channels == 1:
        rgb = np.repeat(rgb[..., :1], 3, 2)
    image = compressed(np.ascontiguousarray(rgb[..., ::-1][..., :channels]), extension, 'any')
    assert np.array_equal(to_rgb(image), rgb)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'L', 'P', '1'])
def test_every_kind_of_png(mode):
    picture = PIL.Image.fromarray(random_rgb(9, 11)).convert(mode)
    if mode in ('RGBA', 'LA'):
        picture.putalpha(0)  # what is hidden is still there
    reference = np.asarray(picture.convert('RGB'))
    assert np.array_equal(to_rgb(by_pillow(picture, 'PNG')), reference)


def test_rotation_tag_is_not_followed():
    # As image_transport decodes: camera_info speaks of the pixels as they lie in the file.
    tag = PIL.Image.Exif()
    tag[0x0112] = 6
    image = by_pillow(PIL.Image.new('RGB', (32, 16), (200, 40, 90)), 'JPEG', exif=tag)
    assert to_rgb(image).shape == (16, 32, 3)


@pytest.mark.parametrize('described', [
    'jpeg', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8', ''])
def test_compressed_jpeg_keeps_its_colours(described):
    rgb = np.empty((32, 32, 3), np.uint8)
    rgb[:] = (200, 40, 90)
    close(to_rgb(compressed(rgb[..., ::-1], '.jpg', described)), rgb, 6)
    close(to_rgb(by_pillow(PIL.Image.fromarray(rgb), 'JPEG', described, progressive=True)), rgb, 6)
    close(to_rgb(by_pillow(PIL.Image.fromarray(rgb), 'WEBP', 'webp')), rgb, 6)


@pytest.mark.parametrize('described', [
    'mono8; jpeg compressed mono8', 'bayer_rggb8; jpeg compressed mono8', 'jpeg'])
def test_compressed_grey_jpeg(described):
    grey = np.full((32, 32), 77, np.uint8)
    close(to_rgb(compressed(grey, '.jpg', described)), np.full((32, 32, 3), 77, np.uint8), 1)


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_compressed_mosaic_gets_its_colours(pattern):
    # image_transport compresses a mosaic as PNG without demosaicing it.
    raw, channel = mosaic(random_rgb(10, 14), pattern)
    image = to_rgb(compressed(raw, '.png', f'bayer_{pattern}8; png compressed '))
    close(image[1:-1, 1:-1], np.rint(bilinear(raw, channel)).astype(np.uint8), 1)


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp', '.tiff', '.bmp'])
def test_cut_files_are_refused(extension):
    rgb = cv2.resize(random_rgb(6, 8), (96, 64))
    whole = compressed(rgb, extension, 'x').data.tobytes()
    for kept in (1, 2, 3, 20, len(whole) // 4, len(whole) // 2, len(whole) - 30):
        with pytest.raises(ConversionError, match="can't be decoded|cut short"):
            to_rgb(CompressedImage(format='x', data=whole[:kept]))


def test_jpeg_with_a_thumbnail_is_whole_only_with_its_own_end():
    rgb = np.full((64, 64, 3), 120, np.uint8)
    thumbnail, whole = (cv2.imencode('.jpg', p)[1].tobytes() for p in (rgb[:16, :16], rgb))
    segment = b'Exif\0\0' + thumbnail
    segment = b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment
    image = CompressedImage(format='jpeg', data=whole[:2] + segment + whole[2:] + bytes(100))
    close(to_rgb(image), rgb, 2)
    image.data = whole[:2] + segment + whole[2:-2]
    with pytest.raises(ConversionError, match='JPEG cut short'):
        to_rgb(image)


@given(st.sampled_from(['.jpg', '.png', '.webp', '.bmp']), st.text(max_size=30),
       st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_file_is_a_picture_or_refused(extension, described, changes):
    data = bytearray(compressed(random_rgb(6, 8), extension, '').data.tobytes())
    for place, rubbish in changes:
        start = int(place * len(data))
        data[start:start + len(rubbish)] = rubbish
    try:
        converted = to_rgb(CompressedImage(format=described, data=bytes(data)))
    except ConversionError as error:
        assert '\n' not in str(error)
    else:
        assert converted.dtype == np.uint8 and converted.shape[2] == 3


LYING = """
import sys, warnings
from sensor_msgs.msg import CompressedImage
from neuron_chunk_ros.node.image_conversion import ConversionError, to_rgb
from neuron_chunk_ros.node.process_memory import resident_mib

warnings.simplefilter('ignore')
files = [open(path, 'rb').read() for path in sys.argv[1:]]
for file in files:
    to_rgb(CompressedImage(data=file))
(_, before), refused = resident_mib(), 0
for file in files:
    for at in range(0, min(len(file) - 4, 400)):
        for order in 'big', 'little':
            lies = file[:at] + (0x2fffffff).to_bytes(4, order) + file[at + 4:]
            try:
                to_rgb(CompressedImage(data=lies))
            except ConversionError:
                refused += 1
assert refused > 100 * len(files), refused
print(resident_mib()[1] - before)
"""


def test_no_length_in_a_file_is_believed(tmp_path):
    """As large as a file says one of its parts is, memory for it must not be."""
    picture, second = (PIL.Image.fromarray(random_rgb(9, 11)) for _ in range(2))
    files = []
    for kind, options in [('JPEG', {}), ('PNG', {}), ('WEBP', {}), ('BMP', {}), ('TIFF', {}),
                          ('TIFF', {'compression': 'tiff_deflate'}), ('PPM', {}),
                          ('PNG', {'save_all': True, 'append_images': [second]}),
                          ('WEBP', {'save_all': True, 'append_images': [second]})]:
        files.append(tmp_path / f'{len(files)}')
        picture.save(files[-1], kind, **options)
    done = subprocess.run([sys.executable, '-c', LYING, *files], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64


def test_a_jpeg_of_a_thousand_scans_is_refused():
    """A scan that says nothing new takes a dozen bytes and goes through all pixels."""
    whole = by_pillow(PIL.Image.fromarray(random_rgb(64, 64)), 'JPEG', progressive=True)
    data = whole.data.tobytes()
    last = data[data.rfind(b'\xff\xda'):-2]
    assert to_rgb(whole).shape == (64, 64, 3)
    whole.data = data[:-2] + 1000 * last + data[-2:]
    with pytest.raises(ConversionError, match='scans, 50 are allowed'):
        to_rgb(whole)


def test_colours_of_16_bits_keep_the_upper_eight():
    deep = np.random.default_rng(2).integers(0, 1 << 16, (5, 7, 3), np.uint16)
    image = compressed(np.ascontiguousarray(deep[..., ::-1]), '.png', 'rgb16; png compressed ')
    assert np.array_equal(to_rgb(image), deep >> 8)


def test_compressed_that_is_no_picture_is_refused():
    depth = np.full((4, 4), 1000, np.uint16)
    for wrong, says in [
            (CompressedImage(format='jpeg', data=b''), "can't be decoded"),
            (CompressedImage(format='jpeg', data=b'not a jpeg'), "can't be decoded"),
            (compressed(depth, '.png', '16UC1; png compressed '), '8 bits'),
            (compressed(depth, '.png', '16UC1; compressedDepth png'), 'depth')]:
        with pytest.raises(ConversionError, match=says) as caught:
            to_rgb(wrong)
        assert repr(wrong.format) in str(caught.value)


@pytest.mark.parametrize('error', ['SystemError', 'AttributeError', 'ImportError'])
def test_a_cv_bridge_that_does_not_load_is_done_without(tmp_path, error):
    # How one fails that was built against another numpy depends on versions.
    package = tmp_path / 'cv_bridge' / 'boost'
    package.mkdir(parents=True)
    (package.parent / '__init__.py').write_text('class CvBridge: pass')
    (package / '__init__.py').touch()
    (package / 'cv_bridge_boost.py').write_text(f'raise {error}("numpy")')
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get('PYTHONPATH'))))
    told = subprocess.run(
        [sys.executable, '-c', 'from neuron_chunk_ros.node.image_conversion import CONVERTER; '
         'print(CONVERTER)'], env={**os.environ, 'PYTHONPATH': path}, capture_output=True,
        text=True, check=True)
    assert told.stdout.strip() == 'rosbags-image'
