"""The words that travel to control."""

from __future__ import annotations

from heliosfs.cli.words import command_words


def test_arguments_that_were_not_given_are_left_out() -> None:
    assert command_words(["checkpoint"], [None]) == ["checkpoint"]
    assert command_words(["restore"], ["v1", None]) == ["restore", "v1"]
    assert command_words(["branch"], ["a"], ["--from", "v1"]) == ["branch", "a", "--from", "v1"]


def test_a_name_that_looks_like_an_option_stays_a_name() -> None:
    assert command_words(["branch"], ["-x"], ["--from", "v1"]) == ["branch", "--from", "v1", "--", "-x"]
