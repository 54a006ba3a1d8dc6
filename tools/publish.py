"""Weights of a finished run as one small file that says what it is.

python tools/publish.py runs/mine --out mine.safetensors --licence "CC BY-NC-SA 4.0"
python tools/publish.py runs/mine --out mine.safetensors --licence MIT --data "10,000 faces of ours"

The run is of a restorer, a parser or a landmark network. The file holds the network in 16 bits and,
as metadata: its name and arguments, recipe, training data in words, images seen, score on the
validation set, licence. A run that started from such a file, or from another run, counts the images
of that one, too. Weights inherit obligations from the pictures that they were trained on, so there
is no default licence. infer.py, and train.py by --start, --parser and --prior, take the file.
"""

import program

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

import degrade
import models
import storage
from errors import BadFile, RunError
from storage import shown, tensors
from tasks import shipped
from tools import arguments
from tools.finished_run import FinishedRun
from training import outputs

SUFFIX = '.safetensors'
NOT_COUNTED = '--start {} says nothing of the images it has seen: they are not counted'


def metadata(run: FinishedRun, licence: str, data: str | None) -> dict[str, str]:
    """What the file says of itself; texts, as safetensors has them."""
    config = run.config
    said = {
        'task': config.task,
        'network': config.network.network,
        'net': json.dumps(config.network.net),
        'parameters': f'{models.count(run.net):,}',
        'size': str(config.data.size),
        'images': f'{run.images + seen_before(config.network.start):,}',
        'figures': figures(run),
        'licence': licence,
    }
    if config.task == 'restore':
        said['scale'] = f'{models.scale(run.net):g}'
    if config.degradation.recipe:
        said['recipe'] = degrade.recipe(config.degradation.recipe).name
    return said | ({'data': data} if data else {})


def seen_before(start: str | None) -> int:
    """Images that the weights had seen from which a run started, as far as anything says it."""
    if not start:
        return 0
    start = shipped.resolved(start)
    if os.path.isfile(os.path.join(start, 'config.json')):
        earlier = FinishedRun(start)
        return earlier.images + seen_before(earlier.config.network.start)
    if not start.endswith(SUFFIX) or not os.path.isfile(start):
        print(NOT_COUNTED.format(shown(start)))
        return 0
    try:
        return int(tensors.metadata(start)['images'].replace(',', ''))
    except (OSError, BadFile, ValueError, KeyError):
        print(NOT_COUNTED.format(shown(start)))
        return 0


def figures(run: FinishedRun) -> str:
    """The score of the run, and that of doing nothing."""
    metric = run.task.metric
    text = f'{run.score(metric.key):.2f} {metric.unit} {metric.name} on its validation set'
    if run.task.name == 'restore' and run.baseline in run.result:
        text += f', {run.baseline} {run.score(run.baseline):.2f} dB'
    return text


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in 16 bits. Raises RunError for one that they cannot hold."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    for name, value in half.items():
        if not torch.isfinite(value.float()).all():
            raise RunError(f'{name} holds numbers that 16 bits cannot: these weights have diverged')
    return half


def parser() -> argparse.ArgumentParser:
    """Flags of publish.py."""
    p = arguments.described(__doc__)
    p.add_argument('run', help='directory of a finished run')
    p.add_argument('--out', type=Path, required=True, help='file to write, .safetensors')
    p.add_argument('--licence', required=True, help='of the weights, in words')
    p.add_argument('--data', help='what they were trained on, in words')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file -> exit status."""
    args = parser().parse_args(argv)
    if args.out.suffix != SUFFIX:
        raise RunError(f'--out {shown(args.out)}: a name that ends in {SUFFIX} is needed')
    if not args.licence.strip():
        raise RunError('--licence is empty: say under which terms the weights may be used')
    outputs.check({'--out': args.out}, {}, {'RUN': args.run})
    # Weights that others may have by that name are not exchanged by accident.
    if args.out.exists():
        raise RunError(f'--out {shown(args.out)} is there already: remove it, or give another name')
    run = FinishedRun(args.run)
    if run.task.name == 'search' or not run.result:
        raise RunError(f'{shown(args.run)} is no finished run that has learnt weights')
    said = {'name': args.out.stem} | metadata(run, args.licence, args.data)

    # Nothing is told of the machine: no paths, no names of files.
    data = safetensors.torch.save(halved(run.trained().state_dict()), said)
    storage.write(args.out, data)
    print('\n'.join(f'{key}: {value}' for key, value in said.items()))
    print(f'{args.out}: {len(data) / 1e6:.1f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
