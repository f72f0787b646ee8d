# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running steps through the model, each with its bill, each to be stopped at any moment."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from neuron_chunk_ros.attention.segments import Segment
from neuron_chunk_ros.engine.attention import Attending
from neuron_chunk_ros.engine.drafts import Drafting, Speculation
from neuron_chunk_ros.engine.flash_embedding import FlashEmbedding
from neuron_chunk_ros.engine.flash_linear import FlashGroup
from neuron_chunk_ros.engine.flash_products import FlashProducts
from neuron_chunk_ros.engine.judge import Judge
from neuron_chunk_ros.engine.kv_cache import KvCache
from neuron_chunk_ros.engine.positions import Positions
from neuron_chunk_ros.engine.step import Step
from neuron_chunk_ros.engine.telemetry import Answer, AnswerProgress, StepTelemetry, Timing
from neuron_chunk_ros.errors import (
    ModelError,
    NeuronChunkError,
    RequestError,
    Stopped,
    out_of_memory,
)
from neuron_chunk_ros.families import GenerationSettings, PromptBuilder, PromptPart

_TELLS = 10  # times a prefill tells how far it is


def _of_libraries(error: Exception) -> bool:
    """Tell whether the model's own code raised it: neither ours nor a callback's."""
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    return at.tb_frame.f_globals.get('__name__', '').split('.')[0] in ('torch', 'transformers')


def _nothing(*_) -> None:
    pass


class Runner:
    """Runs pieces of a prompt, and the one greedy loop that answers."""

    def __init__(self, model, decoder: torch.nn.Module, groups: list[FlashGroup],
                 products: FlashProducts, prompts: PromptBuilder, settings: GenerationSettings,
                 step_tokens: int, attending: Attending,
                 drafting: Drafting | None = None, speculation: Speculation | None = None):
        """Take what runs.

        :param decoder: the model's decoder; a step's time begins with its first layer.
        :param settings: the model's own, of its answers; among them what ends one.
        :param step_tokens: tokens a step may have at most, as far as memory is declared.
        :param attending: told what the tokens of each pass are.
        :param drafting: of answers' next tokens; None for none.
        :param speculation: on them with what is held of the model; None where nothing is.
        """
        self._model, self._groups, self._products = model, groups, products
        self._prompts = prompts
        self._tokenizer, self._stops = prompts.tokenizer, frozenset(settings.stops)
        self._settings = settings
        self._step_tokens, self._attending = step_tokens, attending
        self._drafting, self._speculation = drafting, speculation
        self._positions = Positions(model, prompts)
        self._step: Step | None = None  # the one a pass is running for
        self._steps: list[StepTelemetry] = []
        self._timing = Timing()
        self._check, self._on_step, self._deadline = _nothing, None, None
        self._trace: list | None = None
        self._hooks = [decoder.register_forward_pre_hook(lambda *_: self._decoder_begins())]
        self._hooks += [
            module.register_forward_pre_hook(lambda *_: self._check())
            for module in model.modules()
            if isinstance(module, torch.nn.Linear)]  # the vision tower's, and the LM head

    def close(self) -> None:
        """Take the hooks off the model and let go of it."""
        for hook in self._hooks:
            hook.remove()
        self._model = self._positions = self._products = None
        self._groups, self._hooks = [], []

    def trace(self, spans: list | None) -> None:
        """Enter what later steps do in `spans`, see Step.trace; None ends it."""
        self._trace = spans

    @contextlib.contextmanager
    def work(self, deadline: float | None, cancelled: Callable[[], bool] | None,
             on_step: Callable[[StepTelemetry], None] | None) -> Iterator[None]:
        """Let steps run that may be stopped; leave everything in order however they end.

        :param deadline: on time.monotonic()'s clock.
        :param cancelled: asked every few milliseconds.
        :raises Stopped: from inside a step.
        """
        def check() -> None:
            if deadline is not None and time.monotonic() > deadline:
                raise Stopped('deadline')
            if cancelled is not None and cancelled():
                raise Stopped('cancelled')

        self._check, self._on_step, self._deadline = check, on_step, deadline
        self._steps, self._timing = [], Timing()
        try:
            check()
            yield
        except BaseException:
            self._products.abandon()
            for group in self._groups:
                group.forget()
            raise
        finally:
            self._check, self._on_step, self._step, self._deadline = _nothing, None, None, None

    def step(self, name: str, piece: PromptPart, cache: KvCache, start: int, *,
             logits: int = 0, on_decoder: Callable[[], None] = _nothing,
             on_progress: Callable[[float], None] = _nothing, drafts: Sequence[int] = (),
             judge: Callable[[torch.Tensor], torch.Tensor] | None = None
             ) -> tuple[int, StepTelemetry, torch.Tensor | None]:
        """Run a piece into the cache.

        :param start: position of its first token.
        :param logits: for how many of the last tokens the LM head is wanted.
        :param drafts: the last tokens, where they are guesses; the bill says how many were right.
        :param judge: changes the logits before they say what is right.
        :return: the first position behind it, the bill, and the logits, float32
            [logits, vocabulary].
        """
        if piece.tokens > self._step_tokens:
            raise RequestError(
                f'{piece.tokens} tokens at once, but memory_budget_mb leaves room for the '
                f'activations of {self._step_tokens}: fewer or smaller images, or a larger budget')
        with self._telling_of_config():
            positions, end = self._positions.of(piece, start)
        before = cache.get_seq_length()
        cache.segments.truncate(before)  # what a pass that ended midway left behind
        cache.segments.append(piece.segments or [Segment(piece.tokens)])
        self._attending.begin(cache.segments, before)
        self._step = Step(name, piece.tokens, piece.visual, logits, self._check, on_decoder,
                          on_progress, self._trace, self._deadline)
        self._step.bill.tokens_drafted = len(drafts)
        if isinstance(embedding := self._model.get_input_embeddings(), FlashEmbedding):
            embedding.step = self._step
        if not piece.pixels:
            self._decoder_begins()  # the embedding is of its time, and reading can go ahead
        with self._telling_of_config():
            hidden = self._model.model(
                input_ids=piece.ids, **piece.pixels, position_ids=positions,
                past_key_values=cache, use_cache=True).last_hidden_state
        # Two dimensions: a row of a larger [1, tokens, width] keeps its strides, and takes torch's
        # bfloat16 product on a CPU a hundred times as long.
        # A copy: what a product returns is the memory of the next one.
        out = self._model.lm_head(hidden[0, -logits:]).to(
            torch.float32, copy=True) if logits else None
        if judge is not None and out is not None:
            out = judge(out)
        if drafts:
            found = out.argmax(dim=1).tolist()
            self._step.bill.tokens_accepted = next(
                (i for i, guess in enumerate(drafts) if found[i] != guess), len(drafts))
        return end, self._end_step(), out

    @contextlib.contextmanager
    def _telling_of_config(self) -> Iterator[None]:
        """Put what libraries raise for settings that don't fit a model into a line with its path.

        A config may suit all weights and fail in a step alone, as odd rotary sections do.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, NeuronChunkError) or out_of_memory(error) or not _of_libraries(
                    error):
                raise
            raise self._prompts.files.failure(
                'config.json', f'a step fails with it ({type(error).__name__}: '
                f"{' '.join(str(error).split())[:300]}); take it and the processor files from the "
                'model this was converted from') from error

    def answer(self, prepare: Callable[[], PromptPart], cache: KvCache, start: int, *,
               max_new_tokens: int, deadline: float | None,
               on_step: Callable[[StepTelemetry], None] | None, on_progress: AnswerProgress | None,
               cancelled: Callable[[], bool] | None,
               ahead: Sequence[torch.Tensor] = ()) -> Answer:
        """Run a piece and take the likeliest token again and again; leave the cache as found.

        :param prepare: makes the piece; its time counts.
        :param deadline: seconds from now.
        :param ahead: tokens of the prompt that are in the cache already, int64 [1, tokens] each.
        """
        started = time.monotonic()
        notify = on_progress or _nothing
        notify('preprocess', 0.0, '')
        piece = prepare()
        found, fits = cache.get_seq_length(), cache.get_max_length()
        if max_new_tokens < 1:
            raise RequestError(f'max_new_tokens is {max_new_tokens}: it must be at least 1')
        if found + piece.tokens + max_new_tokens > fits:
            taken = self._context(cache) - fits + found
            beside = f', of which a stream of frames takes {taken}' if taken else ''
            raise RequestError(
                f'the question needs {piece.tokens} tokens and {max_new_tokens} more for the '
                f'answer, the context holds {self._context(cache)}{beside}: fewer or smaller '
                'images, fewer new tokens, or a larger max_context')
        preprocess = time.monotonic() - started
        ids: list[int] = []
        likelihood: list[float] = []
        try:
            with self.work(None if deadline is None else started + deadline, cancelled, on_step):
                judge = Judge(self._settings, torch.cat([*ahead, piece.ids], dim=1),
                              max_new_tokens)
                reason = self._generate(piece, cache, start, max_new_tokens, notify, ids,
                                        likelihood, judge)
        except Stopped as stop:
            reason = str(stop)
        finally:
            cache.truncate(found)
        timing = self._timing
        timing.preprocess, timing.total = preprocess, time.monotonic() - started
        likely = sum(likelihood) / len(likelihood) if likelihood else -math.inf
        # NaN where the model's own settings leave no token at all
        confidence = 0.0 if math.isnan(likely) else math.exp(likely)
        return Answer(self._text(ids), confidence, sum(i not in self._stops for i in ids),
                      reason, timing, StepTelemetry.total(self._steps), self._steps)

    def _generate(self, piece: PromptPart, cache: KvCache, start: int, limit: int,
                  notify: AnswerProgress, ids: list[int], likelihood: list[float],
                  judge: Judge) -> str:
        """Fill in tokens and their log probabilities; return why it ended."""
        if piece.pixels:
            notify('vision', 0.0, '')

        told = -1

        def tell(share: float) -> None:
            nonlocal told
            if int(_TELLS * share) > told:
                told = int(_TELLS * share)
                notify('prefill', share, '')

        start, _, logits = self.step('prefill', piece, cache, start, logits=1,
                                     on_decoder=lambda: tell(0.0), on_progress=tell,
                                     judge=lambda out: judge(out, []))
        drafts: list[int] = []
        observe, spent = None, 0.0  # told what a step and its drafts brought; seconds of drafts
        prompt = piece.ids[0].tolist() if self._drafting is not None else []
        while True:
            sure = logits.max(dim=1)
            # From a GPU in one go.
            found, spread = torch.stack([sure.indices.double(),
                                         (sure.values - logits.logsumexp(1)).double()]).tolist()
            found = [int(token) for token in found]
            if not all(map(math.isfinite, spread)):
                raise ModelError(f"step '{self._steps[-1].step}': logits are not finite, so there "
                                 'is no answer: the weights are damaged (neuron-chunk verify '
                                 'tells), or were so before they were converted')
            right = self._steps[-1].tokens_accepted
            if drafts:
                start -= len(drafts) - right
                cache.truncate(cache.get_seq_length() - len(drafts) + right)
            if observe is not None:
                observe(spent + self._steps[-1].seconds, len(drafts), right)
            for token, likely in list(zip(found, spread, strict=True))[:right + 1]:
                ids.append(token)
                likelihood.append(likely)
                if notify is not _nothing:  # the text so far costs more with each token
                    notify('decode', len(ids) / limit, self._text(ids))
                if token in self._stops:
                    return 'stop'
                if len(ids) == limit:
                    return 'length'
            drafts, spent, observe, most = [], 0.0, None, limit - len(ids) - 1
            if self._drafting is not None and self._products.chooser.dense:
                observe = self._drafting.observe
                drafts = self._drafting.propose([*prompt, *ids], most)
                if not drafts and self._speculation is not None:
                    observe = self._speculation.observe
                    drafts, spent = self._own_drafts(piece, ids, cache, start, most, judge)
            newest = PromptPart(piece.ids.new_tensor([[ids[-1], *drafts]]))
            start, _, logits = self.step('decode', newest, cache, start, logits=newest.tokens,
                                         drafts=drafts,
                                         judge=lambda out, all=(*ids, *drafts): judge(out, all))

    def _own_drafts(self, piece: PromptPart, ids: Sequence[int], cache: KvCache, start: int,
                    most: int, judge: Judge) -> tuple[list[int], float]:
        """Return drafts made with what is held, and their seconds; the cache is as it was."""
        token = ids[-1]
        drafts, sure, spent, found = [], 1.0, 0.0, cache.get_seq_length()
        most = min(most, self._speculation.most())
        while len(drafts) < most and self._speculation.worth(sure):
            start, bill, logits = self.step('draft', PromptPart(piece.ids.new_tensor([[token]])),
                                            cache, start, logits=1,
                                            judge=lambda out: judge(out, [*ids, *drafts]))
            self._speculation.observe_draft(bill.seconds)
            spent += bill.seconds
            best = logits.max(dim=1)
            token = int(best.indices)
            sure *= math.exp(float(best.values - logits.logsumexp(1)))
            drafts.append(token)
            if token in self._stops:
                break
        cache.truncate(found)
        return drafts, spent

    def _decoder_begins(self) -> None:
        step = self._step
        if step is None or step.started:
            return  # not one of our passes
        step.begin()
        if step.kind not in ('decode', 'draft'):
            self._timing.vision += step.started - step.made
        self._products.begin(step)

    def _end_step(self) -> StepTelemetry:
        step, self._step = self._step, None
        bill = self._products.end()
        bill.attention_density = self._attending.density
        if step.kind in ('decode', 'draft'):
            self._timing.decode += bill.seconds
        else:
            self._timing.prefill += bill.seconds
        self._steps.append(bill)
        if self._on_step is not None:
            self._on_step(bill)
        return bill

    def _text(self, ids: list[int]) -> str:
        wanted = [i for i in ids if i not in self._stops]
        return self._tokenizer.decode(wanted, skip_special_tokens=True).strip()

    @staticmethod
    def _context(cache: KvCache) -> int:
        return cache.layers[0].keys.shape[2]
