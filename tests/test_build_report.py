"""The report of a build: what is counted, which faces are shown, and that the page serves everyone
and is safe, whatever photographs are called.
"""

import base64
import html.parser
import io
import json
import math
import re
import tracemalloc

import msgspec
import numpy as np
import pytest
from PIL import Image

from errors import DataError
from faces.measures import Limits, Measures
from tools.building import accounts, charts, report, sheets, tally, thresholds
from tools.building.accounts import Account, Face, Sheet
from tools.building.charts import AXES, Axis, Counts
from tools.building.sheets import Strip

LIMITS = {
    'least_side': 48.0,
    'least_exposure': 40.0,
    'most_exposure': 220.0,
    'most_yaw': 45.0,
    'least_score': None,
}
HOSTILE = '<script>alert(1)</script>" onload="x\n\u202e\udcff\ud800'


def drawn_account(shard, n=60, seed=None):
    """An account with faces of all fates, some of equal values."""
    rng = np.random.default_rng(shard if seed is None else seed)
    faces = []
    for i in range(n):
        measures = {
            'side': round(float(np.exp(rng.normal(4.5, 0.8))), 1),
            'exposure': float(rng.integers(0, 256)),
            'yaw': round(float(rng.normal(0, 30)), 1),
            'score': 1.0,
            'occluded': None,
        }
        dropped = failed(measures) or ('duplicate' if rng.random() < 0.1 else '')
        key = f'{shard:06}-{i:06}'
        faces.append(Face(key, f'a/{i}.jpg', measures=measures, dropped=dropped))
    bad = [(f'b/{shard}.jpg', f'truncated at byte {shard + 1_000:,}')]
    return Account(shard, n + 3, bad, faces, {})


def failed(measures):
    """The first measure whose threshold is failed, or ''."""
    for name, value in measures.items():
        low, high = sheets.bounds(LIMITS, name)
        if value is not None and not low <= value <= high:
            return name
    return ''


def face(key, dropped='', **measures):
    return Face(key, f'{key}.jpg', measures=measures, dropped=dropped)


def page_of(all_accounts, limits=LIMITS, title='Faces', settings=None, copies=True):
    def sheet(shard):
        faces = next(a.faces for a in all_accounts if a.shard == shard)
        return sheets.ends(faces, limits, picture) if copies else Sheet({})

    return report.page(title, iter(all_accounts), sheet, limits, settings or {})


def picture(key):
    """A face of one colour, told by its key."""
    return np.full(
        (512, 512, 3), np.random.default_rng(int(key[-6:])).integers(0, 256, 3), np.uint8
    )


class Page(html.parser.HTMLParser):
    """What a page consists of."""

    VOID = {'meta', 'img', 'br', 'path'}
    # Their ends may be left out: another of their kind, or their parent's end, closes them.
    OPEN = {'tr', 'td', 'th', 'li', 'html', 'head', 'body'}

    def __init__(self, content):
        super().__init__()
        self.tags, self.stack, self.words = [], [], []
        self.feed(content)
        self.close()
        assert not [tag for tag in self.stack if tag not in self.OPEN]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self.stack[-1] in self.OPEN - {tag}:
            self.stack.pop()
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack[-1] != 'style':
            self.words.append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope='module')
def many():
    return [drawn_account(shard) for shard in range(5)]


@pytest.fixture(scope='module')
def content(many):
    return page_of(many, settings={'size': 512, 'source': HOSTILE})


# ---- which faces are shown ----


def test_a_thresholds_neighbours_and_the_ends_are_chosen():
    values = [10, 20, 30, 40, 45, 46, 47, 47.9, 48, 49, 50, 51, 60, 70, 80, 90, 100]
    faces = [face(f'{i:02}', 'side' if v < 48 else '', side=v) for i, v in enumerate(values)]
    found = sheets.chosen(faces[::-1], {'least_side': 48})
    assert {strip: [value for value, _ in pairs] for (_, strip), pairs in found.items()} == {
        Strip('below', False): [10, 20, 30, 40],
        Strip('below', True): [47.9, 47, 46, 45],
        Strip('kept', False): [48, 49, 50, 51],
        Strip('kept', True): [100, 90, 80, 70],
    }


def test_the_chosen_are_those_that_sorting_finds(many):
    faces = many[0].faces
    for (measure, strip), pairs in sheets.chosen(faces, LIMITS).items():
        low, high = sheets.bounds(LIMITS, measure)
        by_it = [f for f in faces if f.dropped == measure]
        members = {
            'kept': [f for f in faces if f.dropped in ('', 'duplicate')],
            'below': [f for f in by_it if f.measures[measure] < low],
            'above': [f for f in by_it if f.measures[measure] > high],
        }
        sign = -1 if strip.highest else 1
        ranked = sorted((sign * f.measures[measure], f.key) for f in members[strip.part])
        assert [f.key for _, f in pairs] == [key for _, key in ranked[:4]]


def test_of_equal_values_the_smaller_keys_are_shown_at_both_ends():
    faces = [face(f'{i}', jpeg=100.0) for i in (7, 3, 9, 1, 5, 2)]
    for pairs in sheets.chosen(faces, {}).values():
        assert [f.key for _, f in pairs] == ['1', '2', '3', '5']


def test_what_has_no_value_is_not_shown():
    faces = [face('1', yaw=None), face('2', yaw=math.nan), face('3'), face('4', yaw=math.inf)]
    assert not sheets.chosen(faces, {})
    found = sheets.chosen([*faces, face('5', yaw=1.0)], {})
    assert {f.key for pairs in found.values() for _, f in pairs} == {'5'}


def test_a_rounded_value_on_its_threshold_is_next_to_it():
    faces = [face('1', 'exposure', exposure=40.0), face('2', 'exposure', exposure=220.0)]
    parts = {strip.part: pairs for (_, strip), pairs in sheets.chosen(faces, LIMITS).items()}
    assert parts == {'below': [(40.0, faces[0])], 'above': [(220.0, faces[1])]}


@pytest.mark.parametrize('word, part', [('least', 'below'), ('most', 'above')])
def test_a_single_threshold_has_one_side(word, part):
    found = sheets.chosen([face('1', 'contrast', contrast=9.0)], {f'{word}_contrast': 9.0})
    assert {strip.part for _, strip in found} == {part}


@pytest.mark.parametrize(
    'measure, expected',
    [
        ('side', (48, math.inf)),
        ('exposure', (40, 220)),
        ('yaw', (-45, 45)),
        ('score', (-math.inf, math.inf)),
        ('roll', (-math.inf, math.inf)),
    ],
)
def test_bounds(measure, expected):
    assert sheets.bounds(LIMITS, measure) == expected


def test_copies_are_small_pictures_of_the_chosen_faces_only(many):
    faces = many[1].faces
    asked = []

    def copy(key):
        asked.append(key)
        return picture(key)

    sheet = sheets.ends(faces, LIMITS, copy)
    wanted = {f.key for pairs in sheets.chosen(faces, LIMITS).values() for _, f in pairs}
    assert list(sheet.copies) == sorted(wanted) == asked and len(wanted) < len(faces)
    for key, copy in sheet.copies.items():
        with Image.open(io.BytesIO(base64.b64decode(copy))) as image:
            assert image.format == 'JPEG' and image.size == (96, 96)
            assert np.abs(np.asarray(image) - picture(key)[:96, :96].astype(int)).max() <= 4
    # What is written is what is read, and the same bytes every time.
    data = accounts.encoded(sheet)
    again = accounts.encoded(sheets.ends(faces[::-1], LIMITS, picture))
    assert data == again and msgspec.json.decode(data, type=Sheet) == sheet


def test_a_copy_is_the_mean_of_what_it_covers():
    whole = np.random.default_rng(0).integers(0, 256, (480, 480, 3)).astype(np.uint8)
    blocks = whole.reshape(96, 5, 96, 5, 3).mean((1, 3))
    assert np.abs(sheets.small(whole) - blocks).max() <= 0.51
    assert (sheets.small(sheets.small(whole)) == sheets.small(whole)).all()


# ---- what is counted ----


def test_every_measure_and_every_threshold_is_known():
    assert tuple(AXES) == Measures._fields
    assert {each.measure for each in thresholds.THRESHOLDS} <= set(AXES)
    turned = {each.measure for each in thresholds.THRESHOLDS if each.range is thresholds.ANGLE}
    assert turned == set(sheets.ANGLES)
    # What a flag leaves open has no bound here, either.
    named = thresholds.named(Limits(side=(99, 100_000), yaw=(-30, 30), exposure=(1, 2)))
    assert sheets.bounds(named, 'side') == (99, math.inf)
    assert sheets.bounds(named, 'yaw') == (-30, 30) and sheets.bounds(named, 'exposure') == (1, 2)


@pytest.mark.parametrize('name', ['side', 'yaw', 'score', 'jpeg', 'resolution'])
def test_percentiles_are_those_of_numpy_to_within_a_bin(name):
    rng = np.random.default_rng(5)
    axis = AXES[name]
    part = rng.beta(2, 5, 4000)
    values = np.array([axis.value(position) for position in part * axis.bins])
    if name == 'jpeg':
        values = values.round()
    kinds = rng.integers(0, 3, 4000)
    counts = Counts(axis)
    for i in range(0, 4000, 1000):
        counts.add(values[i : i + 1000], kinds[i : i + 1000])
    assert counts.totals() == np.bincount(kinds).tolist()
    for chosen in [0], [1], [0, 1, 2]:
        mine = values[np.isin(kinds, chosen)]
        for p in 0.0, 0.05, 0.5, 0.95, 1.0:
            # Where faces are few, those of the next ranks may lie some bins away.
            near = np.percentile(mine, np.clip([100 * p - 0.1, 100 * p + 0.1], 0, 100))
            low, high = axis.position(near)
            got = axis.position(np.array(counts.percentile(p, chosen)))
            assert low - 1 <= got <= high + 1


def test_a_value_that_all_have_is_every_percentile():
    counts = Counts(AXES['jpeg'])
    counts.add(np.full(9, 95.0), np.zeros(9, int))
    assert {counts.percentile(p, [0]) for p in (0, 0.05, 0.5, 0.95, 1)} == {95.0}
    assert math.isnan(counts.percentile(0.5, [1]))


def test_values_beyond_the_axis_or_none_are_counted():
    counts = Counts(Axis('x', '', 0, 1, 2, bins=4))
    counts.add(np.array([-5, 0.3, 1.0, 9, math.nan]), np.zeros(5, int))
    assert counts.bins[0].tolist() == [1, 1, 0, 2] and counts.without == 1


def test_the_tally_of_all_shards_is_that_of_one_with_all_faces(many):
    apart, together = tally.Tally(LIMITS), tally.Tally(LIMITS)
    for account in many:
        apart.add(account)
    together.add(Account(0, 0, [], [f for account in many for f in account.faces], {}))
    for name in together.counts:
        assert (apart.counts[name].bins == together.counts[name].bins).all()
    assert apart.fates == together.fates and apart.faces == together.faces == 300
    # Without duplicates, which of a shard's four may leave fewer, the faces shown are the same.
    plain = [
        Account(a.shard, 0, [], [f for f in a.faces if f.dropped != 'duplicate'], {}) for a in many
    ]
    apart, together = tally.Tally(LIMITS), tally.Tally(LIMITS)
    for account in plain:
        apart.add(account)
    together.add(Account(0, 0, [], [f for account in plain for f in account.faces], {}))
    keys = [
        {where: [e.key for e in examples] for where, examples in each.examples.items()}
        for each in (apart, together)
    ]
    assert keys[0] == keys[1] and len(keys[0]) > 10


def test_a_duplicate_is_not_shown_though_it_has_a_copy(many):
    made = tally.Tally(LIMITS)
    for account in many:
        made.add(account)
    duplicates = {f.key for a in many for f in a.faces if f.dropped == 'duplicate'}
    shown = {e.key for examples in made.examples.values() for e in examples}
    chosen = {
        f.key for a in many for pairs in sheets.chosen(a.faces, LIMITS).values() for _, f in pairs
    }
    assert duplicates & chosen and not duplicates & shown and shown <= chosen


def test_memory_does_not_grow_with_the_number_of_shards():
    def most(shards):
        tracemalloc.start()
        made = tally.Tally(LIMITS)
        for shard in range(shards):
            account = drawn_account(shard, 20)
            account.bad = [
                (f'{shard}-{i}', f'{shard} x{chr(97 + i)}{shard}' * 9) for i in range(20)
            ]
            made.add(account)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(2)
    assert most(80) < 1.1 * most(20)


def test_kinds_of_reasons_are_bounded_and_numbers_make_none():
    made = tally.Tally({})
    bad = [(f'{i}', f'truncated at byte {i:,}') for i in range(3000)]
    words = [''.join(chr(97 + int(d)) for d in str(i)) for i in range(2000)]
    made.add(Account(0, 5000, [*bad, *((word, word) for word in words)], [], {}))
    assert made.reasons['truncated at byte N'] == 3000 and made.reasons.total() == made.bad == 5000
    assert len(made.reasons) == tally.REASONS + 1 and len(made.named) == tally.NAMED


# ---- the page ----


def test_only_sheets_of_faces_that_are_shown_are_read():
    asked = []
    # The later a shard, the nearer to the middle its faces lie.
    made = [
        Account(
            i,
            1,
            [],
            [face(f'{i:06}-{j:06}', side=300.0 + (-1) ** j * (99 - i)) for j in range(8)],
            {},
        )
        for i in range(50)
    ]

    def sheet(shard):
        asked.append(shard)
        return sheets.ends(made[shard].faces, {}, picture)

    page = Page(report.page('x', made, sheet, {}, {}))
    assert asked == [0] and len(page.all('img')) == 8


def test_totals(many, content):
    page = Page(content)
    faces = [f for account in many for f in account.faces]
    kept = sum(not f.dropped for f in faces)
    assert '315 photos in 5 shards: 5 photos could not be used, 10 had no face.' in page.text
    assert f'300 faces found, {kept} kept ({kept / 3:.1f} %).' in page.text
    for reason in 'side', 'exposure', 'yaw', 'duplicate':
        n = sum(f.dropped == reason for f in faces)
        assert n and f'dropped: {reason} {n} {n / 3:.1f} %' in ' '.join(page.text.split())
        assert f'width:{n / 3:.2f}%' in content
    assert 'truncated at byte N 5 100.0 %' in page.text
    assert all(f'b/{i}.jpg: truncated at byte 1,00{i}' in page.text for i in range(5))


def test_thresholds_name_their_flag_and_which_way_to_turn_it(content):
    page = Page(content)
    for said in (
        '--least-side 48 drops what lies below 48: a higher value drops more.',
        '--most-exposure 220 drops what lies above 220: a lower value drops more.',
        '--most-yaw 45 drops what lies beyond 45 either way: a lower value drops more.',
        'How sure the detector is. It has no threshold.',
        '300 faces without a value.',
    ):
        assert said in page.text
    # A line of each threshold, right of what it drops.
    assert content.count('class="line limit"') == 1 + 2 + 2
    chart = content[content.index('<svg') : content.index('</svg>')]
    line = float(re.search(r'limit" d="M([\d.]+)', chart)[1])
    bars = {
        kind: [
            float(x)
            for x in re.findall(r'M([\d.]+)', re.search(rf'class={kind} d="([^"]*)', chart)[1])
        ]
        for kind in charts.KINDS
    }
    assert max(bars['by-it']) < line and min(bars['kept']) > line - 8


def test_strips_lead_along_the_axis_and_show_a_face_once():
    values = [100, 10, 90, 20, 70, 30, 80, 40, 50]
    faces = [
        face(f'000000-00000{i}', '' if 40 <= v <= 80 else 'exposure', exposure=v)
        for i, v in enumerate(values)
    ]
    account = Account(0, 9, [], faces, {})
    page = Page(page_of([account], {'least_exposure': 40.0, 'most_exposure': 80.0}))
    told = [word for word in page.words if re.match(r'(Dropped|Kept), |[\d.]+ levels$', word)]
    assert told == [
        'Dropped, nearest to 40',
        *('10.0 levels', '20.0 levels', '30.0 levels'),
        'Kept, nearest to 40',
        *('40.0 levels', '50.0 levels', '70.0 levels', '80.0 levels'),
        'Dropped, nearest to 80',
        *('90.0 levels', '100.0 levels'),
    ]
    # The more there are, the more ends are apart.
    more = [face(f'000000-0001{v:02}', 'exposure', exposure=v / 10) for v in range(10, 90)]
    page = Page(page_of([Account(0, 9, [], more, {})], {'least_exposure': 40.0}))
    told = [word for word in page.words if re.match(r'(Dropped|Kept), |[\d.]+ levels$', word)]
    assert told == [
        'Dropped, lowest',
        *('1.0 levels', '1.1 levels', '1.2 levels', '1.3 levels'),
        'Dropped, nearest to 40',
        *('8.6 levels', '8.7 levels', '8.8 levels', '8.9 levels'),
    ]


def test_percentiles_are_told_by_name():
    faces = [face(f'{i:04}', 'yaw' if i > 800 else '', yaw=i / 20) for i in range(1001)]
    page = Page(page_of([Account(0, 1, [], faces, {})], {'most_yaw': 40.0}, copies=False))
    names = 'found', 'kept', 'dropped by it'
    number = r'(\d+\.\d)'
    rows = ' '.join(f'{name} {number} {number} {number}' for name in names)
    told = [float(figure) for figure in re.search(rows, page.text).groups()]
    # A bin is a tenth of a degree.
    assert np.allclose(told, [2.5, 25, 47.5, 2, 20, 38, 40.5, 45, 49.5], rtol=0, atol=0.11)
    low, middle, high = told[:3]
    assert (
        f'yaw of 1,001 faces: half are below {middle} degrees, nine in ten between {low} degrees '
        f'and {high} degrees. 801 are kept, 200 dropped by yaw, 0 dropped by something else.'
    ) in page.text


def test_bars_are_as_tall_as_their_counts():
    rng = np.random.default_rng(2)
    counts = Counts(AXES['yaw'])
    values, kinds = rng.normal(0, 25, 3000), rng.integers(0, 3, 3000)
    counts.add(values, kinds)
    chart = charts.histogram('yaw', counts, -math.inf, math.inf, '')
    top = max(int(n.replace(',', '')) for n in re.findall(r'text-anchor=end>([\d,]+)<', chart))
    area = charts.HEIGHT - charts.TOP - charts.BOTTOM
    for kind, name in enumerate(charts.KINDS):
        path = re.search(rf'class={name} d="([^"]*)', chart)[1]
        tall = sum(float(v) for v in re.findall(r'v([\d.]+)', path))
        assert tall / area * top == pytest.approx((kinds == kind).sum(), rel=0.03)


def test_a_single_tall_bar_does_not_flatten_the_others():
    counts = Counts(AXES['clipped'])
    values = np.concatenate([np.zeros(5000), np.linspace(0.1, 0.6, 600)])
    counts.add(values, np.zeros(5600, int))
    chart = charts.histogram('clipped', counts, -math.inf, math.inf, '')
    assert '5,000 ↑' in chart
    path = re.search(r'class=kept d="([^"]*)', chart)[1]
    heights = [float(v) for v in re.findall(r'v([\d.]+)', path)]
    assert np.median(heights) > 0.4 * max(heights)
    assert max(heights) <= charts.HEIGHT - charts.TOP - charts.BOTTOM


@pytest.mark.parametrize('name', AXES)
@pytest.mark.parametrize('n', [1, 2, 400])
def test_everything_drawn_lies_within_the_drawing(name, n):
    axis = AXES[name]
    for low, high in (0.0, 1.0), (0.98, 1.0), (0.0, 0.002), (0.5, 0.5):
        positions = np.random.default_rng(n).uniform(low, high, n) * axis.bins
        # Many faces at one end, as faces that are not clipped at all are.
        for tall in (), np.zeros(20_000), np.full(20_000, axis.bins):
            drawn = np.concatenate([positions, tall])
            counts = Counts(axis)
            counts.add(np.array([axis.value(p) for p in drawn]), np.arange(len(drawn)) % 3)
            near, far = axis.value(0.1), axis.value(axis.bins - 0.1)
            for limits in (near, far), (far, math.inf), (-math.inf, near):
                check_inside(charts.histogram(name, counts, *limits, 'x'))


def check_inside(chart):
    for x, y in re.findall(r'M([\d.-]+) ([\d.-]+)', chart):
        assert 0 <= float(x) <= charts.WIDTH and 0 <= float(y) <= charts.HEIGHT
    for x, anchor, said in re.findall(r'<text x="([\d.-]+)"[^>]*anchor=(\w+)>([^<]*)<', chart):
        size = charts.LETTER * len(said)
        left = float(x) - size * {'start': 0, 'middle': 0.5, 'end': 1}[anchor]
        assert left > -3 and left + size < charts.WIDTH + 3, said


def test_for_those_who_do_not_see_it(content):
    page = Page(content)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r'h\d', tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.all('html')[0]['lang'] == 'en' and len(page.all('main')) == 1
    images = page.all('img')
    assert len(images) > 20 and all(re.search(r'face \d+-\d+, \w+ -?\d', i['alt']) for i in images)
    # Every chart has its name and its words, and every link its target.
    ids = [attributes['id'] for _, attributes in page.tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    for chart in page.all('svg'):
        assert chart['role'] == 'img' and set(chart['aria-labelledby'].split()) <= set(ids)
    assert {a['href'][1:] for a in page.all('a')} <= set(ids)
    counted = [f for f in page.words if f.startswith('side of 300 faces: half are below')]
    assert len(counted) == 1


def test_contrast_by_day_and_by_night():
    day, night = charts.STYLE.split('@media')
    for style, ground, other in (day, '#ffffff', '#222222'), (night, '#171717', '#dddddd'):
        colours = re.findall(r'--[a-z-]+:(#[0-9a-f]{6})', style)
        # WCAG 2.1: 3:1 for what is drawn, 4.5:1 for text.
        assert len(colours) == 3 and all(contrast(c, ground) >= 3 for c in colours)
        assert contrast(other, ground) >= 4.5
    links = re.findall(r'[^-]a\{color:(#\w+)', report.STYLE)
    assert all(contrast(*pair) >= 4.5 for pair in zip(links, ('#ffffff', '#171717'), strict=True))


def contrast(a, b):
    """Ratio of WCAG 2.1."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_is_fetched_or_run_whatever_names_hold(many):
    plain = Page(page_of([drawn_account(0)], title='x', settings={'a': 'b'}))
    account = drawn_account(0)
    for each in account.faces:
        each.source = HOSTILE
    account.bad = [(HOSTILE, HOSTILE)]
    settings = {HOSTILE: [HOSTILE, {'x': HOSTILE}]}
    content = page_of([account], title=HOSTILE, settings=settings)
    page = Page(content)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert not page.all('script') and '://' not in content
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith('on')]
    # Nothing turns the direction of the text, and it can be written.
    assert '\u202e' not in content and content.encode()
    assert page.text.count('\\u202e') > 10


def test_a_sheet_cannot_leave_its_attribute():
    account = Account(0, 1, [], [face('000000-000000', side=50.0)], {})
    evil = Sheet({'000000-000000': '"><script>x</script>'})
    page = Page(report.page('x', [account], lambda shard: evil, {}, {}))
    assert not page.all('script') and len(page.all('img')) == 1


def test_a_face_without_a_copy_is_still_told(many):
    page = Page(page_of(many, copies=False))
    assert not page.all('img') and page.text.count('no copy') > 20


@pytest.mark.parametrize('given', [[], [Account(0, 3, [], [], {})]])
def test_without_faces_there_is_a_page(given):
    page = Page(page_of(given))
    assert '0 faces found, 0 kept (-)' in page.text and 'No faces were found.' in page.text


def test_a_measure_that_is_none_is_named():
    account = Account(0, 1, [], [face('1', beauty=1.0)], {})
    with pytest.raises(DataError, match='the measure beauty, which is none of side, '):
        page_of([account])


def test_long_and_short_values_are_told_alike():
    assert [AXES['yaw'].told(v) for v in (-0.04, 12.34, -45)] == [
        '0.0 degrees',
        '12.3 degrees',
        '-45.0 degrees',
    ]
    assert AXES['side'].told(1234.56) == '1,234.6 pixels' and AXES['score'].told(1) == '1.000'


def test_accounts_may_come_from_their_files(many, tmp_path):
    read = [msgspec.json.decode(accounts.encoded(a), type=Account) for a in many]
    assert page_of(read, copies=False) == page_of(many, copies=False)
    assert json.loads(accounts.encoded(many[0]))['faces'][0]['measures']['occluded'] is None
