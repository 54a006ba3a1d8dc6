"""Fill the table of figures in docs/gpu.md from a summary of gpu_suite.py.

python benchmarks/gpu_table.py runs/gpu_suite/summary.json
python benchmarks/gpu_table.py summary.json --page docs/gpu.md

What stands between the two marks of the page is replaced. Parts that have no result, or failed, are
left out; the targets say whether they were reached.
"""

import program

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from errors import FacesError
from tools import arguments

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- figures: gpu_table.py -->', '<!-- end of figures -->'


def table(summary: dict[str, Any]) -> str:
    """The table in Markdown, and what it was measured on and with."""
    rows = list(_rows(summary))
    if not rows:
        return 'No figure in this documentation is from a GPU yet.'
    machine = f'{summary["device"]}, torch {summary["torch"]}, {summary["date"]}.'
    return '\n'.join([machine, '', '| Figure | Measured | Target |', '|---|---|---|', *rows])


def _rows(summary: dict[str, Any]) -> Iterator[str]:
    """Rows of the table: what is judged first, then what is only told."""
    for v in summary['verdicts']:
        mark = '' if v['reached'] else ', missed'
        yield f'| {v["what"].strip()} | {v["measured"]:,} | {v["target"]}{mark} |'
    figures = {name: part['figures'] for name, part in summary['parts'].items()}
    for row in (figures.get('pipes') or {}).get('images_per_second', []):
        what = f'{row["pipe"]} pipe, cache {row["cache"]}, warm, img/s'
        yield f'| {what} | {row["batch warm"]:,.0f} | |'
    for row in (figures.get('step') or {}).get('rows', []):
        what = f'{row["preset"]} with the pipe, batch {row["batch"]}, img/s'
        yield f'| {what} | {row["pipe"]:,.0f} | |'


def filled(page: str, text: str) -> str:
    """A page with a text between its marks. Raises FacesError where it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise FacesError(f'the page needs the lines {BEGIN} and {END}, between which the table is')
    return f'{head}{BEGIN}\n{text}\n{END}{tail}'


def parser() -> argparse.ArgumentParser:
    """Flags of gpu_table.py."""
    p = arguments.described(__doc__)
    p.add_argument('summary', type=Path, help='summary.json of gpu_suite.py')
    p.add_argument(
        '--page',
        type=Path,
        default=ROOT / 'docs/gpu.md',
        help='page whose table is replaced (default: %(default)s)',
    )
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Replace the table -> exit status."""
    args = parser().parse_args(argv)
    summary = json.loads(args.summary.read_text())
    args.page.write_text(filled(args.page.read_text(), table(summary)))
    print(f'table of {args.summary} in {args.page}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
