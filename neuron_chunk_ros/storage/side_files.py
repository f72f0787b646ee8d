# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The files beside a model's weights: config, tokenizer, processors, chat template.

Nobody vouches for them. Only regular files of bounded size are read, of a bundle only those that
bundle.json lists, as it lists them, and never code. transformers, which reads whatever it finds in
a folder, is given a folder of ours with copies of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from neuron_chunk_ros.errors import BundleError, ModelError, NeuronChunkError
from neuron_chunk_ros.plain_file import read_plain
from neuron_chunk_ros.storage import disk_errors
from neuron_chunk_ros.storage.layout import BUNDLE_JSON
from neuron_chunk_ros.storage.manifest import inside, is_plain_name
from neuron_chunk_ros.storage.strict_json import parse_object, printable

_MIB = 1 << 20
# Only these grow with the vocabulary; the others are small in any model.
_LARGE = ('tokenizer.json', 'vocab.json', 'vocab.txt', 'merges.txt')
_SMALL_BYTES = 4 * _MIB
# What transformers would take from a settings file: code to run, files to read.
_LEADS_AWAY = ('auto_map', 'custom_pipelines', 'name_or_path', '_name_or_path')


class SideFiles:
    """A model folder's small files by name, read when asked for."""

    def __init__(self, folder: Path, checksums: dict[str, str | None],
                 error: type[NeuronChunkError], largest_mb: int = 64):
        """Use `of_bundle` or `of_model`.

        :param checksums: name -> sha256; None where nobody recorded it.
        :param largest_mb: that a file may have [MiB].
        """
        self.folder, self._checksums, self._error = Path(folder), checksums, error
        self._largest = largest_mb * _MIB

    @classmethod
    def of_bundle(cls, bundle, largest_mb: int = 64) -> SideFiles:
        """Those an opened Bundle lists."""
        return cls(bundle.path, bundle.files, BundleError, largest_mb)

    @classmethod
    def of_model(cls, folder: str | os.PathLike, largest_mb: int = 64) -> SideFiles:
        """Those of a Hugging Face folder. Raises ModelError."""
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise ModelError(f'{folder}: {error.strerror}') from error
        # Logs and the like may be of any size: what isn't taken along isn't missed.
        return cls(folder, {name: None for name in names if is_side_file(name)
                            and (path := Path(folder) / name).is_file()
                            and (_may_be_large(name) or path.stat().st_size <= _SMALL_BYTES)},
                   ModelError, largest_mb)

    @staticmethod
    def unlisted(bundle) -> list[str]:
        """Return the names of files beside a bundle's that look like its own but are not."""
        return sorted(name for name in os.listdir(bundle.path)
                      if is_side_file(name) and name not in bundle.checksums)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checksums)

    def __contains__(self, name: str) -> bool:
        return name in self._checksums

    @property
    def nbytes(self) -> int:
        """Bytes of all, as far as they are there."""
        return sum(path.stat().st_size for name in self if (path := self.folder / name).exists())

    def failure(self, name: str, reason: str) -> NeuronChunkError:
        """Return the error that says what is wrong with a file."""
        return self._error(f'{self.folder / name}: {printable(reason)}')

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises BundleError or ModelError naming it."""
        checksum = self._checksums.get(name)
        try:
            path = self.folder / name if checksum is None else inside(self.folder, name)
            limit = self._largest if _may_be_large(name) else min(self._largest, _SMALL_BYTES)
            data = read_plain(path, limit)
        except OSError as error:
            raise self.failure(name, error.strerror) from error
        except ValueError as error:
            raise self.failure(name, str(error)) from error
        if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
            raise self.failure(name, 'its checksum differs, it was changed or is damaged: '
                                     'convert the model again')
        return data

    def text(self, name: str) -> str:
        """Return a file's text. Raises BundleError or ModelError naming it."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise self.failure(name, f'not UTF-8 at byte {error.start}') from error

    def json(self, name: str) -> dict:
        """Return a file's JSON object, {} where there is none. Raises BundleError, ModelError."""
        if name not in self:
            return {}
        try:
            return parse_object(self.read(name))
        except ValueError as error:
            raise self.failure(name, str(error)) from error

    @contextlib.contextmanager
    def copies(self) -> Iterator[Path]:
        """Give a private folder with copies, for libraries that read folders.

        Settings in them that name code or other files are left out. Raises BundleError or
        ModelError where they can't be written.
        """
        try:
            place = tempfile.TemporaryDirectory(prefix='neuron_chunk_')
        except OSError as error:
            raise self._error('no folder for temporary copies of the files beside the weights: '
                              f'{disk_errors.reason(error)}; TMPDIR may name another place'
                              ) from error
        with place as folder:
            for name in self._checksums:
                data = self.read(name) if name.endswith('.model') else self.text(name).encode()
                if name.endswith('.json') and name not in _LARGE:
                    data = _tamed(data)
                copy = Path(folder) / name
                try:
                    copy.write_bytes(data)
                except OSError as error:
                    raise self._error(disk_errors.failure(
                        copy, error, 'TMPDIR may name another place')) from error
            yield Path(folder)


def is_side_file(name: str) -> bool:
    """Tell whether a name is that of a config, tokenizer, processor, template or licence file."""
    suffix = os.path.splitext(name)[1]
    wanted = (suffix in ('.json', '.jinja', '.txt', '.model')
              or name.split('.')[0] in ('LICENSE', 'NOTICE'))
    return (wanted and is_plain_name(name) and name != BUNDLE_JSON
            and not name.endswith('.index.json'))


def _may_be_large(name: str) -> bool:
    return name in _LARGE or name.endswith('.model')


def _tamed(data: bytes) -> bytes:
    """Return a settings file without what leads out of its folder; what is no JSON as it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict):
        return data
    return json.dumps({key: item for key, item in value.items()
                       if key not in _LEADS_AWAY and not key.endswith('_file')}).encode()
