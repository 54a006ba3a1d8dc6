"""Reports of a small real run: a PDF within its pages and with its font, a page that needs no other
file.
"""

import base64
import json
import re
from pathlib import Path

import cv2
import matplotlib
import pytest
from pypdf import PdfReader

import losses
import models
import synthetic
import train
from config import presets
from tasks import prose
from tools import report, report_pdf, report_text

SIZE = 64
NET = '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}'
FONT = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    mp = pytest.MonkeyPatch()
    mp.setenv('FACES_CACHE', str(folder / 'cache'))
    (folder / 'hq').mkdir()
    (folder / 'real').mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / 'hq' / f'{i}.png'), synthetic.face(i, SIZE).image[..., ::-1])
        cv2.imwrite(
            str(folder / 'real' / f'{i}.png'), synthetic.face(50 + i, SIZE).image[::4, ::4, ::-1]
        )
    common = '--val 4 --preset unet --recipe gfpgan --nimg 16 --ticks 2 --threads 1 --pipe torch'
    for name, lr in ('a', '1e-3'), ('b', '5e-4'):
        argv = ['--data', str(folder / 'hq'), '--size', str(SIZE), '--net', NET, *common.split()]
        assert train.main([*argv, '--lr', lr, '--out', str(folder / name)]) == 0
    yield folder
    mp.undo()


def test_pdf(runs, capsys):
    assert (
        report.main(
            [
                str(runs / 'a'),
                '--out',
                str(runs / 'a.pdf'),
                '--font',
                str(FONT),
                '--author',
                'Ada',
                '--matric',
                'U1234567A',
                '--real',
                str(runs / 'real'),
            ]
        )
        == 0
    )
    pdf = PdfReader(runs / 'a.pdf')
    content = int(re.search(r'(\d+) pages, cover', capsys.readouterr().out)[1])
    assert len(pdf.pages) == content + 2 and content <= report_pdf.PAGES
    text = [p.extract_text() for p in pdf.pages]
    assert (
        'Ada' in text[0]
        and 'U1234567A' in text[0]
        and 'References' in text[-1]
        and 'Real-ESRGAN' in text[-1]
    )
    whole = ' '.join(text)
    assert all(
        word in whole
        for word in (
            f'{models.count(models.UNet(**json.loads(NET))):,}',
            'Discriminator',
            'Losses and training',
            'bicubic',
            'cosine schedule',
            'Real pictures',
        )
    )
    fonts = {
        f['/BaseFont']
        for p in pdf.pages
        for f in (v.get_object() for v in p['/Resources']['/Font'].get_object().values())
    }
    assert len(fonts) == 1 and 'DejaVu' in fonts.pop()
    width, height = (float(v) / 72 * 25.4 for v in pdf.pages[0].mediabox[2:])
    assert (round(width), round(height)) == (210, 297)


def test_words_of_the_author_stand_around_the_chapters(runs, capsys):
    words = runs / 'words.md'
    lines = (
        '\ufeff# Why',
        'Faces are',
        'worth it.',
        '',
        'Übermut.',
        '---',
        '## In the end',
        'They were.',
    )
    words.write_bytes('\r\n'.join(lines).encode())
    argv = [str(runs / 'a'), '--out', str(runs / 'words.pdf'), '--font', str(FONT)]
    assert report.main([*argv, '--text', str(words)]) == 0
    whole = ' '.join(p.extract_text() for p in PdfReader(runs / 'words.pdf').pages)
    said = 'Why', 'Faces are worth it.', 'Übermut.', 'Model', 'Results', 'In the end', 'They were.'
    places = [whole.index(text) for text in (*said, 'References')]
    assert places == sorted(places) and '#' not in whole

    # Too long, and what is no text.
    for content, error in (
        (b'word ' * 12000, 'shorten --text'),
        (b'\xff\xfe\x00', 'is not UTF-8'),
        (b' \n---\n#\n', 'is empty'),
        (b'a\n---\nb\n --- \nc', 'has 2 lines of ---'),
        (b'a\0', 'is not text'),
        (b'x' * (report_text.LARGEST + 1), 'too large'),
    ):
        words.write_bytes(content)
        assert report.main([*argv, '--text', str(words)]) == 2
        assert error in capsys.readouterr().err
    page = [str(runs / 'a'), '--out', str(runs / 'x.html'), '--text', str(words)]
    assert report.main(page) == 2 and 'is for a PDF' in capsys.readouterr().err


def test_html(runs):
    assert report.main([str(runs / 'a'), str(runs / 'b'), '--out', str(runs / 'all.html')]) == 0
    text = (runs / 'all.html').read_text()
    assert '://' not in text and text.count('<img src="data:image/jpeg;base64,') == 3
    assert '<td>lr<td>0.001<td>0.0005' in text and text.count('class=best') == 1
    assert base64.b64decode(re.search(r'base64,([^"]+)"', text)[1])[:2] == b'\xff\xd8'


def test_bad_input(runs, capsys):
    for argv, said in (
        (['nowhere'], 'no run directory'),
        ([str(runs / 'a'), str(runs / 'b')], 'a .pdf is of one run'),
        ([str(runs / 'a'), '--font', 'none.ttf'], '--font none.ttf'),
    ):
        assert (
            report.main([*argv, '--out', str(runs / 'x.pdf')]) == 2
            and said in capsys.readouterr().err
        )
    assert not (runs / 'x.pdf').exists()


def test_without_the_fonts_of_the_rules_another_is_taken_and_said(monkeypatch, capsys):
    monkeypatch.setattr(report_pdf.font_manager, 'findSystemFonts', list)
    assert Path(report_pdf.font_file(None)).samefile(FONT)
    assert 'fonts-liberation' in capsys.readouterr().out


def test_fonts_of_the_right_widths_are_found_in_order(monkeypatch):
    monkeypatch.setattr(
        report_pdf.font_manager,
        'findSystemFonts',
        lambda: [
            '/f/Arimo-Regular.ttf',
            '/f/LiberationSans-Regular.ttf',
            '/f/LiberationSans-Bold.ttf',
        ],
    )
    assert report_pdf.font_file(None) == '/f/LiberationSans-Regular.ttf'


def test_every_loss_has_words():
    for loss in losses.RESTORE:
        config = presets.config('unet', loss=loss, recipe='gfpgan')
        assert 'The loss is ' in prose.RestorerProse().training(config, '')
    for loss in losses.PARSE:
        config = presets.config('parse_unet', loss=loss)
        assert 'The loss is ' in prose.ParserProse().training(config, '')
