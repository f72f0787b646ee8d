# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The training-time forward pass: the model's own parts, with packed questions and patch labels.

`LlavaOnevisionModel.forward` has no way to hand out the vision features before pooling, which the
patch labels need; a test holds this pass against the model's own.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from neuron_chunk_ros.tabletop.batches import ABSENT, MAX_VIEWS, TrainingBatch
from neuron_chunk_ros.tabletop.packing import IGNORE, PackedPrompts
from neuron_chunk_ros.tabletop.scenes import COLOURS, SHAPES


class PatchHeads(torch.nn.Module):
    """Training-only: name the colour and the shape that fill each image patch.

    Earlier tries without them stalled; see docs/TABLETOP.md.
    """

    def __init__(self, width: int):
        super().__init__()
        self.colour = torch.nn.Linear(width, 1 + len(COLOURS))
        self.shape = torch.nn.Linear(width, 1 + len(SHAPES))

    def loss(self, features: torch.Tensor, batch: TrainingBatch) -> torch.Tensor:
        """Return the mean cross-entropy; features [images, patches, width]."""
        colour = functional.cross_entropy(
            self.colour(features).float().flatten(0, 1), batch.colours.flatten())
        shape = functional.cross_entropy(
            self.shape(features).float().flatten(0, 1), batch.shapes.flatten())
        return colour + shape


class PlaceHead(torch.nn.Module):
    """Training-only: tell, from the word that names a thing, where it lies in each view.

    Read from the middle of the decoder, so that the layers above have places to compare.
    """

    LAYERS = (3, 4)

    def __init__(self, width: int):
        super().__init__()
        self.cell = torch.nn.Linear(width, MAX_VIEWS * (ABSENT + 1))

    def loss(self, hidden: Sequence[torch.Tensor], batch: TrainingBatch) -> torch.Tensor:
        """Return the mean cross-entropy; hidden [B, L, width] after each decoder layer."""
        losses = []
        for layer in self.LAYERS:
            at = hidden[layer][batch.named[:, 0], batch.named[:, 1]].float()
            # Unnormalised, hidden states are large enough to drown the other losses.
            logits = self.cell(functional.layer_norm(at, at.shape[-1:])).float()
            losses.append(functional.cross_entropy(
                logits.view(-1, ABSENT + 1), batch.places.flatten(), ignore_index=IGNORE))
        return sum(losses) / len(losses)


def vision_features(model, pixels: torch.Tensor) -> torch.Tensor:
    """Project every patch: pixels [B, V, 3, S, S] -> [B * V, patches, text width]."""
    inner = model.model
    out = inner.vision_tower(pixels.flatten(0, 1), output_hidden_states=True)
    return inner.multi_modal_projector(out.hidden_states[inner.config.vision_feature_layer])


def answer_logits(model, batch: PackedPrompts, features: torch.Tensor) -> tuple:
    """Run the text decoder over the packed prompts.

    :return: logits [n, vocabulary] at the n answer positions, their labels [n], and the hidden
        states [B, L, width] before the first and after each layer.
    """
    inner = model.model
    pooled = inner.apply_pooling(features)
    newline = inner.image_newline.to(pooled.dtype).expand(len(pooled), 1, -1)
    frames = torch.cat([pooled, newline], dim=1)
    embeds = inner.get_input_embeddings()(batch.ids)
    places = (batch.ids == inner.config.video_token_id)[..., None]
    embeds = embeds.masked_scatter(places, frames.to(embeds.dtype))
    bias = torch.zeros(batch.mask.shape).masked_fill(~batch.mask, torch.finfo(torch.float32).min)
    out = inner.language_model(
        inputs_embeds=embeds, attention_mask=bias, position_ids=batch.positions,
        use_cache=False, output_hidden_states=True)
    wanted = batch.labels != IGNORE
    return (model.lm_head(out.last_hidden_state[wanted]), batch.labels[wanted],
            out.hidden_states)
