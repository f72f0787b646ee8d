# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk tabletop train, eval, draw: the small model that ships, and its world."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from dataclasses import replace
from pathlib import Path


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'train and evaluate the small model that ships, draw its world'
    parser = subparsers.add_parser('tabletop', help=text, description=f'{text.capitalize()}.')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)

    train = commands.add_parser('train', help='train it; goes on where an earlier run stopped')
    train.add_argument('folder', metavar='RUN_DIR', type=Path,
                       help='holds the run; the model is written to RUN_DIR/model')
    train.add_argument('--seed', type=int, help="default: the shipped model's")
    train.add_argument('--steps', type=int, help='of the second stage (default: as shipped)')
    train.add_argument('--threads', type=int, help='CPU threads (default: all cores)')
    train.set_defaults(run=_train)

    evaluate = commands.add_parser('eval', help='print exact match by question type')
    evaluate.add_argument('--model', metavar='MODEL_DIR', type=Path,
                          help='a Hugging Face folder, or a bundle, such as a compressed one '
                               '(default: the shipped model)')
    evaluate.add_argument('--per-type', metavar='N', type=int, default=300,
                          help='questions of each type (default 300)')
    evaluate.add_argument('--seed', type=int, default=1_000_003)
    evaluate.add_argument('--blank', action='store_true',
                          help='also with a grey image: how far guessing gets')
    evaluate.add_argument('--json', action='store_true', help='for programs')
    evaluate.set_defaults(run=_evaluate)

    draw = commands.add_parser('draw', help='write pictures of its world, and questions about '
                                            'them with answers')
    draw.add_argument('folder', metavar='DIR', type=Path, help='folder to write; must not exist')
    draw.add_argument('--per-type', metavar='N', type=int, default=20,
                      help='questions of each type (default 20)')
    draw.add_argument('--seed', type=int, default=1_000_003)
    draw.set_defaults(run=_draw)


def _train(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from neuron_chunk_ros.tabletop.training import Recipe, Training
    recipe = Recipe()
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, answer_steps=args.steps)
    if args.threads:
        torch.set_num_threads(args.threads)
    training = Training(args.folder, recipe)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # the step under way is finished and saved
        signal.signal(number, lambda *_: stopped.set())
    seen: dict[str, float] = {}
    with tqdm(total=recipe.steps, initial=training.step, desc='train', unit='step') as bar:
        def report(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                seen[name] = 0.95 * seen.get(name, value) + 0.05 * value
            bar.set_postfix({k: f'{v:.3f}' for k, v in seen.items()}, refresh=False)
            bar.update()
        finished = training.run(report, stopped.is_set)
    if not finished:
        print(f'stopped and saved at step {training.step} of {recipe.steps}; the same command '
              'goes on from there')
        return 130
    training.export(args.folder / 'model')
    print(f'{args.folder / "model"}: trained in {training.step} steps')
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from neuron_chunk_ros.tabletop import evaluation, shipped
    folder = args.model or shipped.model_dir()
    if (folder / 'bundle.json').exists():
        from neuron_chunk_ros.prepare.restore import restore
        folder = restore(folder)
    kinds = len(evaluation.SINGLE_VIEW) + len(evaluation.MULTI_VIEW)
    with tqdm(total=kinds * (1 + args.blank), desc='eval', disable=None, leave=False) as bar:
        def report(kind: str) -> None:
            bar.set_postfix_str(kind)
            bar.update()
        scores = evaluation.exact_match(folder, args.per_type, args.seed, report=report)
        guessing = evaluation.exact_match(
            folder, args.per_type, args.seed, True, report) if args.blank else None
    if args.json:
        print(json.dumps({'scores': scores, 'guessing': guessing, 'per_type': args.per_type,
                          'seed': args.seed}))
    else:
        print(evaluation.table(scores, guessing))
    return 0


def _draw(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.tabletop.evaluation import draw
    count = draw(args.folder, args.per_type, args.seed)
    print(f'{args.folder / "questions.jsonl"}: {count} questions about the pictures beside it')
    return 0
