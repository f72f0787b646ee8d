# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A session: one opened bundle that answers questions about images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.chunking import check_request
from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.engine.attention import MODES, Attending
from neuron_chunk_ros.engine.bases import Bases
from neuron_chunk_ros.engine.chooser import Chooser
from neuron_chunk_ros.engine.device import check_device
from neuron_chunk_ros.engine.drafts import Drafting, PromptLookup, Speculation
from neuron_chunk_ros.engine.drive import READ_TIMEOUT, Drive
from neuron_chunk_ros.engine.flash_products import FlashProducts
from neuron_chunk_ros.engine.frame_window import FrameWindow
from neuron_chunk_ros.engine.heads import Heads
from neuron_chunk_ros.engine.inputs import Inputs
from neuron_chunk_ros.engine.kv_cache import KvMemory
from neuron_chunk_ros.engine.memory_plan import (
    LARGEST_STEP,
    MIB,
    MemoryPlan,
    picture_bytes,
    plan_memory,
)
from neuron_chunk_ros.engine.positions import KeyRotation
from neuron_chunk_ros.engine.resident import build_model, close_model, read_config
from neuron_chunk_ros.engine.rows import STORED, compute_dtype
from neuron_chunk_ros.engine.runner import Runner
from neuron_chunk_ros.engine.telemetry import Answer, AnswerProgress, StepTelemetry
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.families import (
    FAMILIES,
    GenerationSettings,
    PromptBuilder,
    prompt_builder,
    settings_of,
)
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.reader import Reader
from neuron_chunk_ros.storage.side_files import SideFiles

DEFAULT_CONTEXT = 4096
DEFAULT_FLOOR = 0.9
ON_DRIVE_FAULT = ('coarse', 'fail')
WORDS_SHARE = ('text_sparsity is above 0: the words of a prompt then share one choice of rows, '
               'which ruins what a decoder says of them; it is for experiments')


class Session:
    """Answers questions with a model whose decoder weights are read from flash at each step.

    Not for use from several threads at once. A context manager; `close` frees everything.
    """

    def __init__(self, bundle: Bundle, config, prompts: PromptBuilder,
                 generation: GenerationSettings, model, groups, products: FlashProducts,
                 reader: Reader, memory: KvMemory, plan: MemoryPlan, memory_budget_mb: int | None,
                 profile_note: str, drafts: bool, limits: Limits):
        """Use `Session.open`."""
        self.profile_note = profile_note  # why no measured profile is in use; '' where one is
        self.bundle, self.config, self.plan = bundle, config, plan
        self.context, self._budget_mb = memory.context, memory_budget_mb
        self._model, self._products, self._reader, self._memory = model, products, reader, memory
        self._prompts = prompts
        self._dtype = compute_dtype(bundle.dtype, str(model.device))
        self._inputs = Inputs(self._prompts, model.device, self._dtype, self.context, limits)
        # The decoder's list of layers is an attribute of the decoder.
        self._decoder = model.get_submodule(
            FAMILIES[bundle.family].decoder_path.rpartition('.')[0])
        self._attending = Attending(head_classes(bundle, config.text_config))
        self._attending.attach(self._decoder.layers)
        self._generation = generation
        self._runner = Runner(
            model, self._decoder, groups, products, self._prompts, generation,
            min(self.context, LARGEST_STEP) if memory_budget_mb else self.context,
            self._attending,
            drafting=Drafting(PromptLookup()) if drafts else None,
            speculation=Speculation() if drafts and products.bases.complete else None)
        self._stream: FrameWindow | None = None

    @classmethod
    def open(cls, bundle: str | Path, *, policy: str = 'dense', sparsity: float = 0.0,
             text_sparsity: float = 0.0, deadline_ms: float = 0.0,
             profile: Profile | None = None, memory_budget_mb: int | None = None,
             head_mb: float | None = None, min_importance: float = DEFAULT_FLOOR,
             drafts: bool = True, cameras: int = 1, max_context: int = DEFAULT_CONTEXT,
             on_drive_fault: str = 'coarse', attention: str = 'dense', piece_mb: float = 16,
             device: str = 'cpu', backend: str = 'auto',
             direct: str = 'auto', threads: int = 6, queue_depth: int = 128,
             limits: Limits = DEFAULT_LIMITS, read_timeout: float = READ_TIMEOUT,
             on_progress: Callable[[float], None] | None = None) -> Session:
        """Open a bundle.

        :param policy: 'dense', 'topk', 'greedy' or 'optimal'.
        :param sparsity: fraction of the decoder not read for visual and for generated tokens,
            [0, 1). A calibrated bundle spreads it over the groups so that it hurts least.
        :param text_sparsity: the same for the text tokens of a prompt.
        :param deadline_ms: milliseconds that each step may take, in place of the fractions; 0:
            none. What is read is then what keeps most importance in that time.
        :param profile: of the storage; by default the one measured beside the bundle.
        :param memory_budget_mb: what the session may take beyond Python and its libraries:
            resident weights, read buffers, KV cache, activations; what these leave holds rows of
            the decoder that then need not be read (heads). Refused before loading where it is
            too small.
        :param head_mb: memory for heads [MiB]; None: what the budget leaves, none without one.
        :param min_importance: with `deadline_ms`, the share of a group's importance that is kept
            even where the deadline is missed for it.
        :param drafts: whether several tokens of an answer may be guessed (from the prompt and the
            answer so far) and verified in one step, where nothing is skipped and it pays.
        :param cameras: of the stream there is to be; memory for several is set aside.
        :param max_context: prompt and answer tokens the KV cache may hold.
        :param on_drive_fault: where rows are in two parts, what a drive that fails or hangs does:
            'coarse': answers go on with what is held, marked, until it is back; 'fail': they end
            with ReadError, as they do for any other bundle.
        :param attention: 'dense', or 'blindsight': heads see what their classes let them of
            images, where the bundle has classes (`neuron-chunk attention characterize`).
        :param piece_mb: the largest piece read at once; what is read into is three times as large.
        :param device: torch device of everything resident.
        :param backend, direct, threads, queue_depth: see storage.reader.Reader.
        :param read_timeout: seconds after which a read that doesn't come back ends the work with
            ReadError, where nothing can be done without it.
        :param limits: of questions and of the files beside the weights.
        :param on_progress: told the share of resident weights that is loaded, 0 to 1, ascending;
            what it raises ends the loading.
        :raises BundleError, MemoryBudgetError, ReadError: see errors.py.
        :raises ValueError: for a policy, sparsity or device that doesn't exist.
        """
        if on_drive_fault not in ON_DRIVE_FAULT:
            raise ValueError(f"on_drive_fault is '{on_drive_fault}', want one of "
                             f'{", ".join(ON_DRIVE_FAULT)}')
        check_request(policy, sparsity, text_sparsity, deadline_ms)
        _check_attention(attention)
        check_device(device)
        bundle = Bundle.open(bundle)
        # Before anything is loaded: a file that can't be used is told of at once.
        _, config = read_config(bundle)
        prompts = prompt_builder(
            bundle.family, SideFiles.of_bundle(bundle, limits.side_file_mb), config, limits)
        generation = settings_of(config, prompts)
        text = config.text_config
        context = min(max_context, text.max_position_embeddings)
        reader = Reader([str(p) for p in bundle.flash_files], backend=backend, direct=direct,
                        threads=threads, queue_depth=queue_depth)
        try:
            note = ''
            if profile is None:
                profile, note = profile_file.find(bundle.path)
            dtype = compute_dtype(bundle.dtype, device)
            piece, faults = int(piece_mb * MIB), on_drive_fault == 'coarse'
            plan = plan_memory(bundle, config, context=context, dtype=dtype, piece_bytes=piece,
                               slack=reader.slack, budget_mb=memory_budget_mb,
                               head_mb=head_mb, cameras=cameras, faults=faults)
            heads = Heads(bundle.multiplied, plan.head_rows, reader, dtype, device)
            # With a base no row is ever missing: there is nothing a deadline must not cost.
            chooser = Chooser(bundle, _budgets(bundle), profile or Profile.assumed(),
                              reader.block_size, heads.rows, 0 if bundle.bases else min_importance)
            chooser.configure(policy, sparsity, text_sparsity, deadline_ms)
            tell = on_progress or (lambda share: None)
            first = bundle.base_bytes / max(1, bundle.base_bytes + bundle.resident_bytes)
            bases = Bases(bundle, reader, device, lambda share: tell(first * share),
                          plan.coarse_words, plan.streamed)
            drive = Drive(faults and bases.complete, read_timeout)
            products = FlashProducts(bundle, reader, chooser, heads, piece, device, bases, drive)
            memory = KvMemory(text, context, dtype, device)
            model, groups = build_model(bundle, config, products, device,
                                        lambda share: tell(first + (1 - first) * share),
                                        backend=backend, direct=direct, drive=drive,
                                        words=bundle.embedding and bases.weights(bundle.embedding))
            session = cls(bundle, config, prompts, generation, model, groups, products, reader,
                          memory, plan, memory_budget_mb, note, drafts, limits)
            session.configure(attention=attention)
            return session
        except BaseException:
            reader.close()
            raise

    @property
    def model_name(self) -> str:
        """What the model is called: its source folder's name."""
        return str(self.bundle.provenance.get('source') or self.bundle.path.name)

    @property
    def policy(self) -> str:
        """The selection policy."""
        return self._products.chooser.policy

    @property
    def sparsity(self) -> float:
        """Fraction of the decoder not read for visual and generated tokens."""
        return self._products.chooser.sparsity

    @property
    def attention(self) -> str:
        """How heads attend to images: 'dense' or 'blindsight'."""
        return self._attending.mode

    @property
    def has_head_classes(self) -> bool:
        """Whether the bundle says what each head looks at."""
        return self._attending.classes is not None

    @property
    def profile(self) -> Profile:
        """The storage profile in use; its `source` says where it comes from."""
        return self._products.chooser.profile

    @property
    def direct_io(self) -> bool:
        """Whether reads bypass the page cache."""
        return self._reader.direct

    @property
    def backend(self) -> str:
        """The reader's back end."""
        return self._reader.backend

    @property
    def notes(self) -> list[str]:
        """What the reader fell back from and why, and settings that are for experiments."""
        notes = list(self._reader.notes)
        if self._generation.note:
            notes.append(self._generation.note)
        if self._dtype != STORED[self.bundle.dtype]:
            notes.append(f'this processor is slow in {self.bundle.dtype}: computing in '
                         f'{str(self._dtype).removeprefix("torch.")}')
        if self._products.drive.forgiving and not self.plan.coarse_words:
            notes.append('memory_budget_mb leaves no room for coarse words: while the drive '
                         'fails, answers end at the first word that was not read before')
        if self.plan.streamed:
            notes.append(
                f'memory_budget_mb leaves no room for {len(self.plan.streamed)} of '
                f'{len(self.bundle.multiplied)} bases: they are read for each step, drafts '
                'come from the prompt alone, and a drive that fails ends answers')
        if self.attention == 'blindsight' and self._attending.classes is None:
            notes.append('this bundle has no classes of heads, so all attend to everything: '
                         f'neuron-chunk attention characterize {self.bundle.path} --images DIR')
        if self._products.chooser.text_sparsity and not self.bundle.bases:
            notes.append(WORDS_SHARE)
        return notes

    def configure(self, *, policy: str | None = None, sparsity: float | None = None,
                  text_sparsity: float | None = None, deadline_ms: float | None = None,
                  attention: str | None = None) -> None:
        """Change what is skipped; what is None stays. Raises ValueError."""
        if attention is not None:
            _check_attention(attention)
            self._attending.mode = attention
        now = self._products.chooser
        wanted = [new if new is not None else old for new, old in (
            (policy, now.policy), (sparsity, now.sparsity), (text_sparsity, now.text_sparsity),
            (deadline_ms, now.deadline_ms))]
        check_request(*wanted)
        if wanted == [now.policy, now.sparsity, now.text_sparsity, now.deadline_ms]:
            return
        self._products.abandon()
        now.configure(*wanted)

    def trace(self, spans: list | None) -> None:
        """Enter what later steps do in `spans`, see engine.step.Step.trace; None ends it."""
        self._runner.trace(spans)

    def memory(self) -> dict[str, float]:
        """Return what the session takes [MiB], by kind; `flash` is what stays on flash."""
        return {'resident': self.plan.resident / MIB, 'bases': self.plan.bases / MIB,
                'buffers': self.plan.buffers / MIB,
                'kv_cache': self.plan.kv_cache / MIB,
                'activations': self.plan.activations / MIB, 'heads': self.plan.heads / MIB,
                'key_copies': self.plan.key_copies / MIB,
                'total': self.plan.total / MIB, 'flash': self.bundle.flash_bytes / MIB}

    def picture_bytes(self, images: int) -> int:
        """Return what a question with so many images, as large as the context holds, takes.

        Beside the plan, which has room for one of the model's own size.
        """
        return picture_bytes(self.config, *self._prompts.most_patches(images, self.context))

    def read_under_way(self) -> float:
        """Return for how many seconds a read has kept everybody waiting; from any thread."""
        products = self._products
        return products.drive.under_way() if products is not None else 0.0

    def can_say(self, name: str) -> bool:
        """Whether the model's vocabulary has the words of a name; where not, it isn't told."""
        return self._prompts.can_say(name)

    def check_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuse a question's images by their sizes (height, width) alone; from any thread.

        :raises RequestError: for too many, too large, or more than the context holds.
        """
        self._inputs.check_sizes(sizes)

    def prepare(self, prompt: str, images: Sequence[np.ndarray],
                names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Return the model's inputs for a question, on the session's device.

        :raises RequestError: for an empty prompt or an image that isn't uint8 [h, w, 3].
        """
        return self._inputs.question(prompt, images, names)

    @torch.inference_mode()
    def ask(self, prompt: str, images: Sequence[np.ndarray], *,
            names: Sequence[str] | None = None, max_new_tokens: int = 32,
            deadline: float | None = None,
            on_step: Callable[[StepTelemetry], None] | None = None,
            on_progress: AnswerProgress | None = None,
            cancelled: Callable[[], bool] | None = None) -> Answer:
        """Answer a question about images. A stream, where there is one, stays as it is.

        :param images: uint8 [height, width, 3] RGB each, in the order the prompt counts them.
        :param names: told to the model ahead of each image, where it has the words (`can_say`);
            '' for none.
        :param deadline: seconds from now; when it comes, the answer is what there is by then.
        :param on_step: called with each step's bill as the step ends.
        :param on_progress: called with stage ('preprocess', 'vision' where there are images,
            'prefill', 'decode'), its progress from 0 to 1 and the text so far: at each stage's
            start, within prefill, and after each token.
        :param cancelled: asked every few milliseconds; a true answer ends the work.
        :raises RequestError: for a question that can't be answered as asked.
        :raises ReadError: when reading from flash fails; the session stays usable.
        """
        behind = self._memory.cache(0 if self._stream is None else self._stream.tokens)
        return self._runner.answer(
            lambda: self._inputs.whole(prompt, images, names), behind, 0,
            max_new_tokens=max_new_tokens, deadline=deadline, on_step=on_step,
            on_progress=on_progress, cancelled=cancelled)

    def stream(self, window: int, cameras: int = 1) -> FrameWindow:
        """Begin a stream of frames in the session's own memory; an earlier one ends.

        :param window: frames kept of each camera, the last ones.
        :param cameras: how many there are at most. With several, a frame may leave from between
            others; those ahead of it keep a copy of their keys, up to half the KV cache.
        :raises ValueError: for a window or cameras below 1.
        :raises MemoryBudgetError: where the copies don't fit the budget the session was opened
            with.
        :raises ModelError: where the model's rotary positions or chat template don't allow it.
        """
        copies = self.plan.kv_cache // 2 if cameras > 1 else 0
        plan = replace(self.plan, key_copies=copies)
        plan.check(self._budget_mb)
        stream = FrameWindow(window, cameras, self._memory, self._runner, self._inputs,
                        KeyRotation(self._decoder, self._memory.head))
        self.plan = plan
        if self._stream is not None:
            self._stream.close()
        self._stream = stream
        return stream

    def close(self) -> None:
        """Free the model, the buffers and the reader. A second call does nothing."""
        if self._reader is None:
            return
        if self._stream is not None:
            self._stream.close()
        self._runner.close()
        close_model(self._model)
        drive = self._products.drive
        self._products.close()
        drive.when_gone(self._reader.close)
        self._model = self._decoder = self._memory = self._runner = self._stream = None
        self._products = self._reader = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _check_attention(attention: str) -> None:
    if attention not in MODES:
        raise ValueError(f"attention is '{attention}', want one of {', '.join(MODES)}")


def head_classes(bundle: Bundle, text_config) -> list[list[int]] | None:
    """Return the class of each layer's heads; None where the bundle has none.

    Raises BundleError for those of another model.
    """
    if bundle.attention is None:
        return None
    heads = bundle.attention['heads']
    want = text_config.num_hidden_layers, text_config.num_attention_heads
    if (len(heads), len(heads[0])) != want:
        raise BundleError(f'{bundle.path}: its head classes are of {len(heads)} layers of '
                          f'{len(heads[0])} heads, the model has {want[0]} of {want[1]}: '
                          'characterise it again')
    return heads


def _budgets(bundle: Bundle) -> Budgets:
    try:
        return Budgets.from_calibration(bundle.calibration)
    except ValueError as error:
        raise BundleError(f'{bundle.path}: {error}; calibrate it again') from error
