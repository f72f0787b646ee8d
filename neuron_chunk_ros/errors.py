# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The errors a user can meet. Each message names the thing and the cure in one line."""


class NeuronChunkError(Exception):
    """Base of every error this package raises on purpose."""


class BundleError(NeuronChunkError):
    """A bundle is missing, malformed, damaged or can't be written."""


class ModelError(NeuronChunkError):
    """A Hugging Face model folder can't be used (unknown family, missing shard, wrong shape)."""


class ReadError(NeuronChunkError):
    """Reading from flash failed; carries path, offset and the system's reason."""


class RecipeError(NeuronChunkError):
    """A compression recipe, or an algorithm it names, can't be used; carries file and line."""


class ProfileError(NeuronChunkError):
    """A storage profile can't be measured here, written or read."""


class BenchError(NeuronChunkError):
    """A benchmark can't be run as asked (no room, no such decoder, nothing to compare)."""


class MemoryBudgetError(NeuronChunkError):
    """The declared memory budget can't hold what must be resident."""


class RequestError(NeuronChunkError):
    """A question can't be answered as asked (no prompt, no image, empty image)."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that there is no memory: Python's, numpy's or torch's."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        or type(error).__name__ == 'OutOfMemoryError')  # torch's, of a GPU


class Stopped(NeuronChunkError):
    """Work was ended early; the text is the finish reason, 'deadline' or 'cancelled'."""
