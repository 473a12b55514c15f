"""New elements begin as the known ones that are most like them."""

from __future__ import annotations

import pytest

from neupol_cli.training.relatives import relative

KNOWN = (1, 6, 7, 8, 9, 13)


@pytest.mark.parametrize(
    ("number", "like"),
    [
        (8, 8), (14, 6), (15, 7), (16, 8), (17, 9), (34, 8), (35, 9), (53, 9), (11, 1), (55, 1),
        (49, 13), (81, 13), (117, 9), (2, None), (5, None), (26, None), (46, None), (58, None),
        (94, None), (78, None),
    ],
)  # fmt: skip
def test_the_nearest_known_element_above(number: int, like: int | None) -> None:
    assert relative(number, KNOWN) == like


def test_transition_metals_look_to_their_own_column() -> None:
    assert [relative(number, (22, 26, 29)) for number in (47, 79, 72, 108)] == [29, 29, 22, 26]
