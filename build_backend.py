"""setuptools, but for wheels: the modules stand at the top level, as `python train.py` wants them,
so a wheel would put names such as `models` and `train` into everybody's site-packages. Only an
editable install is offered.
"""

from typing import Any

from setuptools.build_meta import *  # noqa: F403  the hooks of PEP 517 and PEP 660

REFUSED = (
    'faces is used from its checkout: pip install -e . '
    '(a plain "pip install ." would leave out its tools and benchmarks)'
)


def build_wheel(*_: Any, **__: Any) -> str:
    """Refused."""
    raise SystemExit(REFUSED)
