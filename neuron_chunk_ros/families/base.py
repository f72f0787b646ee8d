# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the engine must know of a family: where its decoder is, what its tensors are called."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from neuron_chunk_ros.errors import ModelError, out_of_memory
from neuron_chunk_ros.storage.layout import EMBEDDING, LM_HEAD, GroupPlan, Member

__all__ = ['Family', 'GroupPlan', 'Member']

# no real decoder comes near; transformers builds lists as long as a config asks for
_LARGEST = 1 << 20
_DEEPEST = 4096
# What a model's calls return is for who calls to say.
_FORMS = ('return_dict', 'torchscript', 'output_attentions', 'output_hidden_states')


@dataclass(frozen=True)
class Family:
    """A family of vision-language models whose decoder layers are built like Qwen2's.

    Module paths are those of transformers 5's class for the family.
    """

    name: str  # the config's model_type
    text_types: tuple[str, ...]  # model types of the text config that are known to fit
    decoder_path: str  # module path of the decoder's list of layers
    hub_prefixes: tuple[tuple[str, str], ...]  # (as published checkpoints spell it, module path)
    alias_prefixes: tuple[tuple[str, str], ...]  # other spellings met in saved checkpoints
    prompts: type  # its PromptBuilder, made from (folder, transformers' config)

    def canonical(self, key: str) -> str:
        """Return the module path name of a checkpoint's tensor; unknown names stay as they are."""
        matching = [pair for pair in self.hub_prefixes + self.alias_prefixes
                    if key.startswith(pair[0])]
        if not matching:
            return key
        old, new = max(matching, key=lambda pair: len(pair[0]))  # the most telling prefix
        return new + key[len(old):]

    def published(self, name: str) -> str:
        """Return published checkpoints' name for a module path: canonical's inverse."""
        for old, new in self.hub_prefixes:
            if name.startswith(new):
                return old + name[len(new):]
        return name

    def config(self, config: dict):
        """Return transformers' config object, which fills in what old config files leave out.

        Raises ModelError where transformers refuses it.
        """
        from transformers import CONFIG_MAPPING
        _refuse_depth(config)
        config = copy.deepcopy(config)
        for part in (config, config.get('text_config'), config.get('vision_config')):
            for key in _FORMS if isinstance(part, dict) else ():
                part.pop(key, None)
        try:
            return CONFIG_MAPPING[self.name].from_dict(config)
        except Exception as error:  # transformers raises whatever its validators do
            if out_of_memory(error):
                raise
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise ModelError(f'config.json of a {self.name} model is not usable: {reason}'
                             ) from error

    def text(self, config: dict):
        """Return the decoder's config object. Raises ModelError for a decoder not known here."""
        text = self.config(config).text_config
        if text.model_type not in self.text_types:
            raise ModelError(
                f'{self.name} with a {text.model_type!r} decoder is not supported '
                f'(known: {", ".join(self.text_types)})')
        return text

    def layers(self, config: dict) -> int:
        """Return the number of decoder layers."""
        return _dimension(self.text(config), 'num_hidden_layers')

    def groups(self, config: dict, layout: str = 'bundled') -> list[GroupPlan]:
        """Plan the groups in decoder order.

        :param layout: 'bundled': per layer qkv, o, gate_up, down; layers that share an input are
            stored row by row together. 'separate': q, k, v, o, gate, up, down.
        """
        text = self.text(config)
        layers = _dimension(text, 'num_hidden_layers')
        hidden = _dimension(text, 'hidden_size')
        inner = _dimension(text, 'intermediate_size')
        heads = _dimension(text, 'num_attention_heads')
        if getattr(text, 'head_dim', None) is None:
            head = hidden // heads
        else:
            head = _dimension(text, 'head_dim')
        wide, narrow = heads * head, _dimension(text, 'num_key_value_heads') * head
        plans = []
        for i in range(layers):
            bundled = [
                self._plan(i, 'qkv', hidden, 'self_attn',
                           q_proj=wide, k_proj=narrow, v_proj=narrow),
                self._plan(i, 'o', wide, 'self_attn', o_proj=hidden),
                self._plan(i, 'gate_up', hidden, 'mlp', gate_proj=inner, up_proj=inner),
                self._plan(i, 'down', inner, 'mlp', down_proj=hidden),
            ]
            plans += bundled if layout == 'bundled' else [
                GroupPlan(f'layers.{i}.{_short(member.name)}', plan.rows, (member,))
                for plan in bundled for member in plan.members]
        return plans

    def tables(self, config: dict) -> tuple[GroupPlan, GroupPlan]:
        """Plan the embedding table, a row for each token, and the LM head, as a group."""
        text = self.text(config)
        words = _dimension(text, 'vocab_size')
        hidden = _dimension(text, 'hidden_size')
        inner = self.decoder_path.rpartition('.')[0]
        return (GroupPlan(EMBEDDING, words, (Member(f'{inner}.embed_tokens', hidden),)),
                GroupPlan(LM_HEAD, hidden, (Member('lm_head', words),)))

    def feeders(self, member: str) -> tuple[str, ...]:
        """Return the linear layers whose output channels are, one by one, this one's input's.

        Their outputs may lie in any common order if this layer's rows do, too. Only the MLP has
        such: down's input is act(gate's output) * up's output. o's input are values weighed by
        head, so v's channels can't change places freely.
        """
        parent, _, name = member.rpartition('.')
        return (f'{parent}.gate_proj', f'{parent}.up_proj') if name == 'down_proj' else ()

    def _plan(self, layer: int, name: str, rows: int, module: str, **columns: int) -> GroupPlan:
        path = f'{self.decoder_path}.{layer}.{module}'
        members = tuple(Member(f'{path}.{key}', width) for key, width in columns.items())
        return GroupPlan(f'layers.{layer}.{name}', rows, members)


def _short(member: str) -> str:
    return member.rpartition('.')[2].removesuffix('_proj')


def _refuse_depth(config: dict) -> None:
    parts = [config, *(config.get(key) for key in ('text_config', 'vision_config'))]
    for part in parts:
        for key in ('num_hidden_layers', 'depth'):
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, (int, float)) and not 0 < value <= _DEEPEST:
                raise ModelError(f'config.json: {key} is {value!r}, '
                                 f'want a whole number from 1 to {_DEEPEST}')


def _dimension(text, key: str) -> int:
    value = getattr(text, key, None)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ModelError(f'config.json: {key} is {value!r}, want a whole number from 1')
    return value
