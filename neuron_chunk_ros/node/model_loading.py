# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the `model` parameter to a session, with a clear word on paths that aren't bundles."""

from collections.abc import Callable
from pathlib import Path

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.node.settings import ParameterError, Settings


def bundle_path(model: str) -> Path:
    """Return the bundle the parameter names; 'tabletop' is the one the package ships.

    :raises BundleError: the folder doesn't exist or is a Hugging Face folder.
    """
    if model == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        return bundle_dir()
    path = Path(model).expanduser()
    if not path.is_dir():
        raise BundleError(f"model '{model}' is not a folder: give a bundle made by "
                          "'neuron-chunk convert', or 'tabletop'")
    if not (path / 'bundle.json').exists() and (path / 'config.json').exists():
        raise BundleError(f"model '{model}' is a Hugging Face folder, not a bundle: run "
                          f"'neuron-chunk convert {model} BUNDLE' and give BUNDLE")
    return path


def open_session(settings: Settings, on_progress: Callable[[float], None] | None = None):
    """Load the model as the settings say.

    :param on_progress: takes the share that is loaded, 0 to 1.
    :raises NeuronChunkError: no such bundle, a damaged one, one that doesn't fit the budget, or
        a device that doesn't exist.
    """
    path = bundle_path(settings.model)
    # Imported here: torch takes seconds to load, and a bad path should be told before that.
    from neuron_chunk_ros.engine.session import Session
    try:
        return Session.open(
            path, policy=settings.policy, sparsity=settings.sparsity,
            text_sparsity=settings.text_sparsity, deadline_ms=settings.deadline_ms,
            min_importance=settings.min_importance,
            memory_budget_mb=settings.memory_budget_mb or None,
            cameras=max(1, len(settings.cameras)) if settings.mode == 'stream' else 1,
            max_context=settings.max_context,
            device=settings.device, backend=settings.io_backend,
            direct=settings.direct_io, threads=settings.io_threads,
            queue_depth=settings.io_queue_depth, on_progress=on_progress)
    except ValueError as error:  # such as a device this machine lacks
        raise ParameterError(str(error)) from None
