"""What ``mcil list methods`` says, as people and as programs read it."""

import json

from command import call, refusal
from mcil.methods import METHODS, create_method


def test_the_json_has_every_method_and_its_options() -> None:
    said = call("list methods --json")
    assert said.code == 0, said
    listed = {method["name"]: method for method in json.loads(said.out)}
    assert sorted(listed) == METHODS.names()
    for name, method in listed.items():
        assert method["source"]
        assert method["modalities"] == ["audio", "visual", "audio-visual"]
        assert method["memory"] is METHODS[name].uses_memory
        once = getattr(METHODS[name], "trains_once", False)
        kind = "closed form" if METHODS[name].closed_form else "gradient, then closed form" if once else "gradient"
        assert method["kind"] == kind
        assert create_method(name, method["options"]) == create_method(name)


def test_the_table_names_every_method() -> None:
    said = call("list methods")
    assert said.code == 0, said
    assert all(name in said.out for name in METHODS.names())
    assert call("list methods --json false").out == said.out
    assert call("list methods --json true").out == call("list methods --json").out


def test_a_misspelt_switch_is_one_line() -> None:
    assert "json" in refusal("list methods --jason")
