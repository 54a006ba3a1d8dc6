"""Judges that need no truth, or that of other images: NIQE, FID, and those of pyiqa."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from errors import RunError
from metrics import frechet, niqe, ntire, pyiqa_metrics
from storage import counted, shown
from tasks import shipped

from . import folders
from .columns import Column, Judge
from .folders import Batch, Images

Features = Callable[[Tensor], Tensor]  # [B, 3, H, W] uint8 -> [B, D]
OF_PYIQA = 'pyiqa'  # instead of a file


# ------------------------------------------------------------------------------------------------
# NIQE.


def natural(path: str) -> Judge:
    """NIQE by a model that was fitted, or the authors' own. Raises MetricError."""
    model = niqe.load(path)
    # Who reads the table need not know the folders of this machine.
    named = Path(path).stem if Path(path).parent == shipped.FOLDER else shown(path)

    def each(batch: Batch) -> dict[str, Tensor]:
        scores = [niqe.score(image, model) for image in batch.ours]
        return {'niqe': torch.tensor(scores, dtype=torch.float64)}

    # Whoever reads the table must not take one for the other.
    published = model.note == niqe.PUBLISHED
    title = 'NIQE' if published else 'NIQE, own model'
    note = f'NIQE: {named}, the published model'
    if not published:
        note = f'NIQE: {named} ({model.note}); not comparable with published figures'
    return Judge({'niqe': Column(title, 'lower', 3)}, each, note=note, least=niqe.BLOCK)


def fit_niqe(faces: str, path: Path) -> None:
    """Fit a model to the pristine faces of a folder, and write it. Raises DataError for small ones,
    and MetricError for too few."""
    images = folders.scan(faces)
    folders.check_shapes(images, 'NIQE', niqe.BLOCK)
    model = niqe.fit(
        _each(images), note=f'fitted on {counted(len(images), "image")} of {shown(faces)}'
    )
    niqe.save(path, model)
    print(f'{path}: NIQE {model.note}')


def _each(images: Images) -> Iterable[Tensor]:
    for batch in folders.batches(images, None, batch=8, device='cpu', title='fitting NIQE'):
        yield from batch.ours


# ------------------------------------------------------------------------------------------------
# FID.


def frechet_distance(
    features: Features, named: str, reference: str, device: str, batch: int
) -> Judge:
    """FID, or the distance by whatever features there are, to the images of a folder.

    named: what the features are of
    Raises MetricError, and DataError for an unusable folder.
    """
    images = folders.scan(reference)
    moments = [frechet.Moments(), frechet.Moments()]
    # The reference is looked at once, for all methods.
    of_reference, of_folder = 0, 1
    title = f'features of {shown(reference)}'
    for part in folders.batches(images, None, batch=batch, device=device, title=title):
        moments[of_reference].update(features(part.ours))

    def each(part: Batch) -> dict[str, Tensor]:
        moments[of_folder].update(features(part.ours))
        return {}

    def whole(means: Mapping[str, float]) -> dict[str, float]:
        done = moments[of_folder]
        moments[of_folder] = frechet.Moments()
        return {'fid': frechet.distance(done, moments[of_reference])}

    note = f'FID: features of {named}, {counted(len(images), "image")} of {shown(reference)}'
    warning = frechet.warning(moments[of_reference])
    if warning:
        note += f'; {warning}'
    return Judge({'fid': Column('FID', 'lower', 2)}, each, whole, note=note)


def features_of(network: str, weights: str | None, device: str, download: bool) -> Features:
    """Features for FID: of a TorchScript file, or of pyiqa's Inception. Raises MetricError."""
    if network == OF_PYIQA and weights:
        return pyiqa_metrics.inception(Path(weights), device, download)
    return frechet.extractor(network, device)


# ------------------------------------------------------------------------------------------------
# Metrics of others.


def named(names: Sequence[str], weights: str, device: str, download: bool, truth: bool) -> Judge:
    """Metrics of pyiqa. truth: whether there is one. Raises MetricError, and RunError for those
    that need the truth where there is none."""
    measures = pyiqa_metrics.named(names, Path(weights), device, download)
    needy = [name for name, measure in measures.items() if measure.needs_truth]
    if needy and not truth:
        raise RunError(f'--pyiqa {",".join(needy)} compares with the truth: give --gt too')

    def each(batch: Batch) -> dict[str, Tensor]:
        return {
            f'pyiqa_{name}': measure(batch.ours, batch.truth if measure.needs_truth else None)
            for name, measure in measures.items()
        }

    # A name of pyiqa's may be one of ours, too: psnr, niqe, ...
    columns = {
        f'pyiqa_{name}': Column(name, 'higher' if measure.higher else 'lower', 4)
        for name, measure in measures.items()
    }
    return Judge(columns, each, note=f'{", ".join(measures)}: by pyiqa')


# Parts of the total, in the columns that have them.
PARTS = {
    'clipiqa': 'pyiqa_clipiqa',
    'maniqa': 'pyiqa_maniqa',
    'musiq': 'pyiqa_musiq',
    'niqe': 'pyiqa_niqe',
    'qalign': 'pyiqa_qalign',
    'fid': 'fid',
}


def challenge() -> Judge:
    """The total of the NTIRE challenge, of figures that other judges have found."""

    def whole(means: Mapping[str, float]) -> dict[str, float]:
        parts = {part: means[key] for part, key in PARTS.items()}
        # Where one of them is no number, the total is none.
        unknown = any(map(math.isnan, parts.values()))
        return {'ntire': math.nan if unknown else ntire.total(parts)}

    columns = {'ntire': Column('NTIRE total', 'higher', 4)}
    note = 'NTIRE total: comparable with the published ones if the FID is to FFHQ, by their network'
    return Judge(columns, lambda batch: {}, whole, note=note)
