# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A LLaVA-OneVision of the published decoder and a vision tower that is ours to train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
)

from neuron_chunk_ros.published.easy_vqa import COLOURS, SHAPES
from neuron_chunk_ros.tabletop.checkpoint import position_embedding

SIZE, PATCH = 64, 4  # 256 patches, pooled to 64 visual tokens and a newline
_VISION = {'hidden_size': 192, 'intermediate_size': 768, 'num_hidden_layers': 4,
           'num_attention_heads': 6, 'image_size': SIZE, 'patch_size': PATCH,
           'vision_use_head': False}


class LowRank(torch.nn.Module):
    """A frozen linear layer and an update of few ranks (Hu et al., LoRA, 2021)."""

    def __init__(self, frozen: torch.nn.Linear, rank: int):
        super().__init__()
        self.frozen = frozen
        self.down = torch.nn.Parameter(torch.randn(rank, frozen.in_features)
                                       / frozen.in_features ** 0.5)
        self.up = torch.nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        update = functional.linear(functional.linear(inputs, self.down), self.up)
        return self.frozen(inputs) + 2 * update

    def merged(self) -> torch.Tensor:
        """Return the one weight that does the same, float32 [out, in]."""
        return self.frozen.weight.float() + 2 * self.up @ self.down


class PatchHeads(torch.nn.Module):
    """Training-only: name the colour and the shape in each image patch, the first is neither.

    Named for the picture as a whole, shapes were never learnt.
    """

    def __init__(self, width: int):
        super().__init__()
        self.colour = torch.nn.Linear(width, 1 + len(COLOURS))
        self.shape = torch.nn.Linear(width, 1 + len(SHAPES))

    def loss(self, features: torch.Tensor, colours: torch.Tensor, shapes: torch.Tensor
             ) -> torch.Tensor:
        """Return the cross-entropy; features [images, patches, width], labels alike, -1 unknown.

        A patch of the ground counts a tenth: most are.
        """
        return sum(functional.cross_entropy(
            head(features).float().flatten(0, 1), labels.flatten(), ignore_index=-1,
            weight=torch.tensor([0.1, *[1.0] * (head.out_features - 1)]))
            for head, labels in ((self.colour, colours), (self.shape, shapes)))


def build_model(decoder: Path, rank: int, seed: int) -> LlavaOnevisionForConditionalGeneration:
    """Return the decoder of a folder, frozen, bfloat16, behind an untrained tower, float32.

    :param decoder: a LLaVA-OneVision folder whose tower is left aside.
    """
    whole = AutoModelForImageTextToText.from_pretrained(
        decoder, dtype=torch.bfloat16, local_files_only=True)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(decoder, local_files_only=True)
    config.vision_config = SiglipVisionConfig(**_VISION)
    config.image_grid_pinpoints = [[SIZE, SIZE]]
    # the faster ones on a CPU: 1.2 times for the tower, 1.15 times for the decoder
    config._attn_implementation = {'vision_config': 'sdpa', 'text_config': 'eager'}
    model = LlavaOnevisionForConditionalGeneration(config)
    model.model.language_model, model.lm_head = whole.model.language_model, whole.lm_head
    language = model.model.language_model
    language.config._attn_implementation = 'eager'
    for parameter in (*language.parameters(), *model.lm_head.parameters()):
        parameter.requires_grad_(False)
    torch.nn.init.normal_(position_embedding(model).weight, std=0.4)
    for layer in language.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(block, name, LowRank(linear, rank))
    return model


def save(model: LlavaOnevisionForConditionalGeneration, decoder: Path, folder: Path) -> None:
    """Write a bfloat16 Hugging Face folder, updates merged; `decoder` gave the other files."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {f'{name}.weight': layer.merged() for name, layer in model.named_modules()
              if isinstance(layer, LowRank)}
    state = {name.replace('.frozen.', '.'): merged.get(name.replace('.frozen.', '.'), tensor)
             for name, tensor in model.state_dict().items()
             if not name.endswith(('.up', '.down'))}
    plain = LlavaOnevisionForConditionalGeneration(model.config).to(torch.bfloat16)
    plain.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
    plain.save_pretrained(folder, safe_serialization=True)
    for path in decoder.iterdir():
        if path.name not in ('config.json', 'model.safetensors'):
            shutil.copyfile(path, folder / path.name)
    for name in ('preprocessor_config.json', 'video_preprocessor_config.json',
                 'processor_config.json'):
        settings = json.loads((decoder / name).read_text())
        if 'size' in settings:
            settings['size'] = {'height': SIZE, 'width': SIZE}
        if 'image_grid_pinpoints' in settings:
            settings['image_grid_pinpoints'] = [[SIZE, SIZE]]
        if 'num_image_tokens' in settings:
            settings['num_image_tokens'] = (SIZE // PATCH) ** 2
        (folder / name).write_text(json.dumps(settings, indent=1) + '\n')
