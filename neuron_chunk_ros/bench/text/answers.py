# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Forty questions to a published decoder: does it say the same, and how fast with drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron_chunk_ros.engine.session import Session

TOKENS = 64  # of an answer, at most
QUESTIONS = (
    'What is the capital of France?', 'Why is the sky blue?', 'What do bees make?',
    'Name three colours.', 'How many legs does a spider have?', 'What is a robot?',
    'Write a sentence about the sea.', 'What is the largest planet?', 'How do plants grow?',
    'What is 7 plus 5?', 'Who wrote Hamlet?', 'What is the opposite of cold?',
    'Explain what a camera does.', 'What is the freezing point of water?',
    'Give me a recipe for tea.', 'What is a triangle?', 'Why do we sleep?',
    'What is the fastest land animal?', 'How does a wheel help us?', 'What is memory?',
    'List the days of the week.', 'What is the boiling point of water?',
    'Describe a cat in one sentence.', 'What is gravity?', 'How many minutes are in an hour?',
    'What is a good name for a dog?', 'What is the moon made of?', 'Say hello in Spanish.',
    'What is a battery for?', 'How do birds fly?', 'What is the longest river in the world?',
    'Why are leaves green?', 'What does a doctor do?', 'What is bread made of?',
    'Count from one to ten.', 'What is a map?', 'Where do fish live?', 'What is a bridge for?',
    'What comes after Tuesday?', 'Tell me a fact about elephants.')

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Spoken:
    """What drafts did to the answers of one bundle."""

    how: str
    answers: int
    as_plain: int    # answers that are bfloat16's, word for word
    identical: int   # answers that are the same with drafts and without
    passes: int      # behind the first one, which reads the question
    tokens: int      # that these made
    drafted: int
    accepted: int
    seconds: float   # of decoding, with drafts
    seconds_without: float


def texts(bundle: Path, questions: Sequence[str], tell: Tell) -> list[str]:
    """Return a bundle's answers."""
    with Session.open(bundle, drafts=False, max_context=512) as session:
        found = []
        for number, question in enumerate(questions):
            found.append(session.ask(question, [], max_new_tokens=TOKENS).text)
            tell(number + 1)
        return found


def speak(how: str, bundle: Path, plain: Sequence[str], questions: Sequence[str],
          tell: Tell) -> Spoken:
    """Ask with drafts and without, in turns; refinements are read at each step."""
    as_plain = identical = tokens = passes = drafted = accepted = 0
    seconds = [0.0, 0.0]
    with Session.open(bundle, drafts=False, head_mb=0, max_context=512) as without, \
            Session.open(bundle, head_mb=0, max_context=512) as drafting:
        for number, (question, wanted) in enumerate(zip(questions, plain, strict=True)):
            found = [session.ask(question, [], max_new_tokens=TOKENS)
                     for session in (without, drafting)]
            seconds = [before + one.timing.decode
                       for before, one in zip(seconds, found, strict=True)]
            as_plain += found[0].text == wanted
            identical += found[0].text == found[1].text
            made = [step for step in found[1].steps if step.step == 'decode']
            passes += len(made)
            tokens += sum(1 + step.tokens_accepted for step in made)
            drafted += found[1].io.tokens_drafted
            accepted += found[1].io.tokens_accepted
            tell(number + 1)
    return Spoken(how, len(questions), as_plain, identical, passes, tokens, drafted, accepted,
                  seconds[1], seconds[0])
