"""What tools/evaluate.py writes, read again by others: CSV, JSON, the page and its pictures."""

import base64
import csv
import io
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image

from sources.manifest import Image as File
from tools import evaluate
from tools.evaluation import gallery
from tools.evaluation.columns import Column

SIZE, COUNT = 64, 5
# Markup, quotation marks, separators of CSV, of Markdown and of addresses.
HOSTILE = 'a,"b" <i>|#%.png'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """GT/, LQ/ of a quarter of its size, and two methods, of which b is the better one but for one
    image; a picture has a name that has to be escaped everywhere.
    """
    home = tmp_path_factory.mktemp('files')
    draw = np.random.default_rng(0)
    for i in range(COUNT):
        small = draw.integers(0, 256, (8, 8, 3), np.uint8)
        image = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        name = HOSTILE if i == 3 else f'{i}.png'
        noise = draw.normal(0, 1, image.shape)
        for folder, picture in (
            ('GT', image),
            ('LQ', image[::4, ::4]),
            ('a', image + (4 + i) * noise),
            ('b', image + (40 if i == 2 else 2) * noise),
        ):
            (home / folder).mkdir(exist_ok=True)
            picture = np.clip(picture, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(home / folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FACES_CACHE', str(home / 'cache'))
        methods = [f'a|={home / "a"}', f'b={home / "b"}', f'same={home / "GT"}']
        argv = [*methods, '--gt', home / 'GT', '--input', home / 'LQ', '--device', 'cpu']
        argv += ['--out', home / 'out/table', '--gallery', '--show', 2]
        assert evaluate.main([str(word) for word in argv]) == 0
    return home


@pytest.fixture
def found(home):
    return json.loads((home / 'out/table.json').read_text())


class Page(HTMLParser):
    """What a reader of a page meets."""

    VOID = {'meta', 'img', 'br'}
    OPTIONAL = {'li'}  # their ends may be left out

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.ids, self.words = [], [], [], [], []
        self.sections = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID | self.OPTIONAL:
            self.open.append(tag)
        if tag == 'img':
            self.images.append(attrs)
        if tag == 'a':
            self.links.append(attrs['href'])
        if 'id' in attrs:
            self.ids.append(attrs['id'])
        if tag == 'meta':
            self.policy = attrs.get('content')

    def handle_endtag(self, tag):
        while self.open[-1] != tag:
            raise AssertionError(f'{tag} ends within {self.open}')
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)
        if 'section' in self.open and self.open[-1] == 'h3':
            self.sections.setdefault(self.ids[-1], []).append(data)


@pytest.fixture
def page(home):
    return Page((home / 'out/table.html').read_text())


# ------------------------------------------------------------------------------------------------
# CSV and JSON.


def test_the_csv_holds_what_the_json_does(home, found):
    data = (home / 'out/table.csv').read_bytes()
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline='')))
    # RFC 4180: every line ends with CRLF, also the last one.
    assert data.endswith(b'\r\n') and data.count(b'\n') == data.count(b'\r\n') == len(rows) + 1
    assert list(rows[0]) == ['image', 'method', 'psnr', 'ssim', 'sharpness']
    order = [(row['image'], row['method']) for row in rows]
    assert order == [(name, method) for name in found['images'] for method in ('a|', 'b', 'same')]
    assert HOSTILE.removesuffix('.png') in found['images']
    for row in rows:
        i = found['images'].index(row['image'])
        for key in 'psnr', 'ssim', 'sharpness':
            value = found['each'][row['method']][key][i]
            assert float(row[key]) == (value if value is not None else float('inf'))


def test_results_of_16_bits_are_compared_as_8(home, found, tmp_path, capsys):
    """infer.py writes such of such photos: the nearest of 256 levels counts."""
    deep = tmp_path / 'deep'
    deep.mkdir()
    for i in range(COUNT):
        name = HOSTILE if i == 3 else f'{i}.png'
        pixels = np.array(Image.open(home / 'a' / name)).astype(np.uint16)
        # Up to half a level beside it.
        beside = np.random.default_rng(i).integers(-128, 129, pixels.shape)
        pixels = np.clip(257 * pixels.astype(int) + beside, 0, 65_535).astype(np.uint16)
        cv2.imwrite(str(deep / name), pixels[..., ::-1])
    argv = [deep, '--gt', home / 'GT', '--device', 'cpu', '--out', tmp_path / 'table']
    assert evaluate.main([str(word) for word in argv]) == 0
    (mine,) = json.loads((tmp_path / 'table.json').read_text())['each'].values()
    assert mine['psnr'] == pytest.approx(found['each']['a|']['psnr'])
    assert 'have 16 bits per channel: reduced to 8' in capsys.readouterr().out


def test_what_is_no_number_is_empty_in_the_csv(home, tmp_path, monkeypatch):
    """Sharpness of a grey picture is 0 / 0."""
    monkeypatch.setenv('FACES_CACHE', str(home / 'cache'))
    (tmp_path / 'grey').mkdir()
    Image.new('RGB', (32, 32), (90, 90, 90)).save(tmp_path / 'grey/0.png')
    Image.open(home / 'GT/1.png').resize((32, 32)).save(tmp_path / 'grey/1.png')
    argv = [tmp_path / 'grey', '--gt', tmp_path / 'grey', '--out', tmp_path / 't']
    assert evaluate.main([*map(str, argv), '--device', 'cpu']) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / 't.csv').read_text())))
    assert [row['sharpness'] for row in rows] == ['', '1.0']
    found = json.loads((tmp_path / 't.json').read_text())
    (each,), (mean,), (half,) = (found[key].values() for key in ('each', 'mean', 'half'))
    assert each['sharpness'] == [None, 1] and mean['sharpness'] == 1 and half['sharpness'] is None


def test_the_table_escapes_what_divides_cells(home):
    text = (home / 'out/table.md').read_text()
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert rows[2].startswith('| a\\| ')
    counts = {row.replace('\\|', '').count('|') for row in rows[:5]}
    assert counts == {6 - 1}  # without MS-SSIM, of which the pictures are too small


# ------------------------------------------------------------------------------------------------
# The page.


def test_the_page_is_whole_and_asks_for_nothing(home, page):
    text = (home / 'out/table.html').read_text()
    assert not page.open and '://' not in text and '<script' not in text and '<i>' not in text
    assert "default-src 'none'" in page.policy
    assert 'prefers-color-scheme:dark' in text and '<html lang=en>' in text


def test_every_picture_is_there_and_says_what_it_shows(page):
    assert page.images and len({image['alt'] for image in page.images}) > 10
    for image in page.images:
        kind, data = image['src'].split(',', 1)
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == 'data:image/jpeg;base64' and shown.size == (320, 320)
        title, _, name = image['alt'].partition(' of ')
        assert title in ('input', 'a|', 'b', 'same', 'truth') and name


def test_every_link_leads_somewhere(home, page):
    inside = [link[1:] for link in page.links if link.startswith('#')]
    assert sorted(inside) == sorted(page.ids) and len(set(inside)) == len(inside) == 4
    outside = [home / 'out' / unquote(link) for link in page.links if not link.startswith('#')]
    assert len(outside) == len(page.images)
    for path, image in zip(outside, page.images, strict=True):
        title, _, name = image['alt'].partition(' of ')
        folder = {'input': 'LQ', 'truth': 'GT', 'same': 'GT', 'a|': 'a'}.get(title, title)
        assert path.samefile(home / folder / f'{name}.png')


def test_the_images_are_those_that_say_most(page, found):
    a, b = (found['each'][name]['psnr'] for name in ('a|', 'b'))
    names = found['images']

    def first(values):
        ranked = sorted(range(COUNT), key=lambda i: -values[i])[:2]
        return [names[i] for i in ranked]

    shown = {key: [h.rpartition(': ')[0] for h in heads] for key, heads in page.sections.items()}
    assert shown['best'] == first(a)
    assert shown['worst'] == first([-x for x in a])
    assert shown['method-1'] == first([abs(x - y) for x, y in zip(a, b, strict=True)])
    # All differences to a perfect copy are endless.
    assert shown['method-2'] == names[:2]


def test_figures_stand_below_the_pictures(page, found):
    i = found['images'].index(page.sections['best'][0].rpartition(': ')[0])
    said = ''.join(page.words)
    for name in 'a|', 'b':
        each = found['each'][name]
        assert f'PSNR, dB {each["psnr"][i]:.3f}SSIM {each["ssim"][i]:.4f}' in said


def test_nothing_is_both_best_and_worst():
    values = np.array([3.0, np.nan, 1.0, 2.0, 2.0])
    assert gallery.ranking(values) == [0, 3, 4, 2]
    assert gallery.differing(values, np.array([3.0, 1.0, 1.5, 0.0, 2.0])) == [3, 2]


@pytest.mark.parametrize(
    'better, order', [('higher', [1, 2, 0]), ('lower', [0, 2, 1]), ('1', [2, 0, 1])]
)
def test_a_column_knows_what_is_better(better, order):
    values = np.array([0.5, 1.9, 1.2])
    assert gallery.ranking(Column('x', better, 2).goodness(values)) == order


def test_what_no_browser_opens_has_no_link(tmp_path):
    file = File(str(tmp_path / 'a b:ü.png'), 8, 8, 'png', 'rgb')
    assert gallery.link(file, tmp_path / 'out/x.html') == '../a%20b%3A%C3%BC.png'
    assert gallery.link(file, tmp_path / 'x.html') == 'a%20b%3A%C3%BC.png'
    member = file._replace(path='x.tar/a.png', part=('x.tar', 0, 9))
    assert gallery.link(member, tmp_path / 'x.html') is None


def test_a_browser_shows_it_in_both_schemes(home, page):
    """Every picture is decoded, keys reach the links, and a dark page is dark."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('needs chromium and chromedriver: apt install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in 'headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'no-proxy-server':
        options.add_argument(f'--{flag}')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    browser = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=driver)
    )
    try:
        browser.get(Path(home / 'out/table.html').as_uri())
        widths = browser.execute_script('return [...document.images].map(i => i.naturalWidth)')
        assert widths == [320] * len(page.images)
        for scheme, background in ('light', 'rgb(255, 255, 255)'), ('dark', 'rgb(23, 23, 23)'):
            media = [{'name': 'prefers-color-scheme', 'value': scheme}]
            browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': media})
            colour = 'return getComputedStyle(document.body).backgroundColor'
            assert browser.execute_script(colour) == background
            if folder := os.environ.get('FACES_SCREENSHOT'):
                browser.save_screenshot(f'{folder}-{scheme}.png')
        stops = 'return [...document.querySelectorAll("a[href],[tabindex]")].map(e => e.tabIndex)'
        assert browser.execute_script(stops).count(0) == len(page.links) + 2
        asked = [json.loads(row['message'])['message'] for row in browser.get_log('performance')]
        urls = [m['params']['request']['url'] for m in asked if m['method'] == SENT]
        assert {url.split(':')[0] for url in urls} <= {'file', 'data'}
        assert not [row for row in browser.get_log('browser') if row['level'] == 'SEVERE']
    finally:
        browser.quit()


SENT = 'Network.requestWillBeSent'
