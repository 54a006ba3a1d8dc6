"""The report of a run as a PDF of at most five A4 pages besides cover and references."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import models
from errors import RunError
from tasks import inputs, prose, restoration
from tasks.players import channels_last
from tasks.task import Scores

from .finished_run import FinishedRun, curves, rendered
from .report_text import Passage, Words

FONTS = 'arial', 'liberationsans-regular', 'arimo-regular'  # file names, in order of preference
SIZE = 12  # points
MARGIN = 20  # mm
PAGES = 5
BLUE = 31, 111, 180
REAL = 6  # real pictures that are shown
REFERENCES = (
    'X. Wang, L. Xie, C. Dong, Y. Shan. Real-ESRGAN: Training Real-World Blind Super-Resolution '
    'with Pure Synthetic Data. ICCV Workshops, 2021.',
    'C. Ledig et al. Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial '
    'Network. CVPR, 2017.',
    'O. Ronneberger, P. Fischer, T. Brox. U-Net: Convolutional Networks for Biomedical Image '
    'Segmentation. MICCAI, 2015.',
    'L. Yang et al. HiFaceGAN: Face Renovation via Collaborative Suppression and Replenishment. '
    'ACM Multimedia, 2020.',
    'I. Loshchilov, F. Hutter. Decoupled Weight Decay Regularization. ICLR, 2019.',
    'M. Wortsman et al. Model Soups. ICML, 2022.',
    'J. Salmon, M. Moraes, R. Dror, D. Shaw. Parallel Random Numbers: As Easy as 1, 2, 3. SC, '
    '2011.',
)


class Cover(NamedTuple):
    """What stands on the cover; None is left out, a title is chosen."""

    title: str | None
    author: str | None
    subtitle: str | None


class Report(NamedTuple):
    """A finished report."""

    data: bytes  # of the PDF
    pages: int  # without cover and references


class Shown(NamedTuple):
    """A row of pictures [3, h, w] uint8."""

    title: str
    pictures: Sequence[Tensor]


def pdf(
    r: FinishedRun,
    cover: Cover,
    *,
    words: Words | None = None,
    real: str | None = None,
    font: Path | None = None,
    device: str = 'cpu',
) -> Report:
    """The report of a run. Raises RunError if the task has none or if it has too many pages.

    words: what the author says around the chapters; real: folder of pictures without ground truth
        to show as well; font: TrueType file
    """
    if not r.task.has_report:
        raise RunError(
            f'{r.folder} is of --preset {r.config.preset}: a PDF is of restorers and parsers; give '
            '--out compare.html'
        )

    # A chapter each; what the networks restore is computed once for scores and pictures.
    page = Page(font_file(font))
    _cover(page, cover, r)
    scores, rows = judged(r, device)
    _say(page, words.before if words else [])
    _model(page, r)
    _training(page, r)
    _results(page, r, scores, rows)
    if real and r.task.prose.shows_real:
        _real(page, r, real, device)
    _say(page, words.after if words else [])

    # The limit is on what is between cover and references.
    content = page.page_no() - 1
    if content > PAGES:
        raise RunError(
            f'the report has {content} pages besides its cover, {PAGES} are allowed: '
            + ('shorten --text' if words else 'leave --real out')
        )
    page.add_page()
    page.head('References')
    for i, text in enumerate(REFERENCES, 1):
        page.say(f'[{i}]  {text}')
    return Report(bytes(page.output()), content)


@torch.no_grad()
def judged(r: FinishedRun, device: str = 'cpu') -> tuple[Scores, list[Shown]]:
    """(scores, pictures with the worst first) of the first validation set, by the final weights."""
    net = channels_last(r.trained(), device).eval()
    _, sets = r.task.load(r.config, lambda _: None, lambda _: None)
    data = next(iter(sets.values()))
    scores = r.task.validate(net, data, r.config, torch.device(device), show=len(data))

    values = [scores.value(slice(i, i + 1)) for i in range(len(data))]
    pictures = scores.pictures()[0]
    rows = []
    for i in np.argsort(values):
        caption = r.task.prose.caption(scores, i)
        title = f'{data.name(i)}: {values[i]:.2f} {r.task.metric.unit}{caption}'
        rows.append(Shown(title, pictures[i]))
    return scores, rows


@torch.no_grad()
def restored(r: FinishedRun, folder: str, device: str = 'cpu') -> list[Shown]:
    """Real pictures: input, bicubic, ours; input, ours where the size stays."""
    net, rows = channels_last(r.trained(), device).eval(), []
    for image in inputs.image_files(folder, '--real').images[:REAL]:
        lq = inputs.read(image)
        ours = restoration.restore(net, lq[None].to(device))[0].cpu()
        enlarged = restoration.bicubic(lq[None], ours.shape[-2:])[0]
        pictures = (lq, ours) if r.baseline == 'input' else (lq, enlarged, ours)
        rows.append(Shown('', pictures))
    return rows


# ------------------------------------------------------------------------------------------------
# The page.


class Page(FPDF):
    """A4, one embedded font at 12 points."""

    def __init__(self, font: str | Path) -> None:
        super().__init__(format='A4')
        self.set_margins(MARGIN, MARGIN, MARGIN)
        self.set_auto_page_break(True, MARGIN)
        self.add_font('text', '', str(font))
        self.set_font('text', size=SIZE)
        self.numbered = False

    def footer(self) -> None:
        """Number of the page; the cover has none."""
        if self.numbered and self.page_no() > 1:
            self.set_y(-12)
            self.cell(0, 5, str(self.page_no() - 1), align='C')

    def say(self, text: str) -> None:
        """A paragraph."""
        self.multi_cell(0, 5.6, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1.5)

    def head(self, text: str, below: float = 20) -> None:
        """A headline, on a new page unless `below` mm fit under it on this one."""
        if self.get_y() + 10 + below > self.h - MARGIN:
            self.add_page()
        self.ln(1.5)
        self.set_text_color(*BLUE)
        self.multi_cell(0, 7, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_text_color(0)
        self.ln(0.5)

    def rows(self, rows: prose.Table, widths: tuple[int, ...]) -> None:
        """A table."""
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

    def picture(self, image: Image.Image, width: float | None = None) -> None:
        """A picture, on a new page if it does not fit on this one."""
        width = width or self.epw
        height = width * image.height / image.width
        if self.get_y() + height > self.h - MARGIN:
            self.add_page()
        buffer = io.BytesIO()
        image.save(buffer, 'JPEG', quality=92)
        self.image(buffer, w=width)
        self.ln(1.5)


def font_file(given: Path | None) -> str | Path:
    """Path of the font to embed; says so where it is none of FONTS. Raises RunError for one that
    is given and not there.
    """
    if given:
        if not given.is_file():
            raise RunError(f'--font {given} does not exist')
        return given
    installed = {Path(f).stem.lower(): f for f in font_manager.findSystemFonts()}
    for name in FONTS:
        if name in installed:
            return installed[name]
    print(
        'neither Arial nor Liberation Sans nor Arimo is installed: set in DejaVu Sans, which is '
        'wider. Where the rules want Arial: apt install fonts-liberation (Debian), or name a '
        'TrueType file with --font'
    )
    return font_manager.findfont('DejaVu Sans')  # matplotlib brings it


# ------------------------------------------------------------------------------------------------
# The chapters.


def _cover(page: Page, cover: Cover, r: FinishedRun) -> None:
    title = cover.title or r.task.prose.title(r.net)
    page.set_title(title)
    page.add_page()
    page.ln(60)
    page.set_font_size(24)
    page.multi_cell(0, 12, title, align='C', new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    page.ln(6)
    page.set_font_size(SIZE)
    lines = [str(x) for x in (cover.author, cover.subtitle, r.machine.get('date')) if x]
    page.multi_cell(0, 7, '\n'.join(lines), align='C', new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    page.numbered = True
    page.add_page()


def _say(page: Page, passages: Sequence[Passage]) -> None:
    """What the author has written."""
    # In the order of the file, across pages.
    for passage in passages:
        write = page.head if passage.headline else page.say
        write(passage.text)


def _model(page: Page, r: FinishedRun) -> None:
    """What the network is, and where its parameters lie."""
    page.head('Model')
    about = (sys.modules[type(r.net).__module__].__doc__ or '').strip().splitlines()[0]
    page.say(f'{type(r.net).__name__}: {about} The network {r.task.prose.purpose(r.net)}')
    own = sum(p.numel() for p in r.net.parameters(recurse=False))
    judge = r.discriminator
    rows: prose.Table = [('Network', 'parameters')]
    rows += [(name, f'{models.count(child):,}') for name, child in r.net.named_children()]
    rows += [
        ('parameters of the network itself', f'{own:,}'),
        ('Generator, trained', f'{models.count(r.net):,}'),
        ('Discriminator', f'{models.count(judge):,}' if judge else 'none'),
        ('Frozen networks', prose.frozen_networks(r.config)),
    ]
    page.rows(rows, (70, 30))


def _training(page: Page, r: FinishedRun) -> None:
    """Losses, and the table of everything else that was set."""
    page.head('Losses and training')
    data = r.stored.get('images', '')
    page.say(r.task.prose.training(r.config, data))
    options = r.config.optimization
    length = f'{r.images:,} images, {r.seconds / 60:.1f} minutes' if r.rows else 'not begun'
    processes = r.machine.get('processes', 1)
    parts = ', '.join(r.made_of)
    machine = [f'{v}' if k == 'device' else f'{k} {v}' for k, v in r.machine.items()]
    rows: prose.Table = [
        (
            'optimizer',
            f'{options.optimizer}, learning rate {options.lr:g}, {options.schedule} schedule, '
            f'warm-up {options.warmup:.0%}',
        ),
        (
            'batch',
            f'{options.batch} x {options.accumulate} x {processes} images, '
            f'{r.config.run.precision}',
        ),
        ('length', length),
        ('data', data),
        ('weights', f'average over {options.ema:,.0f} images; final: {parts}'),
        ('machine', '; '.join(machine) or 'not recorded'),
    ]
    page.rows(rows, (25, 75))
    page.picture(curves([r]), page.epw * 0.86)


def _results(page: Page, r: FinishedRun, scores: Scores, rows: list[Shown]) -> None:
    """Scores, and the best and the worst images."""
    page.head('Results', below=120)  # the table and the first pictures
    table, widths, paragraph = r.task.prose.results(scores)
    page.rows(table, widths)
    if paragraph:
        page.say(paragraph)
    page.say(
        f'{len(rows)} validation images, scored on 8-bit images. Below the best and the worst '
        'ones: '
        f'{", ".join(scores.pictures()[2])}.'
    )
    for some in (rows[::-1][:3], rows[:3]):
        page.picture(_grid(some, 1, 190), page.epw * 0.9)


def _real(page: Page, r: FinishedRun, folder: str, device: str) -> None:
    """Pictures that nobody knows the truth of."""
    page.head('Real pictures', below=100)
    enlarged = '' if r.baseline == 'input' else 'bicubic enlargement, '
    page.say(f'Inputs without ground truth: input, {enlarged}ours.')
    page.picture(_grid(restored(r, folder, device), 2, 130))


def _grid(rows: Sequence[Shown], columns: int, side: int) -> Image.Image:
    """Rows of pictures as one image, `columns` of them side by side; side: of a picture, 1/100
    inch.
    """
    wide = max(len(row.pictures) for row in rows)
    tall = -(-len(rows) // columns)
    titled = any(row.title for row in rows)
    height = tall * (side + (22 if titled else 4)) / 100
    figure = Figure(figsize=(columns * wide * side / 100, height), dpi=200)
    axes = figure.subplots(tall, columns * wide, squeeze=False)
    for a in axes.flat:
        a.axis('off')
    for i, row in enumerate(rows):
        for k, pixels in enumerate(row.pictures):
            a = axes[i // columns][i % columns * wide + k]
            a.imshow(pixels.permute(1, 2, 0).numpy(), interpolation='nearest')
            if row.title and k == 0:
                a.set_title(row.title, fontsize=8, loc='left', pad=2)
    figure.subplots_adjust(0, 0, 1, 0.94 if titled else 1, 0.02, 0.12 if titled else 0.02)
    return rendered(figure)
