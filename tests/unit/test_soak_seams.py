"""The soak's labelled steps are functions that exist: it meets only some of them in a short run."""

from __future__ import annotations

import pytest

from heliosfs.storage.log.oscalls import OsCalls
from tests.crash.soak import seams


@pytest.mark.parametrize("label", sorted({label for label, _ in seams.steps()}))
def test_a_labelled_step_is_there(label: str) -> None:
    if label.startswith("call."):
        assert callable(getattr(OsCalls(), label.removeprefix("call.")))
    else:
        assert callable(getattr(*seams.place_of(label)))
