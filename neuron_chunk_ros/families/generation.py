# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a model's generation_config.json asks of its answers: honoured, said, or refused.

Answers are greedy: the likeliest token, after the settings that change what is likeliest have been
applied, by transformers' own classes and in `generate`'s order. What isn't done (sampling, beams
and so on) is said in a line when the model is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
import transformers
from transformers import LogitsProcessorList

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.families.prompts import PromptBuilder
from neuron_chunk_ros.storage.strict_json import shown

GENERATION_JSON = 'generation_config.json'
_MOST = 1 << 20   # tokens, of any count

Check = Callable[[object, int], bool]  # a value, and how many tokens the vocabulary has


def _whole(value, vocabulary: int) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _factor(value, vocabulary: int) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6


def _number(value, vocabulary: int) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _flag(value, vocabulary: int) -> bool:
    return type(value) is bool


def _token(value, vocabulary: int) -> bool:
    return type(value) is int and 0 <= value < vocabulary


def _tokens(value, vocabulary: int) -> bool:
    return isinstance(value, list) and all(_token(one, vocabulary) for one in value)


def _token_or_tokens(value, vocabulary: int) -> bool:
    return _token(value, vocabulary) or (_tokens(value, vocabulary) and bool(value))


def _words(value, vocabulary: int) -> bool:
    return isinstance(value, list) and all(_tokens(one, vocabulary) and one for one in value)


def _decay(value, vocabulary: int) -> bool:
    return (isinstance(value, list) and len(value) == 2 and _whole(value[0], vocabulary)
            and _factor(value[1], vocabulary))


def _biases(value, vocabulary: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and _tokens(one[0], vocabulary) and one[0]
        and _number(one[1], vocabulary) for one in value)


_CHECKS: dict[str, tuple[Check, str]] = {
    'sequence_bias': (_biases, 'want a list of [[tokens], number]'),
    'encoder_repetition_penalty': (_factor, 'want a number above 0'),
    'repetition_penalty': (_factor, 'want a number above 0'),
    'no_repeat_ngram_size': (_whole, 'want a whole number from 0'),
    'encoder_no_repeat_ngram_size': (_whole, 'want a whole number from 0'),
    'bad_words_ids': (_words, 'want a list of lists of tokens of the vocabulary'),
    'min_length': (_whole, 'want a whole number from 0'),
    'min_new_tokens': (_whole, 'want a whole number from 0'),
    'forced_bos_token_id': (_token, 'want a token of the vocabulary'),
    'forced_eos_token_id': (_token_or_tokens, 'want tokens of the vocabulary'),
    'exponential_decay_length_penalty': (_decay, 'want [tokens, a number above 0]'),
    'suppress_tokens': (_tokens, 'want a list of tokens of the vocabulary'),
    'begin_suppress_tokens': (_tokens, 'want a list of tokens of the vocabulary'),
    'eos_token_id': (_token_or_tokens, 'want tokens of the vocabulary'),
    'do_sample': (_flag, 'want true or false'),
    'remove_invalid_values': (_flag, 'want true or false'),
    'num_beams': (_whole, 'want a whole number from 0'),
    'num_return_sequences': (_whole, 'want a whole number from 0'),
    'guidance_scale': (_number, 'want a number'),
    'penalty_alpha': (_number, 'want a number'),
    'max_time': (_number, 'want a number'),
    'token_healing': (_flag, 'want true or false'),
}
# What is not done -> whether a value asks for it, and in words.
_NOT_DONE: dict[str, tuple[Callable[[object], bool], str]] = {
    'do_sample': (bool, 'sampling'),
    'num_beams': (lambda value: value > 1, 'beams'),
    'num_return_sequences': (lambda value: value > 1, 'several answers'),
    'penalty_alpha': (lambda value: value > 0, 'contrastive search'),
    'guidance_scale': (lambda value: value != 1, 'guidance'),
    'constraints': (bool, 'constraints'),
    'force_words_ids': (bool, 'forced words'),
    'dola_layers': (bool, 'DoLa'),
    'stop_strings': (bool, 'stop strings'),
    'max_time': (bool, 'a time limit of its own'),
    'token_healing': (bool, 'token healing'),
    'watermarking_config': (bool, 'watermarks'),
    'remove_invalid_values': (bool, 'making up values that are not finite'),
}


@dataclass(frozen=True)
class GenerationSettings:
    """Checked settings of one model."""

    values: Mapping[str, object] = field(default_factory=dict)  # those that are honoured
    stops: Collection[int] = ()  # the tokens that end an answer
    note: str = ''               # what is asked for and not done; '' for nothing

    def processors(self, prompt: torch.Tensor, most: int) -> LogitsProcessorList:
        """Return what changes the logits of an answer, in order; empty for nothing.

        :param prompt: its tokens, int64 [1, tokens].
        :param most: tokens of the answer at most.
        """
        made, get = LogitsProcessorList(), self.values.get
        length, device = prompt.shape[1], prompt.device
        ends = torch.tensor(sorted(self.stops), device=device)
        # generate's order
        if get('sequence_bias'):
            made.append(transformers.SequenceBiasLogitsProcessor(
                [[tokens, float(bias)] for tokens, bias in get('sequence_bias')]))
        if get('encoder_repetition_penalty', 1.0) != 1.0:
            made.append(transformers.EncoderRepetitionPenaltyLogitsProcessor(
                float(get('encoder_repetition_penalty')), prompt))
        if get('repetition_penalty', 1.0) != 1.0:
            made.append(transformers.RepetitionPenaltyLogitsProcessor(
                float(get('repetition_penalty'))))
        if get('no_repeat_ngram_size'):
            made.append(transformers.NoRepeatNGramLogitsProcessor(get('no_repeat_ngram_size')))
        if get('encoder_no_repeat_ngram_size'):
            made.append(transformers.EncoderNoRepeatNGramLogitsProcessor(
                get('encoder_no_repeat_ngram_size'), prompt))
        if get('bad_words_ids'):
            made.append(transformers.NoBadWordsLogitsProcessor(get('bad_words_ids'), ends))
        if get('min_length'):
            made.append(transformers.MinLengthLogitsProcessor(
                get('min_length'), ends, device=device))
        if get('min_new_tokens'):
            made.append(transformers.MinNewTokensLengthLogitsProcessor(
                length, get('min_new_tokens'), ends, device=device))
        if 'forced_bos_token_id' in self.values:
            made.append(transformers.ForcedBOSTokenLogitsProcessor(get('forced_bos_token_id')))
        if 'forced_eos_token_id' in self.values:
            made.append(transformers.ForcedEOSTokenLogitsProcessor(
                length + most, get('forced_eos_token_id'), device=device))
        if get('exponential_decay_length_penalty'):
            made.append(transformers.ExponentialDecayLengthPenalty(
                tuple(get('exponential_decay_length_penalty')), ends, length))
        if get('suppress_tokens'):
            made.append(transformers.SuppressTokensLogitsProcessor(
                get('suppress_tokens'), device=device))
        if get('begin_suppress_tokens'):
            first = length + (length == 1 and 'forced_bos_token_id' in self.values)
            made.append(transformers.SuppressTokensAtBeginLogitsProcessor(
                get('begin_suppress_tokens'), first, device=device))
        return made


def generation_settings(values: Mapping[str, object], end: int | None, vocabulary: int,
                        where: str) -> GenerationSettings:
    """Check what a generation_config.json holds.

    :param values: its keys; None for what isn't set.
    :param end: the tokenizer's end token, for where no other is named; None for none.
    :param vocabulary: the model's tokens.
    :param where: what to call the file.
    :raises BundleError: with one line, for a setting of a wrong type or out of range, or where
        nothing names an end token.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name, (check, want) in _CHECKS.items():
        if name in given and not check(given[name], vocabulary):
            raise BundleError(f'{where}: {name} is {shown(given[name])}, {want}')
    missing = [word for name, (asks, word) in _NOT_DONE.items()
               if name in given and asks(given[name])]
    note = '' if not missing else (f'{GENERATION_JSON} asks for {", ".join(missing)}, which is '
                                   'not done: each word is the likeliest one')
    honoured = {name: value for name, value in given.items()
                if name in _CHECKS and name not in _NOT_DONE and name != 'eos_token_id'}
    stops = given.get('eos_token_id', end)
    if stops is None:
        raise BundleError(f'{where}: neither it nor the tokenizer names an end token')
    return GenerationSettings(
        honoured, frozenset(stops if isinstance(stops, list) else [stops]), note)


def settings_of(config, prompts: PromptBuilder) -> GenerationSettings:
    """Return the settings of a model: its generation_config.json's, or else its config's.

    :param config: transformers' config object.
    :raises BundleError, ModelError: with one line that names the file.
    """
    files = prompts.files
    values = (files.json(GENERATION_JSON) if GENERATION_JSON in files
              else transformers.GenerationConfig.from_model_config(config).to_dict())
    return generation_settings(values, prompts.tokenizer.eos_token_id,
                               config.text_config.vocab_size, str(files.folder / GENERATION_JSON))
