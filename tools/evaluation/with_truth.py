"""Judges that compare with the truth: pixels, deep features, parts, identity, landmarks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from faces import landmarks, masks
from metrics import identity, lmd, perceptual
from metrics.miou import Confusion
from metrics.ms_ssim import LEAST, ms_ssim
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from metrics.ssim import ssim
from storage import shown
from tasks.face_landmarks import landmark_network
from tasks.face_parser import FaceParser

from .columns import Column, Judge
from .folders import Batch, Found

# A predicted mask has specks: rows and columns of a part with less than this share of its fullest
# one are no ends of it.
SPECKS = 0.05
TRUTH = 'truth'  # what is no method among files of landmarks


# ------------------------------------------------------------------------------------------------
# Pixels and deep features.


def against_truth() -> Judge:
    """PSNR, SSIM, MS-SSIM and sharpness, which are always there."""

    def each(batch: Batch) -> dict[str, Tensor]:
        a, b = batch.ours, _truth(batch)
        row = {'psnr': psnr(a, b), 'ssim': ssim(a, b), 'sharpness': sharpness(a, b)}
        # The coarsest of its scales has to hold a window.
        if min(a.shape[2:]) >= LEAST:
            row['ms_ssim'] = ms_ssim(a, b)
        return row

    columns = {
        'psnr': Column('PSNR, dB', 'higher', 3),
        'ssim': Column('SSIM', 'higher', 4),
        'ms_ssim': Column('MS-SSIM', 'higher', 4),
        'sharpness': Column('sharpness', '1', 3),
    }
    return Judge(columns, each, least=11)


def lpips(weights: str, device: str) -> Judge:
    """LPIPS. weights: of torchvision's AlexNet or VGG16. Raises MetricError."""
    measure = perceptual.lpips(weights, device)
    columns = {'lpips': Column('LPIPS', 'lower', 4)}
    return Judge(columns, lambda batch: {'lpips': measure(batch.ours, _truth(batch))})


# ------------------------------------------------------------------------------------------------
# Parts of the face.


def parsed(run: str, device: str) -> Judge:
    """What a parser sees. Raises RunError for a run of anything else."""
    parser = FaceParser(run, device)
    # One matrix for all images of a method: the score is of a data set, not of pictures.
    counts = [Confusion(len(masks.CLASSES), device)]

    def each(batch: Batch) -> dict[str, Tensor]:
        predicted, wanted = parser(batch.ours), parser(_truth(batch))
        counts[0].update(predicted, wanted)
        return {'landmarks': distance(predicted, wanted)}

    def whole(means: Mapping[str, float]) -> dict[str, float]:
        # The next method begins with none.
        done = counts[0]
        counts[0] = Confusion(len(masks.CLASSES), device)
        return {'miou': done.compute().miou}

    columns = {
        'miou': Column('parsing mIoU, %', 'higher', 2),
        'landmarks': Column('landmarks of masks, % of the width', 'lower', 3),
    }
    return Judge(columns, each, whole, note=f'parser: {shown(run)}')


def distance(ours: Tensor, truth: Tensor) -> Tensor:
    """ids [B, H, W] of two parsings -> [B] float64: mean distance of the landmarks that both have,
    in percent of the width; NaN without any."""
    a, visible = landmarks.from_mask(ours, SPECKS)
    b, wanted = landmarks.from_mask(truth, SPECKS)
    both = visible & wanted
    zero = torch.zeros((), dtype=torch.float64, device=ours.device)
    # What only one of the two masks has is no distance.
    off = (a - b).double().norm(dim=2).where(both, zero)
    return 100 / ours.shape[2] * off.sum(1) / both.sum(1)


# ------------------------------------------------------------------------------------------------
# Identity and landmarks.


def identified(weights: str) -> Judge:
    """Whether it is the same person: cosine of two embeddings, and the angle between them.

    weights: SFace or ArcFace as an ONNX file. Raises MetricError.
    """
    measure = identity.identity(weights)

    def each(batch: Batch) -> dict[str, Tensor]:
        cosine = measure(batch.ours, _truth(batch))
        return {'identity': cosine, 'deg': identity.degrees(cosine)}

    columns = {
        'identity': Column('identity, cosine', 'higher', 4),
        'deg': Column('Deg, degrees', 'lower', 2),
    }
    return Judge(columns, each, note=f'identity: {shown(weights)}', square=True)


LMD = {'lmd': Column('LMD, pixels of 512', 'lower', 3)}


def landmarks_found(run: str, device: str) -> Judge:
    """Distance of the landmarks that a network finds. run: of a landmark network"""
    find = landmark_network(run, device, '--lmd')

    def each(batch: Batch) -> dict[str, Tensor]:
        width = batch.ours.shape[3]
        return {'lmd': lmd.lmd(find(batch.ours), find(_truth(batch)), width)}

    return Judge(LMD, each, note=f'landmarks: {shown(run)}', square=True)


def landmarks_given(files: Mapping[str, str], found: Found) -> Judge:
    """Distance of landmarks that other programs have found.

    files: {'truth' or a method: JSON of its landmarks, as `metrics.lmd.given` takes it}
    Raises DataError for files without the landmarks of an image.
    """
    assert found.truth is not None  # what needs it is refused without --gt
    # A file that lacks an image is met here, before anything is computed.
    points: dict[str, dict[str, Tensor]] = {}
    for method, images in {TRUTH: found.truth, **found.restored}.items():
        places = lmd.given(files[method], list(images.values()))
        points[method] = dict(zip(images, places, strict=True))

    def each(batch: Batch) -> dict[str, Tensor]:
        a, b = (
            torch.stack([points[method][name] for name in batch.names])
            for method in (batch.method, TRUTH)
        )
        return {'lmd': lmd.lmd(a, b, lmd.SIDE)}

    named = ', '.join(f'{shown(name)}: {shown(path)}' for name, path in files.items())
    return Judge(LMD, each, note=f'landmarks: {named}')


def _truth(batch: Batch) -> Tensor:
    assert batch.truth is not None  # what needs it is refused without --gt
    return batch.truth
