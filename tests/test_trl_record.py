"""TRL's losses and gradients as they were recorded: ours are the same, whether TRL is installed or not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from helpers.trl_record import CASES, RECORD, ours


@pytest.fixture(scope="module")
def record() -> Mapping[str, np.ndarray]:
    return dict(np.load(RECORD))


def compare(case: str, record: Mapping[str, np.ndarray]) -> None:
    loss, gradient = ours(case, record)
    expected = record[f"{case}: gradient"]
    assert np.abs(expected).max() > 1e-3
    assert loss == pytest.approx(float(record[f"{case}: loss"]), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_that_trl_had(case: str, record: Mapping[str, np.ndarray]) -> None:
    compare(case, record)


def test_the_record_names_its_trl_and_tells_the_cases_apart(record: Mapping[str, np.ndarray]) -> None:
    assert str(record["trl"]) == "1.16.0"
    losses = [float(record[f"{case}: loss"]) for case in CASES]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-4
