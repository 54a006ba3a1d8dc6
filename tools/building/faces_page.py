"""The report of a set of faces, of what its shards say of themselves."""

from typing import Any

from . import accounts, report, thresholds
from .run import Plan, each_account


def page(plan: Plan) -> str:
    """HTML of a set whose shards are all there."""
    kind: Any = plan.job  # Faces, whose report this is
    # Thresholds stand beside their measures, the other settings at the end.
    known = thresholds.named(kind.limits)
    rest = {key: value for key, value in plan.settings.items() if key not in known}
    return report.page(
        'Faces found, kept and dropped',
        each_account(plan),
        lambda shard: accounts.read_sheet(plan.place, plan.job.kind, shard),
        known,
        rest,
    )
