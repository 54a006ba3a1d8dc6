"""What `python tests/house.py` prints keeps to its limits, and a guest needs one file and one
import.
"""

import shutil
import subprocess
import sys

import house
import pytest
from house import LIMITS, ORDER, ROOT


@pytest.fixture(scope='module')
def whole():
    return house.summary(ORDER)


@pytest.mark.parametrize('name', ['width', 'median', 'p90', 'longest', 'reads', 'upward'])
def test_at_most(whole, name):
    assert whole[name] <= LIMITS[name]


@pytest.mark.parametrize('name', ['comments', 'annotated'])
def test_at_least(whole, name):
    assert whole[name] >= LIMITS[name]


@pytest.mark.parametrize('room', ORDER)
def test_no_room_is_the_whole_house(whole, room):
    assert 100 * house.measure((room,)).lines / whole['lines'] <= LIMITS['share']


# ---- one file and one import make a guest at home ----

NETWORK = '''"""A network of one layer."""

from torch import Tensor, nn

from .entry import Entry


class Guest0(nn.Module):
    """One convolution and a pixel shuffle (Nobody et al., 2026)."""

    scale = 4

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.guest0 = nn.Conv2d(3, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4 h, 4 w]"""
        return nn.functional.pixel_shuffle(self.guest0(x), 4)


ENTRY = Entry('guest0', Guest0, 'restorer', mark='guest0.weight', rebuild=lambda weights: Guest0())
'''
LOSS = '''"""The largest error."""

from torch import Tensor


def guest0(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the largest error of each image."""
    return (output - target).abs().flatten(1).amax(1).mean()
'''


@pytest.fixture
def guest(tmp_path):
    """A copy of the code that may be changed."""
    rooms = [room for room in ORDER if (ROOT / room).is_dir()]
    for room in rooms:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('errors.py', 'train.py', 'infer.py'):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def insert_import(path, line):
    """Put an import behind the last one of a file."""
    lines = path.read_text().splitlines()
    last = max(i for i, text in enumerate(lines) if text.startswith('from .'))
    # An import may go on over several lines, up to its closing bracket.
    while not (lines[last].endswith(')') or '(' not in lines[last]):
        last += 1
    lines.insert(last + 1, line)
    path.write_text('\n'.join(lines) + '\n')


def run(guest, code):
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=guest, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_network_is_a_file_and_an_import(guest):
    (guest / 'models/guest0.py').write_text(NETWORK)
    insert_import(guest / 'models/__init__.py', 'from .guest0 import ENTRY as _GUEST0, Guest0')
    said = run(
        guest,
        'import sys, torch, models, tasks\n'
        'argv = ["--network", "guest0", "--net", \'{"width": 48}\', "--device", "cpu"]\n'
        'config = tasks.configure([*argv, "--out", "x"])\n'
        'net = tasks.network(config)\n'
        'assert net(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)\n'
        'weights = net.state_dict()\n'
        'assert type(models.like(weights)).__name__ == "Guest0" == models.recognise(weights)\n'
        'print(models.count(net))\n',
    )
    assert said.split()[-1] == str(48 * 27 + 48)


def test_a_loss_is_a_file_and_an_import(guest):
    (guest / 'losses/guest0.py').write_text(LOSS)
    insert_import(guest / 'losses/__init__.py', 'from .guest0 import guest0')
    run(
        guest,
        'import tasks\n'
        'config = tasks.configure(["--loss", "guest0", "--device", "cpu", "--out", "x"])\n'
        'assert config.loss.loss == "guest0"\n',
    )


def test_an_operation_is_a_file(guest):
    shutil.copy(guest / 'degrade/quantize.py', guest / 'degrade/guest0.py')
    run(
        guest,
        'import numpy, torch, degrade\n'
        'from degrade import guest0\n'
        'mine = degrade.Recipe("mine", (degrade.Stage("guest0", guest0, 0.5),), scale=1)\n'
        'params = degrade.sample(mine, degrade.Draw(0, numpy.arange(8)), (16, 16))\n'
        'x = torch.rand(8, 3, 16, 16)\n'
        'y = degrade.degrade(x, mine, params)\n'
        'assert y.shape == x.shape and 0 < int(params[0].on.sum()) < 8\n',
    )
