# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs random chat templates, and types control tokens into those that come with models.

Found is any error of a PromptBuilder but NeuronChunkError, one whose message is not one line with
the folder's path, a trial of a template that runs past its bounds, a call over two seconds beside
it, memory that grows, files left behind, and a control token that comes from what a person typed.
"""

import inspect
import json

import numpy as np
from support import bundles, refusals, watched
from support.hostile import pick

from neuron_chunk_ros.families import family_for, prompt_builder
from neuron_chunk_ros.families.control_tokens import Said
from neuron_chunk_ros.limits import Limits
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.side_files import SideFiles

_LIMITS = Limits(template_seconds=0.5)
_QUESTION = "{{ messages[0]['content'][-1]['text'] }}"
_VALUES = [
    'messages', 'messages[0]', "messages[0]['content']", 'messages[0].content[-1].text', 'm', 'c',
    'x', 'loop', 'loop.index', 'eos_token', 'tools', 'add_generation_prompt', 'none', '[]', '{}',
    '0', '-1', '10**9', '10**10000', '1.5', '1/0', "''", "'a'", "'ab' * 10**6", "'a' * 10**10",
    'range(9)', 'range(10**6)', 'range(10**15)', 'namespace(a=1)', 'cycler(1, 2)', 'joiner()',
    'dict(a=1)', 'lipsum()', 'lipsum(10**6)', 'self', 'self._TemplateReference__context',
    'undefined', "strftime_now('%Y')", "strftime_now('%' * 999)", "strftime_now('\ud800')",
    "raise_exception('a\\nb')", "raise_exception('x' * 10**6)", 'raise_exception()', "'\ue000'",
    '().__class__.__mro__', "''.format.__globals__", "'{0.__class__}'.format(x)",
    "'%s' % messages", "'%99999999s' % 1", "'{:>99999999}'.format(1)", 'messages.__len__()',
    'messages | length', 'm(m)', 'caller()', 'varargs', "'<|im_end|>'", "'<image>'", 'true']
_FILTERS = [
    'upper', 'length', 'join', "join('<image>')", 'list', 'sort', 'reverse', 'tojson', 'first',
    'last', 'trim', 'replace("a", "a" * 9999)', 'indent(10**9)', 'center(10**9)', 'int',
    'wordwrap(0)', 'wordwrap(1)', 'batch(0)', 'batch(2)', 'slice(0)', 'map("upper")',
    'map(attribute="content")', 'selectattr("type")', 'groupby("type")', 'xmlattr', 'urlize',
    'random', 'pprint', 'safe', 'escape', 'float', 'round(10**9)', 'string', 'sum',
    'attr("__class__")', 'truncate(-1)', 'unique', 'tojson(indent=10**8)', 'filesizeformat',
    'default("x")', 'dictsort', 'format(1)', 'striptags', 'nosuch', 'abs', 'min']
_TEXTS = [
    '<|im_start|>user\n', '<|im_end|>\n', '<image>', '<|vision_start|><|image_pad|><|vision_end|>',
    '<|image_pad|>', 'a', '\n', ' ', '\ue000', 'é' * 999, '<', '{', '%}', '#}', '\0', '\u202e', '']
_TYPED = [
    '<|im_end|>', '<|im_start|>', 'system', '<image>', '<video>', '<|image_pad|>', '<|vision_',
    'start|>', '<|endoftext|>', '<', '|', '>', '<|IM_END|>', 'im_end', '\n', ' ', 'red', '\0',
    '<|pad|>', '<tool_call>', '\ue000', 'é', '<|<|im_end|>im_end|>', '\u200b', '<|im\u200b_end|>',
    '＜|im_end|＞', '<｜im_end｜>', '\u0301', '\ufeff', '<|im_end|', '|>', 'a' * 300,
    '<|vision_start|><|image_pad|>', '<s>', '</s>', '[INST]', '\U0010ffff', 'e\u0301']
_OPERATORS = ['+', '*', '**', '//', '%', '~', 'in', 'and', '==', 'is']
_TAILS = ['.a', '[0]', '[-1]', '.__class__', '()', '[:3]', '.append(1)']
_builders = {}


def _expression(rng, deep=0):
    kind = rng.integers(7) if deep < 4 else 0
    if kind < 3:
        return pick(rng, _VALUES)
    inner = _expression(rng, deep + 1)
    if kind == 3:
        return f'({inner}) | {pick(rng, _FILTERS)}'
    if kind == 4:
        return f'({inner} {pick(rng, _OPERATORS)} {_expression(rng, deep + 1)})'
    if kind == 5:
        return f'({inner}){pick(rng, _TAILS)}'
    return f'[{inner}, {pick(rng, _VALUES)}]'


def _program(rng, deep=0):
    """Return a random piece of a template."""
    inner = 'a' if deep == 3 else ''.join(
        _program(rng, deep + 1) for _ in range(rng.integers(1, 4)))
    value = _expression(rng)
    return pick(rng, [
        pick(rng, _TEXTS), pick(rng, _TEXTS), '{{ ' + value + ' }}', _QUESTION, inner,
        f'{{% for x in {value} %}}{inner}{{% endfor %}}',
        f'{{% for x in range(300) recursive %}}{inner}{{{{ loop([1]) }}}}{{% endfor %}}',
        f'{{% if {value} %}}{inner}{{% else %}}{inner}{{% endif %}}', f'{{% set x = {value} %}}',
        f'{{% macro m(c) %}}{inner}{{{{ m(c) }}}}{{% endmacro %}}{{{{ m({value}) }}}}',
        f'{{% set x %}}{inner}{{% endset %}}', f'{{% filter upper %}}{inner}{{% endfilter %}}',
        f'{{% call m() %}}{inner}{{% endcall %}}', f'{{% block a %}}{inner}{{% endblock %}}',
        f'{{% generation %}}{inner}{{% endgeneration %}}', '{% break %}', '{% continue %}',
        '{% include "a" %}', '{% extends "a" %}', '{% import "os" as os %}', '{% raw %}', '{#',
        '{% set ns = namespace(a=0) %}{% for x in range(99999) %}{% set ns.a = ns.a + 1 %}'
        '{% endfor %}', f'{{%- with x = {value} -%}}{inner}{{%- endwith -%}}'])


def _template(rng, good):
    """Return a template: one that is good, with something in it, or one that is all chance."""
    if rng.random() < 0.3:
        return ''.join(_program(rng) for _ in range(rng.integers(1, 6))) + _QUESTION
    at = [i for i, c in enumerate(good) if good[i:i + 2] in ('{{', '{%')] + [len(good)]
    at = pick(rng, at)
    return good[:at] + _program(rng) + good[at:]


def _opened(folder):
    bundle = Bundle.open(folder)
    config = json.loads((folder / 'config.json').read_bytes())
    return lambda: prompt_builder(bundle.family, SideFiles.of_bundle(bundle),
                                  family_for(config).config(config), _LIMITS)


def _controls(builder, ids):
    known = set(builder.tokenizer.added_tokens_decoder) - {builder.tokenizer.unk_token_id}
    return [i for i in ids if i in known]


def _type(rng, watch, builder, named=('front', 'rear')):
    """Type what a person may, and compare the control tokens with those of a plain question."""
    typed = ''.join(pick(rng, _TYPED) for _ in range(rng.integers(1, 9)))
    count = int(rng.integers(3))
    names = [pick(rng, [*named, '', typed]) for _ in range(count)] * int(rng.integers(2))
    watch(f'{typed!r}, {count} images, {names}')
    pictures = [bundles.PICTURE] * count

    def built(text, names):
        return builder.build(text, pictures, names)['input_ids'][0].tolist()
    plain = refusals.refused_or(lambda: built('what?', [name and 'a' for name in names]))
    ids = refusals.refused_or(lambda: built(typed, names))
    if (plain is None) != (ids is None):
        raise watched.Finding('one of two questions is refused')
    if ids is not None and _controls(builder, ids) != _controls(builder, plain):
        raise watched.Finding('control tokens from what a person typed')
    alone = builder._text.encode([Said(typed)])
    if _controls(builder, alone):
        raise watched.Finding('control tokens from what a person typed, alone')


def _changed_template(rng, watch):
    folder = bundles.copied(bundles.plain(pick(rng, bundles.FAMILIES)))
    name = 'chat_template.jinja'
    text = _template(rng, (folder / name).read_text())
    bundles.rewritten(folder / name, text.encode('utf-8', 'surrogatepass'))
    bundles.seal(folder, name)
    said = f'a template {text[:3000]!r}'
    bundles.watch_trials(watch, said)
    watch(said)
    builder = refusals.refused_or(_opened(folder), [folder])
    if builder is None:
        return
    # It may say other control tokens about other numbers of images; what is typed adds none.
    alone = builder._text.encode([Said('<|im_end|><image>')])
    if _controls(builder, alone):
        raise watched.Finding('control tokens from what a person typed')
    for count in (0, 3):
        watch(f'{said}\n{count} images')
        refusals.refused_or(lambda count=count: builder.build(
            'what?', [np.zeros((30, 40, 3), np.uint8)] * count), [folder])


def run_case(rng, watch):
    """Make one case: a template, or what a person types to models as they are."""
    with bundles.Leftovers():
        if rng.random() < 0.5:
            _changed_template(rng, watch)
            return
        for family in bundles.FAMILIES:
            if family not in _builders:
                folder = bundles.plain(family)
                bundles.watch_trials(watch, 'prompts')
                _builders[family] = _opened(folder)()
            for _ in range(20):
                bundles.watch_trials(watch, 'typed')
                _type(rng, watch, _builders[family])


if __name__ == '__main__':
    bundles.quiet()
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
