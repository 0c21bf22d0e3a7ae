"""Arguments of commands are understood, or refused, before a command runs."""

import re

import fire
import pytest

import common.__main__ as program
from common.__main__ import COMMANDS, USER_COMMANDS
from common.command.arguments import show_plainly, spell_out
from common.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("segment x -o y -b z --model_dir=m", "segment x --output_dir y --bundle z --model_dir=m"),
        ("train x -o=y -m 5", "train x --output_dir=y --minutes 5"),
        ("plan x -o p -m -5", "plan x --output p --minutes -5"),
        ("export -o f --use_trace True", "export --output_file f --use_trace True"),
        ("zips -o z", "zips --into z"),
        ("install a -o z -f y --noreplace", "install a --into z --folder y --noreplace"),
        ("evaluate d -o y --ood_dir e", "evaluate d --output_dir y --ood_dir e"),
        ("judge n x -o y --list-paths", "judge n x --output_dir y --list-paths"),
        ("fit-bank n x -o b.npz", "fit-bank n x --bank_file b.npz"),
        ("segment --help", "segment -- --help"),
        ("export -h -o y", "export -- --help"),
        ("zips -- --trace", "zips -- --trace"),
        ("segment --scans x -o y", "segment --scans x --output_dir y"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_letters_stand_for_options(given, spelled):
    assert spell_out(given.split(), COMMANDS) == spelled.split()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("zips -x z", "unknown option -x of zips, which takes --bundles, --into"),
        (
            "zips --bundle=z",
            "unknown option --bundle of zips, .* (--bundle is an option of evaluate, export, judge, plan, segment, "
            "train)",
        ),
        ("install a --into x --key y", "unknown option --key of install, "),
        ("segmnt x", "there is no command segmnt, but evaluate, .*; did you mean segment?"),
        ("segment -o y", "segment needs SCANS; segment --help explains them"),
        ("fit-bank -o b.npz", "fit-bank needs NETWORK and DATASET_DIR; "),
        ("segment a b --seed 1 -o y", "segment does not take 'b' as well; several scans or folders are one list: "),
    ],
)
def test_what_a_command_does_not_take_is_refused_before_a_command_runs(given, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message).replace(re.escape(".*"), ".*")):
        spell_out(given.split(), COMMANDS)


def test_help_tells_of_further_options_apart_from_the_flags():
    def command(first: str = "", **settings: str) -> None:
        """Does ``something``, as :func:`plain` :class:`~.a.b.words` do.

        Args:
            first: Something. Default empty.
            **settings: Further options of
                the bundle.

        Raises:
            ConfigError: Never.
        """

    show_plainly(command)
    assert command.__doc__.startswith("Does something, as plain words do.")
    described, _, rest = command.__doc__.partition("Args:")
    assert described.split("\n\n")[1:] == ["Further options of the bundle.", ""]
    assert (rest.count("settings"), "Raises:" in rest) == (0, True)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_shows_its_help_in_plain_words(monkeypatch, capsys, command, flag):
    monkeypatch.setattr("sys.argv", ["trustseg", *command, flag])
    monkeypatch.setattr("sys.excepthook", None)
    with pytest.raises(SystemExit) as ended:
        program.main()
    shown = capsys.readouterr().err
    assert ended.value.code == 0
    assert re.findall(r"``|:\w+:`", shown) == []
    for name in command or COMMANDS:
        assert f"{name}" in shown
        assert not command or "SYNOPSIS" in shown


def test_page_of_commands_has_a_row_for_each(repository):
    page = (repository / "common" / "command" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `trustseg")]
    named = {word for row in rows for word in re.findall(r"`(?:trustseg )?([a-z-]+)[ `]", row)}
    assert named == set(USER_COMMANDS)
    assert all(f"`{name}`" in page for name in COMMANDS.keys() - USER_COMMANDS.keys())


def test_program_spells_out_what_fire_gets(monkeypatch):
    got = []
    monkeypatch.setattr("sys.argv", ["trustseg", "zips", "-o", "z"])
    monkeypatch.setattr(fire, "Fire", lambda _, command: got.append(command))
    monkeypatch.setattr("sys.excepthook", None)
    program.trustseg()
    assert got == [["zips", "--into", "z"]]
