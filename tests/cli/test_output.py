"""What is printed: nothing that drives a terminal, one line a message, and streams that are gone are no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import WAIT
from program import mlxdiff
from terminals import Terminal

from mlxdiff.cli import output
from mlxdiff.errors import InputError, MlxdiffWarning

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\u202egnp\u2066\x9b2J\x7f"
UNSAFE = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F))]
UNSAFE += [chr(code) for code in range(0x2066, 0x206A)]
UNSAFE = set(UNSAFE) - set("\t\n")


@pytest.mark.parametrize(
    "printed",
    [
        lambda: output.say(HOSTILE),
        lambda: output.say_json({HOSTILE: [HOSTILE]}),
        lambda: output.note(HOSTILE),
        lambda: output.warn(HOSTILE),
        lambda: output.complain("failed", HOSTILE),
        lambda: output.report(InputError(HOSTILE, HOSTILE)),
        lambda: output.table([(HOSTILE, HOSTILE)], (HOSTILE, HOSTILE)),
        lambda: print(output.cell(HOSTILE).plain),
    ],
    ids=["say", "say_json", "note", "warn", "complain", "report", "table", "cell"],
)
def test_nothing_that_is_printed_drives_a_terminal(capsys, printed):
    printed()
    text = "".join(capsys.readouterr())
    assert "red" in text
    assert not UNSAFE & set(text)


def test_a_traceback_does_not_either(capsys, monkeypatch):
    monkeypatch.setattr(output.verbosity, "verbose", True)
    try:
        raise InputError(HOSTILE, HOSTILE)
    except InputError as error:
        output.report(error)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert not UNSAFE & set(shown)


def test_a_name_with_a_line_break_makes_no_second_message(capsys):
    output.complain("error", "There is no file a\nerror: all is lost.")
    output.note("b\nerror: all is lost.")
    assert capsys.readouterr().err == "error: There is no file a error: all is lost.\nb error: all is lost.\n"


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_json_is_one_safe_line_and_says_the_same(values):
    line = output.json_line(values)
    assert json.loads(line) == values
    assert not (UNSAFE | set("\n\u2028\u2029")) & set(line)


def test_a_table_is_never_cut_where_it_is_piped_and_wraps_on_a_terminal():
    long = "/a/very/long/path/" + "x" * 200
    assert output.table_lines([("path", long), ("n", "1")], None, None) == [f"path  {long}", "n     1"]
    lines = output.table_lines([("--name", "words " * 40)], ("option", "help"), 60)
    assert max(map(len, lines)) <= 60
    assert lines[0] == "option  help"
    assert all(line.startswith((" " * 8, "--name  ")) for line in lines[1:])
    assert " ".join(" ".join(lines[1:]).split()) == "--name " + " ".join(["words"] * 40)
    narrow = output.table_lines([("--name", "a number", "words " * 9)], ("option", "values", "help"), 20)
    assert narrow[:3] == ["--name", "  values: a number", "  help: words words"]
    assert max(map(len, narrow)) <= 20
    assert long in "\n".join(output.table_lines([("path", long)], None, 40)), "a word is not cut on a terminal either"


def test_warnings_are_shown_safely_and_by_one_hook(capsys):
    with warnings.catch_warnings():
        output.show_warnings()
        output.show_warnings()
        warnings.warn(HOSTILE, MlxdiffWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert shown.startswith("warning: ared")
    assert shown.count("\n") == 1
    assert not UNSAFE & set(shown)


def test_a_warning_is_shown_once_though_filters_change_in_between(capsys):
    with warnings.catch_warnings():
        output.show_warnings()
        for text in ("one", "one", "two", "one"):
            warnings.warn(MlxdiffWarning(text), stacklevel=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as where a picture is opened
    assert capsys.readouterr().err == "warning: one\nwarning: two\n"


def shell(line: str, cwd, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell does with `mlxdiff` standing for the program; its last line should tell the exit code."""
    function = f'mlxdiff() {{ "{sys.executable}" -m mlxdiff "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", function + line],
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=WAIT,
    )


@pytest.mark.parametrize("arguments", ["--help", "generate --help", "info --settings", "info --settings --json"])
def test_a_reader_that_goes_is_no_error(tmp_path, arguments):
    done = shell(f"mlxdiff {arguments} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_run_goes_on_when_nobody_reads_its_paths(tmp_path):
    small = "--steps 1 --height 32 --width 32 --seed 1 --quiet"
    done = shell(f"mlxdiff generate 'a cat' --n-images 3 {small} -o a.png | head -1; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout, done.stderr) == ("a-1.png\n0\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png", "a-3.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's")
@pytest.mark.parametrize(
    "arguments", ["--help", "generate --help", "--version", "info --settings --json", "serve --port 0 --quiet"]
)
def test_a_full_disk_is_one_sentence(tmp_path, arguments):
    done = shell(f"mlxdiff {arguments} > /dev/full; echo $?", tmp_path)
    assert done.stdout == "1\n"
    assert done.stderr.startswith("error: Standard output cannot be written (No space left on device).")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("streams_gone", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_closed_streams_end_nothing(tmp_path, streams_gone):
    line = f"mlxdiff info --settings {streams_gone} | tail -1; echo ${{PIPESTATUS[0]}}"
    done = shell(f"{line}; mlxdiff info nosuch.png {streams_gone}; echo $?", tmp_path)
    assert [line for line in done.stdout.splitlines() if line in "01"] == ["0", "1"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("streams_gone", ["<&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_stream(tmp_path, streams_gone):
    line = 'mlxdiff generate "a cat" --steps 1 --seed 1 --height 16 --width 16'
    done = shell(f"{line} -o open.png; {line} -o closed.png {streams_gone}; echo $?", tmp_path)
    assert done.stdout.endswith("0\n"), done.stderr
    assert (tmp_path / "closed.png").read_bytes() == (tmp_path / "open.png").read_bytes()


def test_a_run_goes_on_where_its_terminal_was_closed(tmp_path):
    """As behind `disown`: every write to the terminal fails from then on."""
    told = ("--n-images", "6", "--seed", "1", "--steps", "4", "--height", "64", "--width", "64", "-o", "out/")
    deaf = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with Terminal(tmp_path, "generate", "a cat", *told, before=deaf) as terminal:
        terminal.until("Using the built-in")
        assert terminal.hang_up() == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_a_file_that_fails_while_it_is_read_is_said_in_words(tmp_path):
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("needs /proc/self/mem, whose first byte cannot be read")
    said = mlxdiff("info", "/proc/self/mem", cwd=tmp_path, code=1).stderr
    assert said == "error: /proc/self/mem cannot be read (Input/output error). Check the file and the disk.\n"


def test_a_terminal_that_is_not_utf8(tmp_path):
    (tmp_path / "p.txt").write_text("caf\xe9 \u2603\nSteps: 3, Sampler: Euler", encoding="utf-8")
    done = mlxdiff("info", "p.txt", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert "caf\\xe9" in done.stdout


def test_quiet_and_verbose_stand_before_or_after_the_command(tmp_path):
    for arguments in (("-q", "info", "nosuch.png"), ("info", "-q", "nosuch.png"), ("info", "nosuch.png", "--quiet")):
        assert mlxdiff(*arguments, cwd=tmp_path, code=1).stderr.count("\n") == 1
    for arguments in (["-v", "info", "nosuch.png"], ["info", "nosuch.png", "-v"], ["info", "--verbose", "nosuch.png"]):
        done = subprocess.run(
            [sys.executable, "-m", "mlxdiff", *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert "Traceback" in done.stderr


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv = ["mlxdiff", "info"]
from mlxdiff.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "mlxdiff.cli.app", "mlxdiff.request", "mlxdiff.backend"])
def test_ctrl_c_while_it_still_imports_shows_no_traceback(tmp_path, module):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


DROPPED = """
import sys, time
import mlxdiff.cli.app

class Finalized:
    def __del__(self):
        raise KeyboardInterrupt

def run():
    Finalized()
    time.sleep(600)

mlxdiff.cli.app.main = run
from mlxdiff.__main__ import main
main()
"""


def test_ctrl_c_that_python_would_drop_is_not_lost(tmp_path):
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, cwd=tmp_path, timeout=WAIT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
