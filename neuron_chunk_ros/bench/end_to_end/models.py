# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The same random decoder as each contestant wants it: checkpoint, bundle, GGUF.

Random weights: time and memory don't depend on their values, but for which rows are chosen, and
those are spread wider than a trained model's.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from neuron_chunk_ros.bench.shapes import DECODERS, Decoder
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.splits import rows_and_base
from neuron_chunk_ros.prepare.synthesize import synthesize

GGUF_TYPES = ('BF16', 'Q8_0', 'Q4_0')
_BASE = 'llava-onevision-0.5b'  # a vision tower that makes 196 tokens of a frame
_VISION_LAYERS = 2              # its time is nobody's advantage: kept small
_NAMES = {'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k',
          'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
          'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
          'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
_TOP = {'embed_tokens.weight': 'token_embd.weight', 'norm.weight': 'output_norm.weight',
        'lm_head.weight': 'output.weight'}


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder on disk in several forms."""

    decoder: Decoder
    checkpoint: Path
    bundle: Path
    nbytes: int                # of the decoder's linear layers
    words_bytes: int           # of embedding table and LM head
    gguf: dict[str, Path]      # by type; empty where the gguf package is missing
    packed: dict[str, Path]    # bundles of packed rows, by row format


def make(name: str, folder: Path, gguf: bool, rows: Sequence[str],
         progress: Callable[[str, int, int], None]) -> Model:
    """Write everything into an empty folder.

    :param rows: row formats to have a packed bundle of.
    """
    decoder = DECODERS[name]
    base = PRESETS[_BASE]
    untied = decoder.hidden > 2048
    text = {**base.config['text_config'], 'hidden_size': decoder.hidden,
            'intermediate_size': decoder.inner, 'num_hidden_layers': decoder.layers,
            'max_window_layers': decoder.layers, 'num_attention_heads': decoder.heads,
            'num_key_value_heads': decoder.kv_heads, 'tie_word_embeddings': not untied}
    config = {**base.config, 'tie_word_embeddings': not untied, 'text_config': text,
              'vision_config': {**base.config['vision_config'],
                                'num_hidden_layers': _VISION_LAYERS}}
    preset = dataclasses.replace(base, name=name, config=config)
    checkpoint = synthesize(preset, folder / 'checkpoint', progress=lambda done, total: progress(
        f'{name}: weights', done, total))
    bundle = convert(checkpoint, folder / 'bundle')
    packed = {}
    for made in rows:
        kind, cut = rows_and_base(made)
        packed[made] = convert(checkpoint, folder / f'bundle-{made.replace("/", "-")}', rows=kind,
                               base=cut).path
    words = text['vocab_size'] * decoder.hidden * 2 * (1 + untied)
    made = {}
    if gguf:
        for number, kind in enumerate(GGUF_TYPES):
            progress(f'{name}: GGUF', number, len(GGUF_TYPES))
            made[kind] = folder / f'{kind}.gguf'
            _write_gguf(checkpoint, text, decoder, kind, made[kind])
    return Model(decoder, checkpoint, bundle.path, bundle.decoder_bytes, words, made, packed)


def remove(model: Model) -> None:
    """Delete what make wrote."""
    shutil.rmtree(model.checkpoint.parent)


def _write_gguf(checkpoint: Path, text: dict, decoder: Decoder, kind: str, path: Path) -> None:
    import gguf
    from safetensors import safe_open
    wanted = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), 'qwen2', use_temp_file=False)
    writer.add_block_count(decoder.layers)
    writer.add_context_length(1024)
    writer.add_embedding_length(decoder.hidden)
    writer.add_feed_forward_length(decoder.inner)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_layer_norm_rms_eps(text['rms_norm_eps'])
    writer.add_rope_freq_base(text['rope_parameters']['rope_theta'])
    writer.add_vocab_size(text['vocab_size'])
    writer.add_tokenizer_model('no_vocab')
    writer.add_file_type({'BF16': gguf.LlamaFileType.MOSTLY_BF16,
                          'Q8_0': gguf.LlamaFileType.MOSTLY_Q8_0,
                          'Q4_0': gguf.LlamaFileType.MOSTLY_Q4_0}[kind])
    for file in sorted(checkpoint.glob('*.safetensors')):
        with safe_open(file, 'pt') as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                target = _gguf_name(name)
                if target is None:
                    continue
                values = tensors.get_tensor(name).float().numpy()
                if values.ndim == 1:
                    writer.add_tensor(target, values)
                    continue
                # As llama.cpp's own tool does: tables of words no finer than they have to be.
                data = gguf.quants.quantize(values, wanted)
                writer.add_tensor(target, data, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str | None:
    """Return llama.cpp's name of a checkpoint's tensor; None for the vision tower's."""
    if 'vision' in name or 'projector' in name or 'image_newline' in name:
        return None
    path = name.split('model.')[-1]
    if path in _TOP or name.endswith('lm_head.weight'):
        return _TOP.get(path, 'output.weight')
    _, number, rest = path.split('.', 2)
    module, _, what = rest.rpartition('.')
    return f'blk.{number}.{_NAMES[module]}.{what}'


def frames(count: int) -> list[np.ndarray]:
    """Return pictures of noise."""
    rng = np.random.default_rng(20_011)
    return [rng.integers(0, 256, (480, 640, 3), np.uint8) for _ in range(count)]
