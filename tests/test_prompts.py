"""Prompts about classes: the published ones word for word, readable names, and no domain but those there are."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcil.encoders.prompts import TEMPLATES, prompts_for, readable
from mcil.errors import McilError

EVALUATED = {
    "released-imagenet-esc": "a bad photo of a {}.",
    "released-classroom": "a photo of a person who is {} in a classroom.",
}
# SHA-256 of the 35 published templates, one a line.
PUBLISHED = "ae4638fc4bb8255f98d23aa5046d6e49e3859f4afd3923060d566acd4edff463"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blackboard_wiping", "blackboard wiping"),
        ("WashingMachine", "Washing Machine"),
        ("washingMachine", "washing Machine"),
        ("TVSet", "TV Set"),
        ("sea  waves ", "sea waves"),
        ("big-horn sheep", "big-horn sheep"),
        ("Otterhound", "Otterhound"),
        ("DOG", "DOG"),
        ("n01514668", "n01514668"),
        ("__", "__"),
    ],
)
def test_names_are_made_readable(name: str, words: str) -> None:
    assert readable(name) == words


@given(st.text())
def test_readable_names_keep_their_letters_and_stay_as_they_are(name: str) -> None:
    words = readable(name)
    assert readable(words) == words
    assert "".join(words.replace("_", " ").split()) == "".join(name.replace("_", " ").split())


def test_the_published_templates_are_word_for_word() -> None:
    templates = TEMPLATES["classroom"]
    assert hashlib.sha256("\n".join(templates).encode()).hexdigest() == PUBLISHED
    assert len(templates) == 35
    assert templates[0] == "a photo of a person in a classroom who is {}."
    assert templates[34] == "a pixelated photo of a classroom where a person is {}."
    assert [row for row in range(35) if templates[row] in templates[:row]] == [25]
    assert templates[25] == templates[3]


@pytest.mark.parametrize("domain", EVALUATED)
def test_what_was_released_ends_with_its_evaluation_prompt_and_takes_names_as_they_are(domain: str) -> None:
    (prompts,) = prompts_for(["blackboard_wiping"], domain)
    templates = (*TEMPLATES["classroom"], EVALUATED[domain])
    assert prompts == [template.replace("{}", "blackboard_wiping") for template in templates]


@pytest.mark.parametrize("domain", ["plain", "general", "sounds", "classroom"])
def test_the_other_sets_say_readable_names(domain: str) -> None:
    one, two = prompts_for(["sea_waves", "{braces}"], domain)
    assert len(one) == len(two) == len(TEMPLATES[domain])
    assert all("sea waves" in prompt for prompt in one)
    assert all("{braces}" in prompt for prompt in two)
    assert one[0] == "sea waves" or domain == "classroom"


@pytest.mark.parametrize("domain", ["general", "sounds"])
def test_the_sets_of_ours_are_varied(domain: str) -> None:
    assert 12 <= len(set(TEMPLATES[domain])) == len(TEMPLATES[domain]) <= 16


def test_no_class_has_no_prompts() -> None:
    assert prompts_for([], "general") == []


def test_an_unknown_domain_is_answered_with_the_nearest() -> None:
    with pytest.raises(McilError, match=r"no prompts 'clasroom'\. Did you mean 'classroom'\?.*released-classroom"):
        prompts_for(["dog"], "clasroom")
