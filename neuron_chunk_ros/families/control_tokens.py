# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenising a prompt in which only the chat template's own text makes control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Said(str):
    """What a person wrote, or a name: text, however much it looks like a control token."""


class PromptTokenizer:
    """A tokenizer that takes template text and what people said apart.

    Where nobody wrote anything that looks like a control token, the tokens are those of the whole
    text at once.
    """

    def __init__(self, tokenizer):
        """`tokenizer`: transformers'; its added tokens are what controls."""
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._number = {token.content: number for number, token in added.items()}
        # What stands for words that aren't known is no control.
        self._control = frozenset(added) - {tokenizer.unk_token_id}
        longest_first = sorted(added.values(), key=lambda token: -len(token.content))
        self._anywhere = re.compile('|'.join(re.escape(t.content) for t in longest_first)
                                    or '(?!)')
        # Some take the space beside them along.
        self._split = re.compile('(' + ('|'.join(
            r'\s*' * t.lstrip + re.escape(t.content) + r'\s*' * t.rstrip
            for t in longest_first) or '(?!)') + ')')

    def encode(self, parts: Sequence[str]) -> list[int]:
        """Return the tokens of texts, one behind the other; those that are Said are plain."""
        ids: list[int] = []
        run: list[str] = []
        for part in parts:
            if isinstance(part, Said):
                run.append(part)
                continue
            for index, piece in enumerate(self._split.split(part)):
                if index % 2:
                    ids += self._plain(''.join(run))
                    run = []
                    ids.append(self._number[piece if piece in self._number else piece.strip()])
                else:
                    run.append(piece)
        return ids + self._plain(''.join(run))

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._ids(text)
        if self._control.isdisjoint(ids):
            return ids
        # Tokenizers keep added tokens together that aren't called special, or that are words of
        # the vocabulary: behind their first letter they are cut.
        ids, start = [], 0
        while (found := self._anywhere.search(text, start)) is not None:
            ids += self._ids(text[start:found.start() + 1])
            start = found.start() + 1
        return [i for i in ids + self._ids(text[start:]) if i not in self._control]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True
                                      ) if text else []
