# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The segment table, held against a plain list with an entry for each token."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuron_chunk_ros.attention.segments import Segment, SegmentTable


class Tokens(RuleBasedStateMachine):
    """Each token is (number of its image or None, whether it is text)."""

    def __init__(self):
        super().__init__()
        self.table, self.plain, self.images = SegmentTable(), [], 0

    @rule(tokens=st.integers(0, 6))
    def text(self, tokens):
        self.table.append([Segment(tokens)])
        self.plain += [(None, True)] * tokens

    @rule(tokens=st.integers(1, 6), data=st.data())
    def image(self, tokens, data):
        text = data.draw(st.sets(st.integers(0, tokens - 1)))
        self.table.append([Segment(tokens, True, tuple(sorted(text)))])
        self.plain += [(self.images, at in text) for at in range(tokens)]
        self.images += 1

    @rule(share=st.floats(0, 1))
    def truncate(self, share):
        left = round(share * len(self.plain))
        self.table.truncate(left)
        self.plain = self.plain[:left]

    @precondition(lambda self: any(image is not None for image, _ in self.plain))
    @rule(data=st.data())
    def remove(self, data):
        there = list(dict.fromkeys(image for image, _ in self.plain if image is not None))
        gone = data.draw(st.sets(st.sampled_from(range(len(there))), min_size=1))
        self.table.remove(sorted(gone))
        self.plain = [token for token in self.plain
                      if token[0] is None or there.index(token[0]) not in gone]

    @invariant()
    def same(self):
        found, number = [], 0
        for start, segment in self.table:
            assert start == len(found) and segment.tokens > 0
            found += [(number if segment.image else None, not segment.image or at in segment.text)
                      for at in range(segment.tokens)]
            number += segment.image
        there = list(dict.fromkeys(image for image, _ in self.plain if image is not None))
        assert found == [(None if image is None else there.index(image), text)
                         for image, text in self.plain]
        assert self.table.tokens == len(self.plain)
        kinds = [segment.image for _, segment in self.table]
        assert not any(not one and not other
                       for one, other in zip(kinds, kinds[1:], strict=False))


TestTokens = Tokens.TestCase
TestTokens.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
