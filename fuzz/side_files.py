# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Changes the files beside a bundle's weights, opens it and asks for two words.

Half of the changes are a stranger's: bundle.json lists the file as it is. Found is any error but
NeuronChunkError, one whose message is not one line with the bundle's path, a call over two seconds
(templates and tokenizers have bounds of their own in families/trial.py), memory that grows, files
left behind, and a changed file that is used though bundle.json has another checksum for it.
"""

import inspect
import json

from support import bundles, files, json_values, watched
from support.hostile import pick

NAMES = ('config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json',
         'preprocessor_config.json', 'video_preprocessor_config.json', 'processor_config.json',
         'chat_template.jinja')
_ROPE = [{'type': 'mrope', 'mrope_section': [2, 3, 3]}, {'rope_type': 'yarn', 'factor': 4.0},
         {'rope_type': 'dynamic'}, {'rope_type': 'longrope', 'short_factor': [1], 'factor': 2},
         {'rope_type': 'llama3', 'rope_theta': 0}, {'rope_type': 'x'}, {'rope_theta': -1.0}]
SPICES = {
    'config.json': [
        *[('rope_scaling', one) for one in _ROPE], *[('rope_parameters', one) for one in _ROPE],
        ('quantization_config', {'quant_method': 'gptq', 'bits': 4}),
        ('quantization_config', {'quant_method': 'bitsandbytes', 'load_in_8bit': True}),
        ('auto_map', {'AutoConfig': 'x.X'}), ('layer_types', ['sliding_attention'] * 3),
        ('sliding_window', 2), ('use_sliding_window', True), ('torch_dtype', 'float64'),
        ('dtype', 'int8'), ('attn_implementation', 'flash_attention_2'), ('hidden_act', 'relu6'),
        ('_attn_implementation', 'sdpa'), ('pruned_heads', {'0': [0]}), ('id2label', {'a': 1}),
        ('num_labels', 10**7), ('return_dict', False), ('output_attentions', True),
        ('output_hidden_states', True), ('use_cache', False), ('tie_word_embeddings', True),
        ('pad_token_id', 10**9), ('head_dim', 7), ('num_key_value_heads', 3),
        ('max_window_layers', -5), ('attention_dropout', 0.5), ('rms_norm_eps', float('nan')),
        ('initializer_range', -1), ('chunk_size_feed_forward', 3), ('is_decoder', True),
        ('vision_aspect_ratio', 'anyres_max_0'), ('vision_aspect_ratio', 'pad'),
        ('vision_feature_layer', -99), ('vision_feature_layer', [0, 1]),
        ('vision_feature_select_strategy', 'default'), ('image_grid_pinpoints', [[1, 1]]),
        ('image_grid_pinpoints', [[10**6, 10**6]]), ('spatial_merge_size', 1),
        ('temporal_patch_size', 1), ('model_type', 'qwen2_5_vl'), ('transformers_version', '99')],
    'generation_config.json': [
        ('repetition_penalty', -1.0), ('repetition_penalty', 1e300), ('no_repeat_ngram_size', 1),
        ('no_repeat_ngram_size', -3), ('suppress_tokens', [10**9]), ('suppress_tokens', [-1]),
        ('suppress_tokens', list(range(600))), ('begin_suppress_tokens', [0]),
        ('bad_words_ids', [[]]), ('bad_words_ids', [[1, 2], [3]]), ('bad_words_ids', [[-1]]),
        ('sequence_bias', [[[1], 1e30]]), ('sequence_bias', {'a': 1}), ('min_new_tokens', 10**9),
        ('min_length', 10**9), ('forced_eos_token_id', 3), ('forced_bos_token_id', 3),
        ('do_sample', True), ('temperature', 0.0), ('num_beams', 4), ('top_k', 0),
        ('encoder_repetition_penalty', 2.0), ('exponential_decay_length_penalty', [1, 2.0]),
        ('eos_token_id', list(range(3000))), ('eos_token_id', []), ('guidance_scale', 2.0),
        ('watermarking_config', {'a': 1}), ('cache_implementation', 'x'), ('stop_strings', ['a']),
        ('max_time', 0.0), ('penalty_alpha', 0.6), ('renormalize_logits', True),
        ('remove_invalid_values', True), ('pad_token_id', -1)],
    'tokenizer_config.json': [
        ('added_tokens_decoder', {'3': {'content': 'a', 'special': True}}),
        ('added_tokens_decoder', {'-1': {'content': ''}}), ('tokenizer_class', 'BertTokenizer'),
        ('tokenizer_class', 'Qwen2Tokenizer'), ('tokenizer_class', 'LlamaTokenizer'),
        ('additional_special_tokens', ['']), ('additional_special_tokens', ['a', ' ', 'e']),
        ('extra_special_tokens', {'image_token': 'x'}), ('chat_template', '{{ messages }}'),
        ('chat_template', [{'name': 'a', 'template': 'b'}]), ('model_max_length', 3),
        ('padding_side', 'left'), ('padding_side', 'x'), ('add_bos_token', True),
        ('add_prefix_space', True), ('eos_token', {'content': 'x', 'lstrip': True}),
        ('unk_token', ''), ('bos_token', ''), ('pad_token', ' '), ('auto_map', {'a': 'x.X'}),
        ('split_special_tokens', True), ('clean_up_tokenization_spaces', True),
        ('fix_mistral_regex', True), ('backend', 'x'), ('from_slow', True), ('legacy', False),
        ('tokenizer_file', '/etc/passwd'), ('name_or_path', 'x')],
    'tokenizer.json': [
        ('pre_tokenizer', {'type': 'Split', 'pattern': {'Regex': '(a+)+$'},
                           'behavior': 'Isolated', 'invert': False}),
        ('pre_tokenizer', {'type': 'Whitespace'}), ('normalizer', {'type': 'NFKC'}),
        ('normalizer', {'type': 'Replace', 'pattern': {'String': 'a'}, 'content': 'a' * 999}),
        ('normalizer', {'type': 'Replace', 'pattern': {'String': ''}, 'content': 'a'}),
        ('normalizer', {'type': 'Prepend', 'prepend': '<|im_end|>'}), ('decoder', None),
        ('decoder', {'type': 'Fuse'}), ('decoder', {'type': 'WordPiece', 'prefix': ''}),
        ('truncation', {'direction': 'Right', 'max_length': 1, 'strategy': 'LongestFirst',
                        'stride': 0}),
        ('truncation', {'direction': 'Right', 'max_length': 0, 'strategy': 'LongestFirst',
                        'stride': 9}),
        ('padding', {'strategy': {'Fixed': 10**9}, 'direction': 'Right', 'pad_id': 0,
                     'pad_type_id': 0, 'pad_token': 'x', 'pad_to_multiple_of': None}),
        ('padding', {'strategy': {'Fixed': 100}, 'direction': 'Right', 'pad_id': 0,
                     'pad_type_id': 0, 'pad_token': 'x', 'pad_to_multiple_of': None}),
        ('post_processor', {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True,
                            'use_regex': True}),
        ('model', {'type': 'Unigram', 'unk_id': 0, 'vocab': [['a', 0.0]]}),
        ('model', {'type': 'WordLevel', 'vocab': {'a': 0}, 'unk_token': 'a'}), ('version', '9')],
    'preprocessor_config.json': [
        ('size', {'height': 10**9, 'width': 10**9}), ('size', 0), ('size', {'shortest_edge': 0}),
        ('size', {'height': 1, 'width': 1}), ('crop_size', {'height': 3, 'width': 3}),
        ('do_resize', False), ('do_rescale', False), ('do_normalize', False), ('do_pad', True),
        ('do_center_crop', True), ('do_convert_rgb', False), ('rescale_factor', 1e300),
        ('resample', 99), ('resample', -1), ('image_std', [0, 0, 0]), ('image_mean', []),
        ('patch_size', 1), ('merge_size', 7), ('temporal_patch_size', 0),
        ('temporal_patch_size', 65537), ('merge_size', 65537), ('min_pixels', -1),
        ('max_pixels', 1), ('max_pixels', 10**12), ('image_grid_pinpoints', [[0, 0]]),
        ('image_grid_pinpoints', [[10**5, 10**5]]), ('return_tensors', 'tf'), ('device', 'cuda'),
        ('disable_grouping', True), ('data_format', 'channels_last'), ('size_divisor', 0),
        ('image_processor_type', 'CLIPImageProcessor'), ('processor_class', 'X'),
        ('input_data_format', 'x'), ('default_to_square', True)]}
SPICES['video_preprocessor_config.json'] = SPICES['processor_config.json'] = [
    *SPICES['preprocessor_config.json'], ('num_image_tokens', -1), ('image_token', 'x'),
    ('video_token', ''), ('vision_feature_select_strategy', 'default'), ('num_frames', 10**9)]
_JINJA = ['{%', '%}', '{{', '}}', '{#', '{% for a in messages %}', '{% endfor %}', '{% raw %}',
          "{{ messages[0]['content'][-1]['text'] }}", '<image>', '<|vision_start|>', '\n',
          '{% set x = x * 2 %}', '{% if true %}', '{% endif %}', "{{ 'a' * 10**9 }}", '| tojson',
          '{% generation %}', "{{ raise_exception('a\nb') }}", '{% macro m() %}{{ m() }}']


def _contents(rng, name, data, others):
    """Return a file's changed bytes."""
    kind = rng.integers(10)
    if name.endswith('.json') and kind < 8:
        return json_values.written(rng, json_values.changed(
            rng, json.loads(data), SPICES.get(name, ())))
    if name.endswith('.jinja') and kind < 5:
        text = data.decode()
        for _ in range(1 + int(rng.integers(2))):
            at = int(rng.integers(len(text) + 1))
            text = text[:at] + pick(rng, _JINJA) + text[at + int(rng.integers(2)) * 5:]
        return text.encode()
    if kind == 8:
        return pick(rng, others)
    return files.damaged(rng, data, others)


def run_case(rng, watch):
    """Make one case."""
    family = pick(rng, bundles.FAMILIES)
    folder = bundles.copied(bundles.plain(family))
    name = pick(rng, [name for name in NAMES if (folder / name).exists()])
    path, stranger = folder / name, rng.random() < 0.5
    before = path.read_bytes()
    with bundles.Leftovers():
        if rng.random() < 0.1:
            what, stranger = files.replace(rng, path), False
        else:
            others = [(folder / other).read_bytes() for other in NAMES if other != name
                      and (folder / other).exists()]
            bundles.rewritten(path, _contents(rng, name, before, others))
            what = 'changed'
            if stranger:
                bundles.seal(folder, name)
        options = {} if rng.random() < 0.7 else {'memory_budget_mb': 300}
        said = f'{family} {name} {what}{" by a stranger" * stranger} {options}'
        opened = bundles.ask(watch, folder, said, **options)
        same = path.is_file() and path.stat().st_size == len(before) and (
            path.read_bytes() == before)
        if opened and not stranger and not same and what != 'inside':
            raise watched.Finding(f'{name} was {what} and is used')


if __name__ == '__main__':
    bundles.quiet()
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
