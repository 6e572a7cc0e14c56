"""Every command explains itself and all that it takes, and a misspelt word is corrected once."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from fedsim.cli import app

COMMANDS = typer.main.get_command(app).commands


def shown(*words: str) -> str:
    """What is printed, its boxes and line breaks taken out."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_argument_and_option_has_a_help_text_and_shows_it(command):
    said = shown(command, "--help")
    assert COMMANDS[command].help.splitlines()[0] in said
    for parameter in COMMANDS[command].params:
        assert parameter.help, f"{command} {parameter.name} has no help text"
        assert parameter.help in said, f"{command} --help does not show what {parameter.name} is"


def test_the_commands_are_listed_with_their_summaries():
    said = shown("--help")
    for name, command in COMMANDS.items():
        assert name in said
        assert " ".join(command.help.split())[:40] in said


@pytest.mark.parametrize(("words", "nearest"), [(["rnu"], "'run'"), (["run", "a", "--outt", "b"], "'--out'")])
def test_a_misspelt_word_is_corrected_once(words, nearest):
    assert shown(*words).count(f"Did you mean {nearest}?") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_behind_any_command_can_be_completed(command):
    """A shell asks for the context of what stands before the word: at first of nothing."""
    assert COMMANDS[command].make_context(command, [], resilient_parsing=True).params is not None


def test_run_without_a_scenario_says_what_is_missing():
    assert "Missing argument 'SCENARIO'" in shown("run")
