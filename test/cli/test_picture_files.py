# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as files have them: upright, of the right brightness, opaque; bad ones in one line."""

import io
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from PIL import Image

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.picture_file import MOST_PIXELS, read_picture

RED, BLUE = (250, 10, 10), (10, 10, 250)


def corners():
    """Return a picture that looks different from each side: red corner, blue edge."""
    picture = np.full((24, 40, 3), 200, np.uint8)
    picture[:8, :8], picture[16:] = RED, BLUE
    return picture


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('orientation', range(0, 10))
def test_upright(tmp_path, kind, orientation):
    """A camera that is held sideways stores what it sees so, and says so."""
    turned = {2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
              5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, 1),
              7: lambda p: p[::-1, ::-1].transpose(1, 0, 2), 8: lambda p: np.rot90(p, -1)}
    stored = turned.get(orientation, lambda p: p)(corners())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'jpg': {'quality': 95, 'subsampling': 0}, 'webp': {'lossless': True}}.get(kind, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f'p.{kind}', exif=exif,
                                                       **options)
    found = read_picture(tmp_path / f'p.{kind}')
    assert found.shape == (24, 40, 3) and found.flags.c_contiguous
    assert np.abs(found.astype(int) - corners()).max() <= (12 if kind == 'jpg' else 0)


def test_notes_beside_a_picture_that_are_broken(tmp_path):
    Image.fromarray(corners()).save(tmp_path / 'p.png', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
    assert (read_picture(tmp_path / 'p.png') == corners()).all()


def png(rows, width, height, depth, colour, more=b''):
    """Return a PNG file of raw rows, which Pillow itself can't write for all types."""
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    raw = b''.join(b'\0' + row for row in rows)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack(
        '>IIBBBBB', width, height, depth, colour, 0, 0, 0)) + more
        + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))


def ramp(channels, most):
    """Return a 16-bit ramp from black to `most`, [4, 256, channels]."""
    line = np.linspace(0, most, 256).astype('>u2')
    return np.repeat(np.repeat(line[None, :, None], 4, 0), channels, 2)


@pytest.mark.parametrize('colour, channels', [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits(tmp_path, colour, channels):
    """Grey, RGB, and both with alpha: half as bright is half as bright."""
    values = ramp(channels, 65535)
    if channels in (2, 4):
        values[..., -1] = 65535
    (tmp_path / 'p.png').write_bytes(png([row.tobytes() for row in values], 256, 4, 16, colour))
    found = read_picture(tmp_path / 'p.png').astype(int)
    assert np.abs(found - (ramp(1, 65535).astype(int) / 257)).max() <= 1


@pytest.mark.parametrize('name', ['p.tif', 'p.png', 'p.pgm'])
def test_sixteen_bits_of_grey(tmp_path, name):
    values = ramp(1, 65535)[..., 0].astype(np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    found = read_picture(tmp_path / name).astype(int)
    assert np.abs(found - (values.astype(int) / 257)[..., None]).max() <= 1


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'YCbCr', 'LA', 'RGBA'])
@pytest.mark.parametrize('kind', ['png', 'tif', 'jpg', 'gif', 'webp', 'bmp'])
def test_modes(tmp_path, mode, kind):
    """Whatever a format can hold of them: black is black, white is white, red is red."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, 16:32], picture[:, 32:] = 255, RED
    image = Image.fromarray(picture).convert('RGB')
    if mode == 'P':
        image = image.quantize(8)
    elif mode == '1':
        image = image.convert('L').point(lambda v: 255 * (v > 60)).convert('1')
    else:
        image = image.convert(mode)
    try:
        image.save(tmp_path / f'p.{kind}')
    except (OSError, ValueError) as reason:
        assert 'mode' in str(reason)
        return  # the format has none
    found = read_picture(tmp_path / f'p.{kind}').astype(int)
    assert found.shape == (32, 48, 3)
    assert (found[8:24, 4:12] < 30).all() and (found[8:24, 20:28] > 225).all()
    if mode not in ('1', 'L', 'LA'):
        assert np.abs(found[8:24, 36:44] - RED).max() < 40


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA', 'P', 'L', 'RGB'])
def test_transparent_is_white(tmp_path, mode):
    """Not the colour that lies beneath, which nobody was meant to see."""
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[..., 3] = 255
    picture[:4, :, 3] = 0
    image = Image.fromarray(picture)
    options = {}
    if mode in ('P', 'L', 'RGB'):
        picture[:4, :, :3] = 7
        image = Image.fromarray(picture[..., :3])
        image = image.convert(mode) if mode != 'P' else image.quantize(2)
        hidden = image.getpixel((0, 0))
        options = {'transparency': hidden}
    elif mode != 'RGBA':
        image = image.convert('LA')
    image.save(tmp_path / 'p.png', **options)
    found = read_picture(tmp_path / 'p.png')
    assert (found[:4] == 255).all() and (found[4:] < 9).all()


@pytest.mark.parametrize('kind', ['gif', 'webp', 'png', 'tif'])
def test_the_first_of_several_frames(tmp_path, kind):
    frames = [Image.new('RGB', (20, 10), colour) for colour in (RED, BLUE, (0, 0, 0))]
    frames[0].save(tmp_path / f'p.{kind}', save_all=True, append_images=frames[1:], duration=40,
                   **({'lossless': True} if kind == 'webp' else {}))
    assert np.abs(read_picture(tmp_path / f'p.{kind}').astype(int) - RED).max() < 8


def whole_files():
    for kind in ('png', 'jpeg', 'webp', 'gif', 'tiff', 'bmp', 'ppm'):
        data = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
                        ).save(data, kind)
        yield kind, data.getvalue()


@pytest.mark.parametrize('kind, data', whole_files(), ids=[kind for kind, _ in whole_files()])
def test_broken_files_are_one_line(tmp_path, kind, data):
    """Cut short anywhere, or with bytes changed: a picture, or one line that names the file."""
    path, rng = tmp_path / f'p.{kind}', random.Random(kind)
    cut = [data[:at] for at in (0, 1, 8, len(data) // 4, len(data) // 2)]
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(min(len(data), 300))] = rng.randrange(256)
        cut.append(bytes(changed))
    for number, broken in enumerate(cut):
        path.write_bytes(broken)
        try:
            picture = read_picture(path)
        except RequestError as error:
            line = str(error)
            assert line.startswith(f'{path}: not a readable picture (') and '\n' not in line
            continue
        assert number >= 5 and picture.dtype == np.uint8 and picture.shape[2] == 3


BOMBS = {
    'png': png([], 20_000, 20_000, 8, 2),
    'wide': png([], 2**31 - 1, 1, 1, 0),
    'webp': bytes.fromhex('524946462a0000005745425056503820') + struct.pack('<I', 30)
            + b'\x30\x01\x00\x9d\x01\x2a' + struct.pack('<HH', 16383, 16383) + bytes(20),
    'gif': b'GIF89a' + struct.pack('<HH', 65535, 65535) + b'\x00\x00\x00,' + struct.pack(
        '<HHHHB', 0, 0, 65535, 65535, 0) + b'\x02\x02\x4c\x01\x00;',
    'ppm': b'P6 100000 100000 255\n',
    'bmp': b'BM' + struct.pack('<IIIIIiiHHIIIIII', 54, 0, 54, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
                               )[:12] + struct.pack('<IiiHHIIiiII', 40, 50_000, 50_000, 1, 24, 0,
                                                    0, 0, 0, 0, 0),
}


@pytest.mark.parametrize('kind', BOMBS)
def test_huge_pictures_are_refused_by_their_header(tmp_path, kind):
    """A small file that would be gigabytes: refused with the numbers, nothing is taken for it."""
    path = tmp_path / f'p.{kind}'
    path.write_bytes(BOMBS[kind])
    code = ('import sys; from neuron_chunk_ros.picture_file import read_picture\n'
            'from neuron_chunk_ros.errors import RequestError\n'
            'try: read_picture(sys.argv[1]); print("taken")\n'
            'except RequestError as error: print(error)\n'
            'print(next(line.split()[1] for line in open("/proc/self/status")\n'
            '           if line.startswith("VmHWM")))')
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True,
                          timeout=60)
    line, peak = done.stdout.splitlines()
    assert 'pixels' in line and str(path) in line, line
    assert int(peak) < 200 << 10  # KiB, Python, numpy and Pillow among them


def test_just_not_too_large(tmp_path):
    side = int(MOST_PIXELS ** 0.5)
    (tmp_path / 'p.png').write_bytes(png([bytes(side // 8)] * side, side, side, 1, 0))
    assert read_picture(tmp_path / 'p.png').shape == (side, side, 3)


@pytest.mark.parametrize('thing', ['fifo', 'folder', '/dev/zero', '/dev/null', 'link', 'gone',
                                   'large', 'socket'])
def test_what_is_no_file(tmp_path, thing):
    path = tmp_path / 'p.png'
    if thing == 'fifo':
        os.mkfifo(path)
    elif thing == 'folder':
        path.mkdir()
    elif thing == 'link':
        path.symlink_to('/dev/zero')
    elif thing == 'large':
        with open(path, 'wb') as file:
            file.truncate(3 << 30)
    elif thing == 'socket':
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif thing.startswith('/'):
        path = Path(thing)
    with pytest.raises(RequestError) as error:
        read_picture(path)
    assert str(error.value).startswith(f'{path}: not a readable picture (')
    words = {'gone': 'No such file', 'folder': 'Is a directory', 'socket': 'No such device',
             'large': '3,221,225,472 bytes long, at most 268,435,456 are read'}
    assert words.get(thing, 'not a regular file') in str(error.value)


def test_no_program_is_run_for_a_picture(tmp_path):
    """Pillow would hand PostScript to Ghostscript."""
    (tmp_path / 'p.eps').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n')
    with pytest.raises(RequestError, match='none of PNG, JPEG'):
        read_picture(tmp_path / 'p.eps')


def fill(folder):
    """Fill a folder with three good pictures among bad ones of each sort."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name in ('c.png', 'm.jpg', 'z.png'):
        Image.fromarray(noise).save(folder / name)
    (folder / 'd.png').write_bytes((folder / 'c.png').read_bytes()[:300])
    (folder / 'e.png').write_bytes(BOMBS['png'])
    Image.new('RGB', (3000, 2)).save(folder / 'f.png')
    os.mkfifo(folder / 'g.png')
    (folder / 'h.png').symlink_to('/dev/zero')
    (folder / 'i.txt').write_text('words')
    (folder / 'sub').mkdir()
    return folder


def test_a_folder_goes_on_without_them(tiny_models, tiny_bundles, tmp_path):
    folder = fill(tmp_path / 'pictures')
    bundle = shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle')
    model, characterize = tiny_models['tiny-qwen2-vl'], ('attention', 'characterize', bundle)
    for command in (('calibrate', bundle),
                    (*characterize, '--counts=2', '--samples=2', '--tolerance=1'),
                    ('compress', model, tmp_path / 'out', '--recipe=int8')):
        done = run(*command, '--images', folder)
        assert done.returncode == 0, done.stderr
        assert 'note: 6 of 9 files were left out, the first: ' in done.stderr
        assert f'{folder}/d.png: not a readable picture (' in done.stderr
        assert done.stderr.count('\n') == 1
    # A family that takes thin ones keeps it.
    other = shutil.copytree(tiny_bundles['tiny-llava-onevision'], tmp_path / 'other')
    assert '5 of 9 files' in run('calibrate', other, '--images', folder).stderr


def test_a_folder_of_none(tiny_bundles, tmp_path):
    folder = fill(tmp_path / 'pictures')
    for name in ('c.png', 'm.jpg', 'z.png'):
        (folder / name).unlink()
    line = refused('calibrate', tiny_bundles['tiny-qwen2-vl'], '--images', folder)
    assert 'none of the pictures can be read' in line
    assert f'(the first of 6: {folder}/d.png' in line


def test_questions_about_bad_pictures_are_refused_first(tiny_models, tmp_path):
    """Not after an hour of compressing."""
    folder = fill(tmp_path / 'pictures')
    for name in ('d.png', 'e.png', 'f.png', 'g.png', 'h.png'):
        questions = tmp_path / 'questions.jsonl'
        questions.write_text(json.dumps({'prompt': '?', 'answer': 'x',
                                         'images': [f'pictures/{name}']}))
        line = refused('compress', tiny_models['tiny-qwen2-vl'], tmp_path / 'out', '--recipe',
                       'int8', '--images', folder, '--questions', questions)
        assert str(folder / name) in line, line


def test_ask_names_the_file(tiny_bundles, tmp_path):
    folder = fill(tmp_path / 'pictures')
    for name in ('d.png', 'e.png', 'g.png', 'h.png', 'i.txt', 'sub', 'gone.png'):
        for command in (['ask', tiny_bundles['tiny-qwen2-vl'], 'what?'],
                        ['trace', tiny_bundles['tiny-qwen2-vl'], '--out', tmp_path / 't.json']):
            assert str(folder / name) in refused(*command, '--image', folder / name)
    line = refused('ask', tiny_bundles['tiny-qwen2-vl'], 'what?', '--image', folder / 'f.png')
    assert '3000 x 2 pixels' in line and '200 times' in line


