"""Reading a grid."""

import pytest

from adaloss_lightning.tracking import SweepError
from adaloss_lightning.tracking.grid import Grid, Point


def test_every_method_at_every_b0_with_every_seed() -> None:
    grid = Grid.parse("adaloss, adam", "0.1,1e1", "1,2")
    assert grid.points() == [
        Point(method, b0, seed) for seed in ("1", "2") for method in ("adaloss", "adam") for b0 in ("0.1", "1e1")
    ]


@pytest.mark.parametrize(
    ("methods", "b0s", "seeds", "named"),
    [
        ("a,,b", "1", "1", "--methods='a,,b'"),
        ("", "1", "1", "--methods=''"),
        ("a,a", "1", "1", "a is there twice"),
        ("a", "one", "1", "--b0=one"),
        ("a", "0.1,-1", "1", "--b0=-1"),
        ("a", "0", "1", "--b0=0"),
        ("a", "nan", "1", "--b0=nan"),
        ("a", "inf", "1", "--b0=inf"),
        ("a", "0.1,1e-1", "1", "1e-1 is there twice"),
        ("a", "1", "1.5", "--seeds=1.5"),
        ("a", "1", "-1", "--seeds=-1"),
        ("a", "1", "4294967296", "--seeds=4294967296"),
        ("a", "1", "1,01", "01 is there twice"),
    ],
)
def test_a_typo_is_named(methods: str, b0s: str, seeds: str, named: str) -> None:
    with pytest.raises(SweepError) as caught:
        Grid.parse(methods, b0s, seeds)
    assert named in str(caught.value)
