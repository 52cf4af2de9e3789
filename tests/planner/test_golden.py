"""The planner against its golden pairs (tests/planner/golden.py)."""

from __future__ import annotations

import pytest

from tests.planner.golden import Case, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.file}: {case.title}")
def test_plan(case: Case) -> None:
    assert case.planned() == case.expected
