# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk tabletop train, eval, draw: the small model that ships, and its world.

And a world that others made, easy-VQA, seen through a decoder that others trained.
"""

from __future__ import annotations

import argparse
import json
import signal

from neuron_chunk_ros.cache import cache_folder
from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import ModelError


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'train and evaluate the small model that ships, draw its world'
    parser = subparsers.add_parser('tabletop', help=text, description=f'{text.capitalize()}.')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)

    train = commands.add_parser('train', help='train it; goes on where an earlier run stopped')
    train.add_argument('folder', metavar='RUN_DIR', type=arguments.path,
                       help='holds the run; the model is written to RUN_DIR/model')
    train.add_argument('--seed', type=arguments.seed, help="default: the shipped model's")
    train.add_argument('--steps', type=arguments.whole(1),
                       help='of the stage that teaches answers (default: as '
                                                 'shipped)')
    _world(train)
    train.add_argument('--decoder', choices=('own', 'published'),
                       help='train a decoder, too (tabletop), or teach a vision tower to speak to '
                            'SmolLM2-135M-Instruct (easy-vqa); as the world needs it')
    train.add_argument('--threads', type=arguments.whole(1, 1024),
                       help='CPU threads (default: all cores)')
    train.set_defaults(run=_train)

    evaluate = commands.add_parser('eval', help='print exact match by question type')
    evaluate.add_argument('--model', metavar='MODEL_DIR', type=arguments.path,
                          help='a Hugging Face folder, or a bundle, such as a compressed one '
                               '(default: the shipped model)')
    _world(evaluate)
    evaluate.add_argument('--questions', metavar='N', type=arguments.whole(1), default=3000,
                          help="of easy-VQA's 9,673 for testing (default 3000)")
    evaluate.add_argument('--per-type', metavar='N', type=arguments.whole(1), default=300,
                          help="of tabletop's questions of each type (default 300)")
    evaluate.add_argument('--seed', type=arguments.seed, default=1_000_003)
    evaluate.add_argument('--blank', action='store_true',
                          help='also with a grey image: how far guessing gets')
    evaluate.add_argument('--json', action='store_true', help='for programs')
    evaluate.set_defaults(run=_evaluate)

    draw = commands.add_parser('draw', help='write pictures of its world, and questions about '
                                            'them with answers')
    draw.add_argument('folder', metavar='DIR', type=arguments.target,
                      help='folder to write; must not exist')
    draw.add_argument('--per-type', metavar='N', type=arguments.whole(1), default=20,
                      help='questions of each type (default 20)')
    draw.add_argument('--seed', type=arguments.seed, default=1_000_003)
    draw.set_defaults(run=_draw)


def _world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--world', choices=('tabletop', 'easy-vqa'), default='tabletop',
                        help='whose pictures and questions (default tabletop; easy-vqa: the 5,000 '
                             'pictures of the PyPI package, fetched when needed)')


def _training(args: argparse.Namespace):
    """Return the run that was asked for. Raises ModelError where there is no such."""
    easy = args.world == 'easy-vqa'
    if args.decoder not in (None, 'published' if easy else 'own'):
        raise ModelError(f'--world {args.world} has no --decoder {args.decoder}: tabletop trains '
                         'its own, easy-vqa takes the published one')
    args.folder.mkdir(parents=True, exist_ok=True)  # what can't be shows before the first step
    changed = {} if args.seed is None else {'seed': args.seed}
    if not easy:
        from neuron_chunk_ros.tabletop.training import Recipe, Training
        if args.steps is not None:
            changed['answer_steps'] = args.steps
        return Training(args.folder, Recipe(**changed))
    from neuron_chunk_ros.published import decoder, easy_vqa
    from neuron_chunk_ros.published.training import Recipe, Training
    if args.steps is not None:
        changed['low_rank_steps'] = args.steps
    cache = cache_folder()
    return Training(args.folder, Recipe(**changed), decoder.model_folder(cache),
                    easy_vqa.pictures(cache, 'train'))


def _train(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm
    if args.threads:
        torch.set_num_threads(args.threads)
    training = _training(args)
    recipe = training.recipe
    stopped: list[int] = []  # no Event: its set() may not be interrupted by another
    for number in (signal.SIGINT, signal.SIGTERM):  # the step under way is finished and saved
        signal.signal(number, lambda number, _: stopped.append(number))
    seen: dict[str, float] = {}
    with tqdm(total=recipe.steps, initial=training.step, desc='train', unit='step') as bar:
        def report(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                seen[name] = 0.95 * seen.get(name, value) + 0.05 * value
            bar.set_postfix({k: f'{v:.3f}' for k, v in seen.items()}, refresh=False)
            bar.update()
        finished = training.run(report, lambda: bool(stopped))
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
    if args.world == 'easy-vqa':
        return _evaluate_easy_vqa(args)
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


def _evaluate_easy_vqa(args: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from tqdm import tqdm

    from neuron_chunk_ros.published import easy_vqa, evaluation
    if args.model is None:
        raise ModelError('no model for easy-vqa comes along: train one (neuron-chunk tabletop '
                         'train RUN_DIR --world easy-vqa) and give it as --model RUN_DIR/model')
    model = evaluation.load(args.model)
    shown = easy_vqa.pictures(cache_folder(), 'test')
    with tqdm(desc='eval', disable=None, leave=False) as bar:
        exam = evaluation.easy_vqa_exam(model, args.model, shown, args.questions, args.seed,
                                        bar.update)
        found = [exam.right(model, progress=bar.update)]
        if args.blank:
            for sheet in exam.sheets:
                with torch.inference_mode():
                    sheet.features.copy_(evaluation.grey_features(model))
            found.append(exam.right(model, progress=bar.update))
    scores, *guessing = [exam.by_type(right) | {'all': float(np.mean(right))} for right in found]
    if args.json:
        print(json.dumps({'scores': scores, 'guessing': guessing[0] if guessing else None,
                          'questions': len(exam), 'seed': args.seed}))
    else:
        print(f'{"type":<18}{"exact match":>11}{"   blank image" if guessing else ""}')
        for name, share in scores.items():
            print(f'{name:<18}{share:>11.3f}' + (f'{guessing[0][name]:>14.3f}' if guessing
                                                 else ''))
    return 0


def _draw(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.tabletop.evaluation import draw
    count = draw(args.folder, args.per_type, args.seed)
    print(f'{args.folder / "questions.jsonl"}: {count} questions about the pictures beside it')
    return 0
