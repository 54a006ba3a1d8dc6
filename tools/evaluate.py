"""One table of everything that can be said about restored images, with or without their truth.

python tools/evaluate.py restored/ --gt GT/                           PSNR, SSIM, MS-SSIM, sharpness
python tools/evaluate.py a/ ours=b/ --gt GT/ --out results/table --gallery     two methods compared
python tools/evaluate.py out/ --gt GT/ --lpips vgg.pth --identity sface.onnx   and further columns
python tools/evaluate.py out/ --set celeba-test FOLDER --niqe niqe-faces        a known test set
python tools/evaluate.py out/ --niqe niqe-faces                                 without any truth
python tools/evaluate.py --fit-niqe FFHQ/ --niqe niqe.safetensors              a model for NIQE

--out writes results/table.md, .json and .csv, the latter two with every image; --gallery a page
beside them, results/table.html, that shows the best and worst images. Means come with their 95 %
intervals. Of several methods, each is compared with the first, image by image: the mean of the
differences, how many images are better and worse, and the p value of the two-sided sign test.

Images are matched by name without suffix; an ending that all names of a folder have (face_00.png)
is taken off. All folders must hold all of them. Sharpness is the gradient energy as a share of that
of the ground truth: 1 is right, blur has less.

Test sets: {sets}.
celeba-test and celeba-test-daefr have the same truth but other inputs; figures of one say nothing
about the other, and only the published names of their folders tell them apart.
"""

import program

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import RunError
from storage import shown
from tools.evaluation import flags, folders, report, scores, sets, with_truth, without_truth
from tools.evaluation.columns import Judge
from tools.evaluation.folders import Found
from tools.evaluation.scores import Evaluation
from training import outputs


class Sources(NamedTuple):
    """Where images come from."""

    truth: str | None
    inputs: str | None
    known: sets.Known | None  # the test set that they are


def parser() -> argparse.ArgumentParser:
    """Flags of evaluate.py."""
    return flags.parser((__doc__ or '').format(sets=', '.join(sets.SETS)))


# ------------------------------------------------------------------------------------------------
# Before anything is computed.


def sources(args: argparse.Namespace) -> Sources:
    """Where truth and inputs are. Raises RunError and DataError."""
    if not args.set:
        return Sources(args.gt, args.input, None)
    located = sets.locate(*args.set)
    return Sources(located.truth, located.inputs, located.known)


def check_out(args: argparse.Namespace, of: Sources) -> None:
    """Raise RunError if something that is read would be written over, or nothing can be written."""
    targets = [*flags.written(args), *([flags.niqe_path(args)] if args.fit_niqe else [])]
    outputs.check(
        {'--out': [path for path in targets if path]},
        {
            'RESTORED': args.restored,
            '--gt': of.truth,
            '--input': of.inputs,
            '--fit-niqe': args.fit_niqe,
            '--fid-reference': args.fid_reference,
        },
        {
            '--parser': args.parser,
            '--lpips': args.lpips,
            '--identity': args.identity,
            '--lmd': args.lmd,
            '--fid': args.fid,
            '--lmd-points': flags.landmark_files(args).values() if args.lmd_points else None,
        },
    )
    for path in targets:
        if path:
            _check_writable(path)


def _check_writable(path: Path) -> None:
    """Raise RunError if no file can be written there: now, and not after hours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rights alone do not tell: a disk may be full, or mounted to be read only.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(None, 'it is a folder')
    except OSError as error:
        raise RunError(f'{shown(path)} cannot be written: {error.strerror}') from error


def judges_of(args: argparse.Namespace, found: Found, of: Sources) -> list[Judge]:
    """Everything that was asked for, loaded. Raises RunError, DataError and MetricError."""
    asked = [flag for flag in flags.OF_TRUTH if getattr(args, flag)]
    if asked and not found.truth:
        named = ', '.join(map(flags.spelt, asked))
        raise RunError(f'{named} compares with the truth: give --gt, or a --set that has one')
    # Not the inputs: figures of FID are distances to good images.
    reference: str | None = args.fid_reference or of.truth
    if args.fid and not reference:
        raise RunError('--fid without --gt needs --fid-reference: images to be like')

    # Missing files, wrong weights and wrong sizes are met here.
    judges = [*_of_pairs(args, found), *_of_images(args, found)]
    for images in found.restored.values():
        scores.check_shapes(images, judges)
    # Last, because the features of its reference take long.
    if args.fid and reference:
        features = without_truth.features_of(
            args.fid, args.pyiqa_weights, args.device, args.pyiqa_download
        )
        named = shown(args.fid)
        judges.append(
            without_truth.frechet_distance(features, named, reference, args.device, args.batch)
        )
    # A total that lacks a part is none.
    if {*without_truth.PARTS.values()} <= scores.columns_of(judges).keys():
        judges.append(without_truth.challenge())
    if not judges:
        raise RunError('nothing to compute: give --gt, or --niqe, --fid or --pyiqa')
    return judges


def _of_pairs(args: argparse.Namespace, found: Found) -> Iterator[Judge]:
    """Judges that compare with the truth."""
    if found.truth:
        yield with_truth.against_truth()
    if args.lpips:
        yield with_truth.lpips(args.lpips, args.device)
    if args.parser:
        yield with_truth.parsed(args.parser, args.device)
    if args.identity:
        yield with_truth.identified(args.identity)
    if args.lmd:
        yield with_truth.landmarks_found(args.lmd, args.device)
    if args.lmd_points:
        yield with_truth.landmarks_given(flags.landmark_files(args), found)


def _of_images(args: argparse.Namespace, found: Found) -> Iterator[Judge]:
    """Judges that can do without the truth."""
    if args.pyiqa:
        weights, download = args.pyiqa_weights, args.pyiqa_download
        yield without_truth.named(args.pyiqa, weights, args.device, download, bool(found.truth))
    # A fit takes long, so whatever else may be missing has been loaded before.
    model = flags.niqe_path(args)
    if args.fit_niqe and model:
        without_truth.fit_niqe(args.fit_niqe, model)
    if args.niqe or args.fit_niqe:
        yield without_truth.natural(str(model))


# ------------------------------------------------------------------------------------------------
# The work.


def evaluated(
    args: argparse.Namespace, found: Found, judges: Sequence[Judge]
) -> dict[str, Evaluation]:
    """Figures of every method. A Ctrl-C says which of them were finished."""
    done: dict[str, Evaluation] = {}
    try:
        for method in found.restored:
            done[method] = scores.evaluate(
                method, found, judges, batch=args.batch, device=args.device
            )
    except KeyboardInterrupt:
        finished = ', '.join(map(shown, done)) or 'none'
        print(f'stopped in {shown(method)}; finished: {finished}', file=sys.stderr)
        raise
    return done


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    # Folders may stand between the flags.
    args = parser().parse_intermixed_args(argv)
    flags.check(args)
    of = sources(args)
    check_out(args, of)
    model = flags.niqe_path(args)
    if model and not args.restored:
        without_truth.fit_niqe(args.fit_niqe, model)
        return 0

    # Everything that can be wrong is looked at before the work begins.
    found = folders.find(args.restored, of.truth, of.inputs)
    if of.known and sets.part(of.known, len(found.names)):
        print(f'--set: {sets.counted(of.known, len(found.names))}', file=sys.stderr)
    judges = judges_of(args, found, of)
    done = evaluated(args, found, judges)
    result = report.of(found, done, judges, reference=args.against, truth=of.truth, known=of.known)
    print(report.text(result))
    if args.out:
        report.write(args.out, result)
        if args.gallery:
            report.write_gallery(args.out, result, args.show or flags.SHOWN)
        print('written: ' + ', '.join(str(path) for path in flags.written(args)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
