"""Arguments of commands are understood, or refused, before a command runs, and its help says which there are."""

import inspect
import re
import subprocess
import sys

import fire
import pytest

import common.__main__ as program
from common.__main__ import COMMANDS, USER_COMMANDS
from common.archive import build_archives
from common.command.arguments import spell_out
from common.command.help import command_page, examples, usage
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
        ("judge x -b med_ood -d cpu -s 2", "judge x --bundle med_ood --device cpu --sw_batch_size 2"),
        ("segment x -o y -m m", "segment x --output_dir y --model_dir m"),
        ("plan x -b med_ood", "plan x --bundle med_ood"),
        ("zips -b x", "zips --bundles x"),
        ("fit-bank n x -o b.npz", "fit-bank n x --bank_file b.npz"),
        ("zips -- --trace", "zips -- --trace"),
        ("segment --scans x -o y", "segment --scans x --output_dir y"),
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
        (
            "segment -o y",
            "segment needs SCANS, as in 'trustseg segment scan.nii.gz -o results'; trustseg segment --help explains it",
        ),
        ("segment x", "segment needs -o OUTPUT_DIR, as in 'trustseg segment "),
        ("plan -b X", "plan needs DATASET, as in 'trustseg plan data/A'; "),
        ("judge -b X", "judge needs [NETWORK] SCANS, as in 'trustseg judge scans -o verdicts'; "),
        ("fit-bank -o b.npz", "fit-bank needs NETWORK and DATASET_DIR, as in "),
        ("segment x --output y", "unknown option --output of segment; did you mean --output_dir?"),
        ("zips --bundels x", "unknown option --bundels of zips, .*; did you mean --bundles?"),
        (
            "fit-bank n d -s 1",
            "-s of fit-bank may stand for --split_file or --sw_batch_size or --signature_form or --sigmoid; ",
        ),
        ("fit-bank n d -b x", "unknown option -b of fit-bank, which takes "),
        ("segment x -o y -n 3", "unknown option -n of segment, which takes --scans, "),
        ("segment a b --seed 1 -o y", "segment does not take 'b' as well; several scans or folders are one list: "),
    ],
)
def test_what_a_command_does_not_take_is_refused_before_a_command_runs(given, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message).replace(re.escape(".*"), ".*")):
        spell_out(given.split(), COMMANDS)


def test_page_of_commands_has_a_row_for_each(repository):
    page = (repository / "common" / "command" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `trustseg")]
    named = {word for row in rows for word in re.findall(r"`(?:trustseg )?([a-z-]+)[ `]", row)}
    assert named == set(USER_COMMANDS)
    assert all(f"`{name}`" in page for name in COMMANDS.keys() - USER_COMMANDS.keys())


@pytest.fixture
def typed(monkeypatch):
    """Runs the program with a command line: ``typed("judge --help")``."""

    def start(line):
        monkeypatch.setattr("sys.argv", ["trustseg", *line.split()])
        monkeypatch.setattr("sys.excepthook", None)
        program.trustseg()

    return start


def test_program_spells_out_what_fire_gets(typed, monkeypatch):
    got = []
    monkeypatch.setattr(fire, "Fire", lambda function, command, name: got.append((function, command, name)))
    typed("zips -o z")
    assert got == [(build_archives, ["--into", "z"], "trustseg zips")]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_read_of_the_source_is_what_the_function_takes(name):
    signature = inspect.signature(COMMANDS[name].load())
    assert [(option.name, option.kind, option.default is option.empty) for option in signature.parameters.values()] == [
        (option.name, option.kind, option.default is option.empty) for option in COMMANDS[name].options.values()
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_argument_once_and_each_letter_as_it_is_understood(name):
    command, page = COMMANDS[name], command_page(name, COMMANDS[name])
    assert re.findall(r"``|:\w+:`|\*\*", page) == []
    shown = re.findall(r"^  (?:-(\w), )?--(\w+)", page, re.MULTILINE)
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [option.name for option in command.options.values() if option.kind not in various]
    assert [option for _, option in shown] == [option for option in named if option not in command.by_place]
    letters = [letter for letter, _ in shown if letter]
    assert len(letters) == len(set(letters))
    assert all(command.letter_options(letter) == [option] for letter, option in shown if letter)
    # Examples are command lines that the program takes.
    for line in examples(command):
        spell_out(line.split()[1:], COMMANDS)
    assert examples(command) or name not in USER_COMMANDS


def test_help_says_what_is_needed_and_what_may_be_left_out(typed, capsys):
    typed("judge scans --help")
    page = capsys.readouterr().out
    assert page.startswith("usage: trustseg judge [NETWORK] SCANS [-o OUTPUT_DIR] [options]\n\nJudges scans ")
    assert "\n  trustseg judge scans -o verdicts\n" in page
    assert usage("segment", COMMANDS["segment"]) == "trustseg segment SCANS -o OUTPUT_DIR [options]"
    assert usage("gate", COMMANDS["gate"]).startswith("trustseg gate [NAMES ...] [-o OUTPUT_DIR] [options]")
    assert "further options are all keys of the bundle's inference.json" in " ".join(
        command_page("segment", COMMANDS["segment"]).lower().split()
    )


@pytest.mark.parametrize("line", ["", "--help", "-h"])
def test_help_of_the_whole_has_a_line_for_each_command(typed, capsys, line):
    typed(line)
    shown = re.findall(r"^  ([a-z-]+) +[A-Z]", capsys.readouterr().out, re.MULTILINE)
    assert shown == list(USER_COMMANDS)


def test_help_and_mistyped_lines_import_nothing_that_takes_seconds(repository):
    """What is imported is seen in a process of its own; torch alone takes two seconds."""
    code = (
        "import sys; sys.argv = ['trustseg', 'judge', '-h']; from common.__main__ import trustseg; trustseg(); "
        "sys.excepthook(ValueError, ValueError('x'), None); "
        "print(*(set(sys.modules) & {'torch', 'monai', 'numpy', 'ignite'}), sep='')"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("usage: trustseg judge ")
    assert ran.stdout.splitlines()[-1] == ""
