"""Every command against every bad thing that a shell hands over: one line, status 2, no traceback, nothing written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any

import pytest
from commands import Command, commands, kinds

from torchloupe import cli
from torchloupe.cli import main
from torchloupe.cli.edge import RANGES, READ, WRITTEN
from torchloupe.errors import LoupeWarning, one_line
from torchloupe.named import own

ALL = commands()
APP = cache(cli.build)
LONG = "n" * 300


def options(*wanted: str) -> list[tuple[Command, str, Any]]:
    found = [(command, name, argument) for command in ALL for name, argument in command.options.items()]
    return [one for one in found if not wanted or one[1] in wanted]


def each(some: list[tuple[Command, str, Any]]) -> list[Any]:
    """An option of the same name and kind in another command is slow."""
    seen: set[tuple[str, str]] = set()
    cases = []
    for command, name, argument in some:
        marks = [pytest.mark.slow] if (name, str(argument.hint)) in seen else []
        seen.add((name, str(argument.hint)))
        cases.append(pytest.param((command, name, argument), id=f"{command} {name}", marks=marks))
    return cases


NUMBERS = [one for one in options() if kinds(one[2].hint) & {int, float}]
WORDS = [one for one in options() if kinds(one[2].hint) & {Path, str} and one not in NUMBERS]


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application is built once for all tests."""
    monkeypatch.setattr(cli, "build", APP)


def option_of(argument: Any) -> str | None:
    return next((name for name in argument.names if name.startswith("--")), None)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says before it has done anything."""
    status = main(list(words))
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("loupe: error: ")
    assert status == 2, said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    return said.err


def with_value(command: Command, argument: Any, *values: str) -> list[str]:
    """The command with a value for one option; what else it needs is a file that is there."""
    found = list(command.path)
    for name, one in (*command.options.items(), ("", argument)):
        if name and (not one.required or one is argument):
            continue
        option, words = option_of(one), ["out" if name in WRITTEN else "there"] if name else list(values)
        found += [option, *words] if option else words
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder but for an empty file; nothing is made in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"there", "loop", "dangling"}
    assert (tmp_path / "there").stat().st_size == 0


def test_there_are_all_commands() -> None:
    named = {*cli.COMMANDS, *(f"{group} {name}".strip() for group, (_, some) in cli.GROUPS.items() for name in some)}
    assert {str(command) for command in ALL} == named
    assert len(ALL) >= 28


def test_the_lines_of_help_are_those_of_the_commands() -> None:
    homes = [*cli.COMMANDS.values(), (cli.GROUPS["demo"][1][""], cli.GROUPS["demo"][0])]
    for path, line in homes:
        assert " ".join((own(path).__doc__ or "").split("\n\n")[0].split()) == line


def test_help_imports_no_command() -> None:
    asked = "import sys; from torchloupe.cli import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in (*cli.COMMANDS, *cli.GROUPS))


def refuses_numbers(one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str], bad: list[str]) -> None:
    command, name, argument = one
    count = 2 if re.search(r"tuple\[(int|float), (int|float)\]", str(argument.hint)) else 1
    for value in bad:
        said = refused(capsys, *with_value(command, argument, *[value] * count))
        assert any(
            word in said for word in (*argument.names, name, name.replace("_", " "), name.replace("fig_", "figure "))
        ), said


@pytest.mark.parametrize("one", each(NUMBERS))
@pytest.mark.usefixtures("here")
def test_every_number_has_a_range_and_keeps_to_it(
    one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert one[1] in RANGES, f"torchloupe.cli.edge.RANGES says nothing of {one[1]}"
    limits, whole = RANGES[one[1]], float not in kinds(one[2].hint)
    bad = ["nan", repr(limits.low) if limits.above else str(int(limits.low) - 1), str(int(limits.high) + 1)]
    refuses_numbers(one, capsys, [*bad, "1.5"] if whole else bad)


@pytest.mark.slow
@pytest.mark.parametrize("one", each(NUMBERS))
@pytest.mark.usefixtures("here")
def test_words_that_are_no_numbers(one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    comma = [] if one[1] == "fig_size" else ["1,5"]  # two sides in the spelling of older tools
    refuses_numbers(one, capsys, ["inf", "-inf", "1e999", "seven", "9" * 40, "-" + "9" * 40, *comma, "\u0661.x"])


@pytest.mark.parametrize("one", each(WORDS))
@pytest.mark.usefixtures("here")
def test_an_empty_word_is_refused_everywhere(one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    command, name, argument = one
    if name != "title":
        assert "empty word" in refused(capsys, *with_value(command, argument, ""))
    assert "NUL" in refused(capsys, *with_value(command, argument, "a\0b"))


@pytest.mark.parametrize("one", each(options(*READ)))
@pytest.mark.usefixtures("here")
def test_what_is_read_is_looked_for_before_anything_is_done(
    one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command, name, argument = one
    if name in READ and Path in kinds(argument.hint):
        for value in ("nowhere", LONG, "caf\udce9", "loop", "dangling", "there/below"):
            assert one_line(value) in refused(capsys, *with_value(command, argument, value))


@pytest.mark.parametrize("one", each(options(*WRITTEN)))
@pytest.mark.usefixtures("here")
def test_where_results_go_is_looked_at_before_anything_is_done(
    one: tuple[Command, str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, argument = one
    for value in ("there/below", "there/a.png", f"{LONG}.png"):
        assert value in refused(capsys, *with_value(command, argument, value))


@pytest.mark.parametrize("command", ALL, ids=str)
@pytest.mark.usefixtures("here")
def test_what_no_command_knows(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-such-option" in refused(capsys, *command.path, *command.needed, "--no-such-option")
    for argument in command.options.values():
        if "Literal" in str(argument.hint):
            assert "neither" in refused(capsys, *with_value(command, argument, "[red]neither[/red]"))
    if command.needed:
        assert "requires" in refused(capsys, *command.path)
        refused(capsys, *command.path, *command.needed)


def special(text: str) -> Counter[str]:
    """Words with letters that mark something up in one language or another."""
    return Counter(word for word in text.split() if re.search(r"[*<>/\[\]{}`_|\\#&~^$-]", word))


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_page_of_help_says_every_word_of_the_docstring(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    assert main([*command.path, "--help"]) == 0
    said = capsys.readouterr().out
    texts = [getdoc(command.function) or ""]
    for argument in commands_groups(command):
        texts.append(getdoc(argument) or "")
    wanted = special("\n".join(texts))
    for drop in ("----------", "Parameters", *command.options):
        wanted.pop(drop, None)
    wanted = Counter({word: 1 for word in wanted if not re.fullmatch(r"[\w*]+:", word)})
    missing = wanted - Counter(dict.fromkeys(said.split(), 1))
    assert not missing


def commands_groups(command: Command) -> list[type]:
    """The dataclasses of options that a command takes."""
    import inspect
    from dataclasses import is_dataclass

    return [
        type(one.default)
        for one in inspect.signature(command.function).parameters.values()
        if is_dataclass(one.default)
    ]


def test_warnings_are_shown_as_before_once_a_command_is_over() -> None:
    before = warnings.showwarning
    main(["cam", "nowhere.png", "--model", "nowhere"])
    assert warnings.showwarning is before
    main(["layers", "--help"])
    assert warnings.showwarning is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def shell(tmp_path: Path, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    where = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=where, capture_output=True, check=False)


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    done = shell(tmp_path, f"{sys.executable} -c 'from torchloupe.cli import main; import sys; sys.exit(main())' cam --help | true; "
                           "echo ${PIPESTATUS[0]}")  # fmt: skip
    assert done.stderr == b""
    assert done.stdout in (b"0\n", b"141\n")


def test_a_full_standard_output_is_said(tmp_path: Path) -> None:
    done = shell(tmp_path, "loupe cam --help > /dev/full")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_a_terminal_cannot_encode_are_printed(tmp_path: Path, encoding: str) -> None:
    done = shell(
        tmp_path, "loupe layers $'\\u540d\\xe9' ; loupe layers --help", PYTHONIOENCODING=encoding, LC_ALL="C.UTF-8"
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert b"loupe: error: " in lines[0]
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["pass", "raise_later()"])
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, where: str) -> None:
    """Also where the interrupt is turned into another error, as imports of compiled packages do."""
    script = (
        "import sys, time\n"
        "from torchloupe import cli\n"
        "def slow(asked):\n"
        "    print('ready', flush=True)\n"
        "    try:\n"
        "        time.sleep(30)\n"
        "    except KeyboardInterrupt:\n"
        f"        {'raise' if where == 'pass' else 'raise ImportError(1) from None'}\n"
        "cli.build = slow\n"
        "sys.exit(cli.main(['layers', 'nowhere']))\n"
    )
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said == b"loupe: error: interrupted; what is on disk is whole, and the same command goes on from it\n"


def test_code_of_users_that_ends_the_program_or_eats_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, body in (
        ("ends", "import sys; sys.exit(0)"),
        ("eats", "raise MemoryError"),
        ("says", "raise SystemExit('no')"),
    ):
        (tmp_path / f"{name}_factory.py").write_text(f"def make():\n    {body}\n")
        said = refused(capsys, "layers", f"torch:{name}_factory:make")
        assert "sys.exit" in said or "MemoryError" in said


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(_asked: str) -> Any:
        warnings.warn("two\nlines\udce9", LoupeWarning, stacklevel=2)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", warned)
    assert main(["layers"]) == 130
    assert capsys.readouterr().err.splitlines()[0] == "loupe: warning: two lines\\xe9"


def test_an_error_about_much_text_is_cut_in_its_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"{i:040}" for i in range(400)) + "\n" + "1," * 399 + "1\n")
    said = refused(capsys, "browse", f"csv:{tmp_path / 'a.csv'}")
    assert len(said) < 1300
    assert "a.csv" in said
    assert " ... " in said
