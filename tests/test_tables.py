"""Settings against the signature of what they build: each mistake told with path and remedy."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from segue.errors import SegueError
from segue.parts import arguments, build, choose, parse, split_kind, suggestion


def part(
    *,
    lr: float,
    steps: int = 3,
    betas: tuple[float, float] = (0.9, 0.99),
    mode: Literal["batch", "running"] = "batch",
    size: int | tuple[int, int] | None = None,
    ids: dict[int, str] | None = None,
) -> dict[str, object]:
    return {"lr": lr, "steps": steps, "betas": betas, "mode": mode, "size": size, "ids": ids}


def other(given: int, *, lr: float = 1.0) -> dict[str, object]:
    return {"given": given, "lr": lr}


TABLE = {"part": part, "other": other}


def told(call):
    with pytest.raises(SegueError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": "2.5e-4"}, {"lr": 2.5e-4}),
        ({"lr": 0.1, "betas": [0, 1]}, {"lr": 0.1, "betas": (0.0, 1.0)}),
        ({"lr": 0.1, "size": 4}, {"lr": 0.1, "size": 4}),
        ({"lr": 0.1, "size": [4, 5]}, {"lr": 0.1, "size": (4, 5)}),
        ({"lr": 0.1, "size": None}, {"lr": 0.1, "size": None}),
        ({"lr": 0.1, "ids": {"0": "sky"}}, {"lr": 0.1, "ids": {0: "sky"}}),
    ],
)
def test_settings_get_the_types_of_the_signature(settings, typed):
    found = arguments(part, settings, where="x")
    assert found == typed
    assert [type(value) for value in found.values()] == [type(value) for value in typed.values()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "x.lr: is missing; add it"),
        ({"lr": 1, "stpes": 3}, "x.stpes: unknown key; did you mean 'steps'?"),
        ({"lr": 1, "zzz": 3}, "x.zzz: unknown key; There are: betas, ids, lr, mode, size, steps"),
        ({"llr": 1}, "x.llr: unknown key; did you mean 'lr'?"),
        ({"lr": "fast"}, "x.lr: 'fast' will not do; input should be a valid number"),
        ({"lr": 1, "steps": 1.5}, "x.steps: 1.5 will not do"),
        ({"lr": 1, "betas": [0.9]}, "x.betas.1: is missing"),
        ({"lr": 1, "betas": [0.9, "a"]}, "x.betas.1: 'a' will not do"),
        ({"lr": 1, "mode": "bacth"}, "x.mode: 'bacth' will not do; input should be 'batch' or"),
        ({"lr": 1, "size": "big"}, "x.size: 'big' will not do"),
    ],
)
def test_what_will_not_do_is_told_with_its_path(settings, message):
    assert told(lambda: arguments(part, settings, where="x")).startswith(message)


def test_a_long_value_is_cut_short():
    assert len(told(lambda: arguments(part, {"lr": "x" * 500}, where="x"))) < 200


def test_a_part_is_built_from_its_kind_and_arguments():
    assert build(TABLE, {"kind": "part", "lr": "1e-3"}, where="x", what="part")["lr"] == 1e-3
    assert build(TABLE, "other", where="x", what="part", given=3) == {"given": 3, "lr": 1.0}


def test_what_the_caller_gives_is_no_setting():
    settings = {"kind": "other", "given": 4}
    message = told(lambda: build(TABLE, settings, where="x", what="part", given=3))
    assert message == "x.given: unknown key; There are: lr"
    unwanted = build(TABLE, {"kind": "part", "lr": 1}, where="x", what="part", given=3)
    assert "given" not in unwanted, "a part that does not ask for it does not get it"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("prat", "x: unknown part 'prat'; did you mean 'part'? There are: other, part"),
        ({"kind": "zzz"}, "x: unknown part 'zzz'; There are: other, part"),
        ({"lr": 1}, "x: `kind` is missing; add `kind: NAME`"),
        ({"kind": 3}, "x: `kind` is missing; add `kind: NAME`"),
        ([1], "x: needs a mapping with `kind`; got [1]"),
        (None, "x: needs a mapping with `kind`; got None"),
    ],
)
def test_an_unknown_kind_is_told(settings, message):
    assert told(lambda: build(TABLE, settings, where="x", what="part")) == message


def test_names_need_not_be_text_to_be_told():
    assert "There are: 1, 2" in told(lambda: choose({1: 0, 2: 0}, 3, where="x", what="thing"))
    assert suggestion("a", []) == "remove it"
    assert split_kind({"kind": "a", "b": 1}, where="x") == ("a", {"b": 1})


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    terms: dict[str, Inner] = {}
    sizes: list[tuple[int, int]] = []
    either: int | list[int] = 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": {"a": {"wieght": 1}}}, "terms.a.wieght: unknown key; did you mean 'weight'?"),
        ({"terms": {"a": {"weight": "x"}}}, "terms.a.weight: 'x' will not do"),
        ({"sizes": [[1, 2], [3]]}, "sizes.1.1: is missing"),
        ({"sizes": [[1, 2], 3]}, "sizes.1: 3 will not do"),
        ({"either": [1, "x"]}, "either"),
        ({"trems": {}}, "trems: unknown key; did you mean 'terms'?"),
        ([], ""),
    ],
)
def test_nested_mistakes_are_told_with_the_users_own_keys(settings, message):
    assert told(lambda: parse(Outer, settings, where="")).startswith(message)
    assert told(lambda: parse(Outer, settings, where="at")).startswith(f"at.{message}".rstrip("."))
