# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Places in the memory that is read into: never two at once, and one that fits is always found."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.engine.ring import Ring

PAGE = 4096


class Event:
    """A copy that is over once somebody has waited for it."""

    def __init__(self):
        self.over = False

    def synchronize(self):
        self.over = True


@settings(max_examples=300, deadline=None)
@given(pages=st.integers(3, 40), moves=st.lists(
    st.tuples(st.sampled_from(['take', 'give back', 'give back by event', 'clear']),
              st.floats(0, 1)), max_size=60))
def test_places_never_overlap_while_in_use(pages, moves):
    ring, taken, copying = Ring(pages * PAGE), deque(), []
    for move, part in moves:
        if move == 'take':
            nbytes = max(1, int(part * pages * PAGE))
            at = ring.take(nbytes)
            copying = [(begin, end, event) for begin, end, event in copying if not event.over]
            if at is None:
                assert taken, 'an empty ring has room'
                # A third fits beside one place, wherever that lies.
                assert len(taken) > 1 or 3 * (nbytes + PAGE) > (pages - 3) * PAGE or (
                    taken[0][1] - taken[0][0] > pages * PAGE // 3)
                continue
            assert at % PAGE == 0 and at + nbytes <= pages * PAGE
            for begin, end in [*taken, *((b, e) for b, e, _ in copying)]:
                assert at >= end or at + nbytes <= begin
            taken.append((at, at + nbytes))
        elif move == 'clear':
            ring.clear()
            assert all(event.over for _, _, event in copying)
            taken.clear()
            copying = []
        elif taken:
            begin, end = taken.popleft()
            event = Event() if move == 'give back by event' else None
            ring.give_back(event)
            if event is not None:
                copying.append((begin, end, event))
