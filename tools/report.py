"""A report of a run as PDF, and a page that compares several.

    python tools/report.py runs/mine --out report.pdf [--author NAME] [--real FOLDER]     at most five A4 pages beside cover and references, 12 pt
    python tools/report.py runs/a runs/b runs/c --out compare.html                         one file that needs no other: options, scores, curves, pictures

The text is set in Arial where it is installed, else in a font of the same widths (Liberation Sans, Arimo); --font names another. It is embedded.
"""

import argparse
import base64
import html
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

import infer
import models
from config import options
from errors import CheckpointError, DataError, RunError
from faces import masks
from tasks import data as sources
from tasks import restore
from training import checkpoint, log, pictures, run

FONTS = 'arial', 'liberationsans-regular', 'arimo-regular'  # file names, in the order of preference
PAGES = 5
MARGIN, SIZE = 20, 12  # mm, points
REFERENCES = (
    'X. Wang, L. Xie, C. Dong, Y. Shan. Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data. ICCV Workshops, 2021.',
    'C. Ledig et al. Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network. CVPR, 2017.',
    'O. Ronneberger, P. Fischer, T. Brox. U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI, 2015.',
    'L. Yang et al. HiFaceGAN: Face Renovation via Collaborative Suppression and Replenishment. ACM Multimedia, 2020.',
    'I. Loshchilov, F. Hutter. Decoupled Weight Decay Regularization. ICLR, 2019.',
    'M. Wortsman et al. Model Soups. ICML, 2022.',
    'J. Salmon, M. Moraes, R. Dror, D. Shaw. Parallel Random Numbers: As Easy as 1, 2, 3. SC, 2011.',
)


class Run:
    """What a run directory tells."""

    def __init__(self, folder):
        self.folder, self.config = Path(folder), run.read_config(folder)
        if not self.config:
            raise RunError(f'{folder} is no run directory: it has no config.json')
        self.name, self.rows = self.folder.resolve().name, log.Log(folder).read()
        self.result, self.machine = (self._json(n) for n in ('result.json', 'machine.json'))
        self.net, self.task = (
            options.network(self.config),
            options.TASKS[self.config.get('task', 'restore')],
        )
        self.discriminator = (
            models.DISCRIMINATORS[self.config['discriminator']](**self.config['discriminator_net'])
            if self.config.get('gan')
            else None
        )

    @property
    def parses(self):
        return self.config.get('task') == 'parse'

    @property
    def baseline(self):
        """What a restorer is compared with."""
        return restore.baseline(self.net)

    def _json(self, name):
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}

    def series(self, key):
        pairs = [(r['nimg'], r[key]) for r in self.rows if key in r]
        return [n for n, _ in pairs], [v for _, v in pairs]

    @property
    def seconds(self):
        return max((r['seconds'] for r in self.rows if 'seconds' in r), default=0.0)


@torch.no_grad()
def judged(r, device='cpu'):
    """(Scores, [(title, *pictures)], worst first) of the first validation set, by the run's final weights."""
    checkpoint.load_weights(r.net, r.folder)
    net = r.net.to(device, memory_format=torch.channels_last).eval()
    _, sets = sources.load(r.config, say=lambda _: None)
    data = next(iter(sets.values()))
    scores = r.task.validate(
        net,
        data,
        device,
        autocast=options.autocast(r.config, torch.device(device)),
        show=len(data),
        threads=os.cpu_count(),
    )
    values = [scores.value(slice(i, i + 1)) for i in range(len(data))]
    shown, *_ = scores.pictures()
    titles = [
        f'{data.name(i)}: {v:.2f} {r.task.METRIC.unit}'
        + ('' if r.parses else f', {scores.named} {scores.baseline[i]:.2f}')
        for i, v in enumerate(values)
    ]
    return scores, [(titles[i], *shown[i]) for i in np.argsort(values)]


@torch.no_grad()
def restored(r, folder, most=6):
    """[(input, bicubic, ours)] of real pictures without ground truth; [(input, ours)] where the size stays."""
    out, device = [], next(r.net.parameters()).device
    for path in infer._images(folder, '--real')[:most]:
        lq = infer._read(path)
        ours = restore.restore(r.net, lq[None].to(device))[0].cpu()
        out.append(
            (lq, ours)
            if r.baseline == 'input'
            else (lq, restore.bicubic(lq[None], ours.shape[-2:])[0], ours)
        )
    return out


# ---- PDF ----


class Page(FPDF):
    """A4, one embedded font at 12 points."""

    def __init__(self, font):
        super().__init__(format='A4')
        self.set_margins(MARGIN, MARGIN, MARGIN)
        self.set_auto_page_break(True, MARGIN)
        self.add_font('text', '', str(font))
        self.set_font('text', size=SIZE)
        self.numbered = False

    def footer(self):
        if self.numbered and self.page_no() > 1:  # the cover has none
            self.set_y(-12)
            self.cell(0, 5, str(self.page_no() - 1), align='C')

    def say(self, text):
        self.multi_cell(0, 5.6, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1.5)

    def head(self, text, below=20):
        """A headline, on a new page unless `below` mm fit under it on this one."""
        if self.get_y() + 10 + below > self.h - MARGIN:
            self.add_page()
        self.ln(1.5)
        self.set_text_color(31, 111, 180)
        self.multi_cell(0, 7, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_text_color(0)
        self.ln(0.5)

    def rows(self, rows, widths):
        with self.table(
            col_widths=widths,
            line_height=6,
            first_row_as_headings=False,
            borders_layout='HORIZONTAL_LINES',
        ) as table:
            for row in rows:
                line = table.row()
                for cell in row:
                    line.cell(str(cell))
        self.ln(2)

    def picture(self, image, width=None):
        width = width or self.epw
        height = width * image.height / image.width
        if self.get_y() + height > self.h - MARGIN:
            self.add_page()
        held = io.BytesIO()
        image.save(held, 'JPEG', quality=92)
        self.image(held, w=width)
        self.ln(1.5)


def pdf(r, args):
    if r.config.get('task') in ('landmarks', 'search'):
        raise RunError(
            f'{r.folder} is of --preset {r.config["preset"]}: a PDF tells of restorers and parsers; give --out compare.html'
        )
    page, title = (
        Page(font_file(args.font)),
        args.title
        or (
            'Face Parsing'
            if r.parses
            else 'Face Renovation'
            if r.baseline == 'input'
            else 'Blind Face Super-Resolution'
        ),
    )
    page.set_title(title)
    page.add_page()
    page.ln(60)
    page.set_font_size(24)
    page.multi_cell(0, 12, title, align='C', new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    page.ln(6)
    page.set_font_size(SIZE)
    page.multi_cell(
        0,
        7,
        '\n'.join(filter(None, (args.author, args.matric, r.machine.get('date')))),
        align='C',
        new_x=XPos.LMARGIN,
        new_y=YPos.NEXT,
    )
    page.numbered = True
    page.add_page()
    scores, rows = judged(r, args.device)
    _model(page, r)
    _training(page, r)
    _results(page, scores, rows)
    if args.real and not r.parses:
        page.head('Real pictures', below=100)
        page.say(
            f'Inputs without ground truth: input, {"" if r.baseline == "input" else "bicubic enlargement, "}ours.'
        )
        page.picture(_grid(restored(r, args.real), 2, 130))
    content = page.page_no() - 1
    if content > PAGES:
        raise RunError(
            f'the report has {content} pages beside its cover, {PAGES} are allowed: leave --real out'
        )
    page.add_page()
    page.head('References')
    for i, text in enumerate(REFERENCES, 1):
        page.say(f'[{i}]  {text}')
    run.write(args.out, bytes(page.output()))
    print(f'{args.out}: {content} pages, cover and references')


def _model(page, r):
    n = models.count(r.net)
    page.head('Model')
    page.say(
        f'{type(r.net).__name__}: {sys.modules[type(r.net).__module__].__doc__.strip().splitlines()[0]} The network '
        + (
            f'names one of 19 parts for each pixel and has {n:,} parameters.'
            if r.parses
            else f'restores pictures at their size and has {n:,} parameters.'
            if r.baseline == 'input'
            else f'enlarges 128 x 128 to 512 x 512 pixels and has {n:,} parameters; fewer than {models.BUDGET:,} are allowed.'
        )
    )
    parts = [
        ('Network', 'parameters'),
        *(
            (name, f'{sum(p.numel() for p in child.parameters()):,}')
            for name, child in r.net.named_children()
        ),
        (
            'parameters of the network itself',
            f'{sum(p.numel() for p in r.net.parameters(recurse=False)):,}',
        ),
        ('Generator, trained', f'{n:,}'),
        ('Discriminator', f'{models.count(r.discriminator):,}' if r.discriminator else 'none'),
        (
            'Frozen networks',
            'VGG19, 20,024,384'
            if r.config.get('vgg')
            else 'a parser'
            if r.config.get('parser')
            else 'none',
        ),
    ]
    page.rows(parts, (70, 30))


def _training(page, r):
    c = r.config
    page.head('Losses and training')
    page.say(_parsing(c) if r.parses else _restoring(c) + _adversarial(c))
    length = (
        f'{r.rows[-1]["nimg"]:,} images, {r.seconds / 60:.1f} minutes' if r.rows else 'not begun'
    )
    page.rows(
        [
            (
                'optimizer',
                f'{c["optimizer"]}, learning rate {c["lr"]:g}, {c["schedule"]} schedule, warm-up {c["warmup"]:.0%}',
            ),
            (
                'batch',
                f'{c["batch"]} x {c["accumulate"]} x {r.machine.get("processes", 1)} images, {c["precision"]}',
            ),
            ('length', length),
            ('data', c.get('images', '')),
            (
                'weights',
                f'average over {c["ema"]:,.0f} images; final: {", ".join(r.result.get("made_of", ["the last average"]))}',
            ),
            (
                'machine',
                '; '.join(f'{v}' if k == 'device' else f'{k} {v}' for k, v in r.machine.items())
                or 'not recorded',
            ),
        ],
        (25, 75),
    )
    page.picture(curves([r]), page.epw * 0.86)


def _restoring(c):
    loss = {
        'l1': 'the mean absolute difference',
        'charbonnier': "Charbonnier's loss",
        'smooth_l1': 'the smooth L1 loss',
        'mse': 'the mean squared difference',
        'psnr': 'the logarithm of the squared error, picture by picture',
    }
    last = (
        f', in the last {c["last_share"]:.0%} of the run {loss[c["last_loss"]]},'
        if c.get('last_loss')
        else ''
    )
    pixel = (
        f'The loss is {loss[c["loss"]]}{last} between output and {"sharpened" if c["target_usm"] else "plain"} ground truth. '
        if c['pixel_weight']
        else ''
    )
    if 'stored pairs' in c.get('images', ''):
        return f'{pixel}Inputs were degraded before, and are stored beside their truths.'
    return f'{pixel}Inputs are made on the fly by the recipe {c["recipe"]}, every degradation drawn for each sample on its own [1].'


def _parsing(c):
    loss = {
        'ce': 'cross entropy',
        'lovasz': 'cross entropy and twice the Lovász-softmax loss',
        'mixed': 'half the cross entropy, 0.3 of the Lovász-softmax loss and the Dice loss',
        'ohem': 'cross entropy of the hardest pixels',
    }
    seen = (
        f' Pictures are degraded by the recipe {c["recipe"]} and enlarged again.'
        if c['recipe']
        else ''
    )
    return f'The loss is {loss[c["loss"]]}. Faces and masks are mirrored (left and right exchanged), turned, enlarged and tinted by parameters drawn for each sample.{seen}'


def _adversarial(c):
    if not c.get('gan'):
        return ''
    kind = {
        'vanilla': 'non-saturating',
        'lsgan': 'least-squares',
        'hinge': 'hinge',
        'ragan': 'relativistic average',
    }[c['gan']]
    weights = {
        'the pixel loss': c['pixel_weight'],
        f'a {kind} adversarial loss': c['gan_weight'],
        "the difference of the discriminator's feature maps": c.get('matching_weight'),
        f'a perceptual loss on {"VGG19" if c["vgg"] else "a parser"}': c['perceptual_weight']
        if c['vgg'] or c.get('parser')
        else 0,
    }
    return (
        f' Weights: {", ".join(f"{name} {w:g}" for name, w in weights.items() if w)}. The discriminator is {c["discriminator"]}'
        + (
            f', which learned from {c["gan_from"]:,} images before the generator listened to it'
            if c['gan_from']
            else ''
        )
        + ('; training started from given weights.' if c['start'] else '.')
        + (
            f' The adversarial weight rises and falls with what it is right on, to hold that near {c["gan_level"]:.0%} of its pictures.'
            if c.get('gan_level')
            else ''
        )
    )


def _results(page, scores, rows):
    page.head('Results', below=120)  # the table and the first pictures
    if hasattr(scores, 'counts'):
        found = scores.over()
        page.rows(
            [
                ('mIoU, %', 'mean F1, %', 'pixel accuracy, %'),
                (f'{found.miou:.2f}', f'{found.f1:.2f}', f'{found.accuracy:.2f}'),
            ],
            (33, 33, 34),
        )
        page.say(
            'IoU, %: '
            + ', '.join(f'{name} {v:.1f}' for name, v in zip(masks.CLASSES, found.iou))
            + '.'
        )
    else:
        of = lambda name, v: (name, f'{v.mean():.3f}', f'{v.min():.2f}', f'{v.max():.2f}')
        page.rows(
            [
                ('', 'PSNR, dB', 'worst', 'best'),
                of(scores.named, scores.baseline),
                of('ours', scores.psnr),
            ],
            (40, 20, 20, 20),
        )
    page.say(
        f'{len(rows)} validation images, scored on 8-bit images. Below the best and the worst ones: {", ".join(scores.pictures()[2])}.'
    )
    for some in rows[::-1][:3], rows[:3]:
        page.picture(
            _grid([pictures for _, *pictures in some], 1, 190, [title for title, *_ in some]),
            page.epw * 0.9,
        )


def _grid(rows, columns, side, titles=None):
    """Rows of [3, h, w] pictures as one image; `columns` rows side by side."""
    wide, tall = max(len(r) for r in rows), len(rows)
    figure = Figure(
        figsize=(
            columns * wide * side / 100,
            -(-tall // columns) * (side + (22 if titles else 4)) / 100,
        ),
        dpi=200,
    )
    axes = figure.subplots(-(-tall // columns), columns * wide, squeeze=False)
    for a in axes.flat:
        a.axis('off')
    for i, row in enumerate(rows):
        for k, pix in enumerate(row):
            a = axes[i // columns][i % columns * wide + k]
            a.imshow(pix.permute(1, 2, 0).numpy(), interpolation='nearest')
            if titles and k == 0:
                a.set_title(titles[i], fontsize=8, loc='left', pad=2)
    figure.subplots_adjust(0, 0, 1, 0.94 if titles else 1, 0.02, 0.12 if titles else 0.02)
    return _image(figure)


def curves(runs):
    figure = Figure(figsize=(9, 3.4), dpi=180, layout='constrained')
    left, right = figure.subplots(1, 2)
    for i, r in enumerate(runs):
        x, y = r.series('loss')
        left.plot(x, y, linewidth=0.8, alpha=0.25, color=f'C{i}')
        left.plot(x, pictures.smooth(np.array(y)), linewidth=1.6, color=f'C{i}')
        x, y = r.series(r.task.METRIC.key)
        right.plot(x, y, marker='o', markersize=3, color=f'C{i}', label=r.name)
        x, y = r.series(r.baseline)
        if y:
            right.axhline(
                y[-1], color=f'C{i}', linestyle='--', linewidth=1, label=f'{r.baseline}, {r.name}'
            )
    if any(r.series('loss')[1] for r in runs):
        left.set_yscale('log')
    for axes, title in (
        (left, 'training loss'),
        (right, f'validation {runs[0].task.METRIC.name}, {runs[0].task.METRIC.unit}'),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel('images')
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    right.legend(frameon=False, fontsize=8)
    return _image(figure)


def _image(figure):
    held = io.BytesIO()
    figure.savefig(held, format='png')
    return Image.open(held).convert('RGB')


def font_file(given):
    """Path of the font to embed. Raises RunError with the remedy."""
    if given:
        if not given.is_file():
            raise RunError(f'--font {given} does not exist')
        return given
    found = {Path(f).stem.lower(): f for f in font_manager.findSystemFonts()}
    for name in FONTS:
        if name in found:
            return found[name]
    raise RunError(
        'neither Arial nor Liberation Sans nor Arimo is installed (Debian: apt install fonts-liberation), or name a TrueType file with --font'
    )


# ---- HTML ----

STYLE = (
    'body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;margin:1em 0}'
    'td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}td.n{text-align:right}tr.best td{font-weight:bold}img{max-width:100%}h1,h2{font-weight:600}'
)


def page(runs):
    """Text of an HTML page that needs no other file."""
    keys = sorted({k for r in runs for k in r.config if k not in ('out', 'format')})
    differ = [k for k in keys if len({json.dumps(r.config.get(k)) for r in runs}) > 1]
    if len({r.task for r in runs}) > 1:
        raise RunError('the runs are of several tasks, which nothing compares: give those of one')
    metric = runs[0].task.METRIC
    last = lambda r, key: r.result.get(key) or (r.series(key)[1] or [float('nan')])[-1]
    scores = [last(r, metric.key) for r in runs]
    best = int(np.nanargmax(scores)) if not np.isnan(scores).all() else -1
    e = lambda v: html.escape(str(v))
    more = {'SSIM': 'ssim'} | {r.baseline: r.baseline for r in runs}
    more = {
        'parse': {'mean F1': 'f1', 'pixel accuracy': 'accuracy'},
        'landmarks': {'error, px of 128': 'error'},
    }.get(runs[0].config.get('task'), more)
    body = [
        f'<h1>Runs</h1><table><tr><th>run<th>network<th>parameters<th>images<th>minutes<th>{metric.name}, {metric.unit}'
        + ''.join(f'<th>{name}' for name in more)
        + '</tr>'
    ]
    for i, (r, s) in enumerate(zip(runs, scores)):
        body.append(
            f'<tr{" class=best" if i == best else ""}><td>{e(r.name)}<td>{e(type(r.net).__name__)}<td class=n>{models.count(r.net):,}<td class=n>{r.rows[-1]["nimg"] if r.rows else 0:,}'
            f'<td class=n>{r.seconds / 60:.1f}<td class=n>{s:.3f}'
            + ''.join(f'<td class=n>{last(r, key):.4f}' for key in more.values())
            + '</tr>'
        )
    body.append('</table><h2>Curves</h2>' + _img(curves(runs)))
    if differ:
        body.append(
            '<h2>Options that differ</h2><table><tr><th>option'
            + ''.join(f'<th>{e(r.name)}' for r in runs)
            + '</tr>'
            + ''.join(
                f'<tr><td>{e(k)}' + ''.join(f'<td>{e(r.config.get(k))}' for r in runs) + '</tr>'
                for k in differ
            )
            + '</table>'
        )
    for r in runs:
        strips = sorted((r.folder / 'samples').glob('[0-9]*.png'))
        if strips:
            with Image.open(strips[-1]) as image:
                body.append(
                    f'<h2>{e(r.name)}: input, {"ours, truth" if r.config.get("task") in options.MASKED or r.baseline == "input" else "bicubic, ours, truth"}</h2>'
                    + _img(image.convert('RGB'))
                )
    return (
        f'<!doctype html><meta charset=utf-8><title>Runs</title><style>{STYLE}</style>'
        + ''.join(body)
    )


def _img(image):
    held = io.BytesIO()
    image.save(held, 'JPEG', quality=88)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}">'


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('runs', nargs='+', help='run directories; a PDF is of one')
    p.add_argument(
        '--out', type=Path, default=Path('report.pdf'), help='.pdf or .html (default: %(default)s)'
    )
    p.add_argument(
        '--title',
        help='default: Blind Face Super-Resolution, Face Renovation or Face Parsing, as the run is',
    )
    p.add_argument('--author', help='on the cover')
    p.add_argument('--matric', help='on the cover')
    p.add_argument('--real', help='folder of real low-quality faces to restore and show')
    p.add_argument('--font', type=Path, help='TrueType file to set the text in')
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    args = p.parse_args(argv)
    try:
        if args.out.suffix == '.html':
            run.write(args.out, page([Run(f) for f in args.runs]).encode())
            print(f'{args.out}: {len(args.runs)} runs')
        elif args.out.suffix == '.pdf' and len(args.runs) == 1:
            pdf(Run(args.runs[0]), args)
        else:
            raise RunError(
                f'--out {args.out} of {len(args.runs)} runs: a .pdf is of one run, a .html compares any number'
            )
    except (RunError, DataError, CheckpointError) as e:
        print(f'report.py: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
