"""Reading a grid."""

import pytest

from adaloss_lightning.tracking import SweepError
from adaloss_lightning.tracking.grid import Grid, Point


def test_every_method_at_every_b0_with_every_seed() -> None:
    grid = Grid.parse("adaloss, adam", "0.1,1e1", "1,2")
    assert grid.points() == [
        Point(method, b0, seed) for seed in ("1", "2") for method in ("adaloss", "adam") for b0 in ("0.1", "1e1")
    ]


def test_every_combination_of_further_options() -> None:
    grid = Grid.parse("a", "1,2", "7", ["optimizer.lr=0.1,1e-2", "model.layers=[8,8],{x: 1,y: [2,3]}"])
    combinations = [
        (("optimizer.lr", lr), ("model.layers", layers))
        for lr in ("0.1", "1e-2")
        for layers in ("[8,8]", "{x: 1,y: [2,3]}")
    ]
    assert grid.points() == [Point("a", b0, "7", options) for options in combinations for b0 in ("1", "2")]
    point = grid.points()[0]
    assert str(point) == "a b0=1 seed=7 optimizer.lr=0.1 model.layers=[8,8]"
    assert point.params() == {
        "method": "a",
        "b0": "1.0",
        "seed": "7",
        "grid.optimizer.lr": "0.1",
        "grid.model.layers": "[8,8]",
    }
    assert grid.params() == {
        "sweep.methods": "a",
        "sweep.b0": "1,2",
        "sweep.seeds": "7",
        "sweep.grid.optimizer.lr": "0.1,1e-2",
        "sweep.grid.model.layers": "[8,8],{x: 1,y: [2,3]}",
    }


@pytest.mark.parametrize(
    ("written", "values", "param"),
    [
        ('"a,b",c', ("a,b", "c"), '"a,b",c'),
        ("'a,b', c", ("a,b", "c"), '"a,b",c'),
        ('"",x', ("", "x"), '"",x'),
        ('["a,b","c]"],[d]', ('["a,b","c]"]', "[d]"), '["a,b","c]"],[d]'),
        ('{x: "a,b"},{}', ('{x: "a,b"}', "{}"), '{x: "a,b"},{}'),
        ("it's,b\"", ("it's", 'b"'), "it's,b\""),
        ("'it\"s, ok',x", ('it"s, ok', "x"), "'it\"s, ok',x"),
        ('" a", b', (" a", "b"), '" a",b'),
        ("'\"q\"',x", ('"q"', "x"), "'\"q\"',x"),
        ("'[1,2] or 3, 4',x", ("[1,2] or 3, 4", "x"), '"[1,2] or 3, 4",x'),
        ("x,'a]','[a'", ("x", "a]", "[a"), 'x,"a]","[a"'),
    ],
)
def test_a_comma_in_quotes_belongs_to_its_value(written: str, values: tuple[str, ...], param: str) -> None:
    grid = Grid.parse("a", "1", "1", [f"data.name={written}"])
    assert grid.options == (("data.name", values),)
    assert grid.params()["sweep.grid.data.name"] == param
    assert Grid.parse("a", "1", "1", [f"data.name={param}"]) == grid


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["a.b=x]'\""], "Must not have both"),
        (['a.b="x,y'], 'Must have a second "'),
        (["lr"], "option=value,value"),
        (["=1"], "option=value,value"),
        (["optimizer/lr=1"], "option=value,value"),
        (["optimizer.lr="], "--grid optimizer.lr=''"),
        (["optimizer.lr=0.1,"], "--grid optimizer.lr='0.1,'"),
        (["optimizer.lr=0.1,1e-1"], "1e-1 is there twice"),
        (["a.b=1", "a.b=2"], "a.b is there twice"),
        (["optimizer.b0=1"], "--b0 instead"),
        (["seed_everything=1"], "--seeds instead"),
        (["config=a.yaml"], "--methods instead"),
        (["trainer.logger=false"], "one logger"),
    ],
)
def test_an_option_that_cannot_be_swept_is_named(options: list[str], named: str) -> None:
    with pytest.raises(SweepError) as caught:
        Grid.parse("a", "1", "1", options)
    assert named in str(caught.value)


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
