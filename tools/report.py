"""A report of a run as PDF, and a page that compares several.

python tools/report.py runs/mine --out report.pdf --author NAME --text words.md --real FOLDER
python tools/report.py runs/a runs/b runs/c --out compare.html

The PDF has at most five A4 pages besides cover and references, in 12 points. The page is one file
that needs no other: options, scores, curves, pictures. The text of the PDF is set in Arial where it
is installed, else in a font of the same widths (Liberation Sans, Arimo) or, said then, in DejaVu
Sans; --font names another.
"""

import program

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import storage
from errors import RunError
from tools import arguments, report_html, report_pdf, report_text
from tools.finished_run import FinishedRun
from training import outputs


def parser() -> argparse.ArgumentParser:
    """Flags of report.py."""
    p = arguments.described(__doc__)
    p.add_argument('runs', nargs='+', help='run directories; a PDF is of one')
    p.add_argument(
        '--out', type=Path, default=Path('report.pdf'), help='.pdf or .html (default: %(default)s)'
    )
    p.add_argument('--title', help='on the cover (default: by what the run is)')
    p.add_argument('--author', help='on the cover')
    p.add_argument('--matric', metavar='LINE', help='another line on the cover, below the author')
    p.add_argument('--real', help='folder of real low-quality faces to restore and show')
    p.add_argument(
        '--text',
        type=Path,
        help='file of your own words: # before a headline, an empty line between paragraphs; what '
        'follows a line of --- comes after the results',
    )
    p.add_argument('--font', type=Path, help='TrueType file to set the text in')
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the validation images are restored (default: %(default)s)',
    )
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report that the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    outputs.check(
        {'--out': args.out},
        {'--real': args.real, '--font': args.font, '--text': args.text},
        {'RUN': args.runs},
    )
    if args.out.suffix == '.html':
        if args.text:
            raise RunError(f'--text {args.text} is for a PDF, and --out {args.out} compares runs')
        runs = [FinishedRun(folder) for folder in args.runs]
        storage.write(args.out, report_html.page(runs).encode())
        print(f'{args.out}: {storage.counted(len(runs), "run")}')
        return 0

    # The page compares; the PDF is of one run, whose validation images are restored for it.
    if args.out.suffix != '.pdf' or len(args.runs) != 1:
        raise RunError(
            f'--out {args.out} of {len(args.runs)} runs: a .pdf is of one run, a .html compares '
            'any number'
        )
    cover = report_pdf.Cover(args.title, args.author, args.matric)
    words = report_text.read(args.text) if args.text else None
    of = FinishedRun(args.runs[0])
    report = report_pdf.pdf(
        of, cover, words=words, real=args.real, font=args.font, device=args.device
    )
    storage.write(args.out, report.data)
    print(f'{args.out}: {report.pages} pages, cover and references')
    return 0


if __name__ == '__main__':
    sys.exit(main())
