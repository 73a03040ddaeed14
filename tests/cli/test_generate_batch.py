"""Files of prompts with the real program and the built-in model: killed, interrupted, doubled and dealt to ranks."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import mortal
import numpy as np
import pytest
from killing import PLAIN, THREADS, falling, killed_after, naming, until_stopped
from patience import WAIT
from PIL import Image
from program import mlxdiff

from mlxdiff.batch.journal import NAME

PROMPTS = ("a cat", "a dog", "a fish", "a house", "a tree", "a star", "a car", "a moon")
LAUNCH = Path(sys.executable).with_name("mlx.launch")


def arguments(folder: Path | str, *more: str) -> list[str]:
    return [
        *("generate", "--prompts-file", "prompts.txt", "--output", str(folder), "--model", "emoji"),
        *("--height", "64", "--width", "64", "--steps", "2", "--seed", "7", "--batch-size", "2", *more),
    ]


def start(cwd: Path, *command: str, program: tuple[str, ...] = PLAIN, **streams: object) -> subprocess.Popen[str]:
    environment = {**os.environ, **THREADS, "NO_COLOR": "1", "COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, *program, *command], cwd=cwd, env=environment, text=True, **pipes)  # pyright: ignore


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by name; the journal's lines sorted, since processes that share work finish in any order."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    found[NAME] = b"".join(sorted(found[NAME].splitlines(keepends=True)))
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A folder with the prompts, and in `whole` what one process makes of them when nobody disturbs it."""
    cwd = tmp_path_factory.mktemp("batch")
    (cwd / "prompts.txt").write_text("# things\n" + "\n".join(PROMPTS) + "\n")
    done = mlxdiff(*arguments("whole"), cwd=cwd, **THREADS)
    assert len(done.stdout.splitlines()) == len(PROMPTS)
    return cwd


@pytest.fixture
def fresh(undisturbed, tmp_path) -> Path:
    """A folder of this test's own with the same prompts."""
    shutil.copy(undisturbed / "prompts.txt", tmp_path)
    return tmp_path


def test_pictures_are_named_journaled_and_those_of_a_single_prompt(undisturbed):
    whole = undisturbed / "whole"
    pictures = sorted(path.name for path in whole.glob("*.png"))
    assert pictures == [f"{i:05d}-{p.replace(' ', '-')}-{7 + i}.png" for i, p in enumerate(PROMPTS)]
    assert len(os.listdir(whole)) == len(PROMPTS) + 1
    lines = [json.loads(line) for line in (whole / NAME).read_text().splitlines()]
    assert lines[0]["batch_size"] == 2
    assert lines[0]["seed"] == 7
    assert [line["path"] for line in lines[1:]] == pictures
    size = ("--height", "64", "--width", "64")
    command = ("generate", "a fish", "-m", "emoji", *size, "--steps", "2", "--seed", "9", "-o", "fish.png")
    mlxdiff(*command, cwd=undisturbed, **THREADS)
    alone, batched = (
        np.asarray(Image.open(path)).astype(int) for path in (undisturbed / "fish.png", whole / pictures[2])
    )
    assert np.abs(alone - batched).max() <= 1


def test_second_run_renders_nothing(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "whole").iterdir()}
    again = mlxdiff(*arguments("whole"), cwd=undisturbed, **THREADS)
    assert again.stdout == ""
    assert f"Done before, or by another process: {len(PROMPTS)}." in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "whole").iterdir()} == before


def test_batch_size_of_the_run_holds_and_another_is_refused_while_something_is_missing(undisturbed, fresh):
    mlxdiff(*arguments("whole", "--batch-size", "3"), cwd=undisturbed, **THREADS)
    shutil.copytree(undisturbed / "whole", fresh / "out")
    (fresh / "out" / "00000-a-cat-7.png").unlink()
    again = mlxdiff(*arguments("out", "--batch-size", "3"), cwd=fresh, code=2, **THREADS)
    assert "begun with --batch-size 2" in again.stderr


def moment(chance: random.Random, kind: int, missing: int) -> tuple[str, int, str]:
    """Where a run dies that `missing` pictures are left to, for `falling`; it certainly gets there.

    As often before its first picture, at a picture that is to take its name, at anything it does to a file of the
    folder, and up to a few steps of computing after that.
    """
    if kind == 0:
        return "", 0, str(chance.uniform(0.05, 0.6))
    if kind == 1:
        return naming("*.png"), chance.randint(min(2, missing), missing), "kill"
    operation = chance.randint(1, 5 * missing)  # the least it takes to write them and their lines
    return r"/(\.mlxdiff|mlxdiff-journal|\d+-)", operation, "kill" if kind == 2 else str(chance.uniform(0.001, 0.05))


@pytest.mark.slow
def test_killed_twenty_times_the_folder_ends_up_as_if_never_stopped(undisturbed, tmp_path):
    """At moments of its life that are drawn, over several folders, each finished by running the command again."""
    chance = random.Random(20)
    wanted = {path.name: path.read_bytes() for path in (undisturbed / "whole").iterdir()}
    folders = (tmp_path / str(number) for number in itertools.count())
    kills, partial = 0, 0
    shown, kinds = [], []
    folder = next(folders)
    while kills < 20:
        if not kinds:
            folder, kinds = next(folders), chance.sample(range(4), 4)
        kind, before = kinds[-1], len(list(folder.glob("*.png")))
        pattern, n, how = moment(chance, kind, len(PROMPTS) - before)
        process = start(undisturbed, *arguments(folder), program=falling(pattern, n, how))
        out, err = process.communicate(timeout=WAIT)
        shown += out.splitlines()
        assert len(shown) == len(set(shown)), "a picture was rendered twice"
        done = len(list(folder.glob("*.png")))
        if done == len(PROMPTS):
            folder = next(folders)
        if process.returncode == 0 and how != "kill":  # it was done sooner
            continue
        assert process.returncode in mortal.DEATHS, err
        assert kind != 1 or done == before + n - 1, "the kill missed its picture"
        partial += 0 < done < len(PROMPTS)
        kinds.pop()
        kills += 1
    assert partial >= 5, "no kill hit the middle of a run"
    for folder in tmp_path.iterdir():
        mlxdiff(*arguments(folder), cwd=undisturbed, **THREADS)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted


def test_without_a_seed_the_drawn_one_is_kept(fresh):
    command = ["generate", "--prompts-file", "prompts.txt", "--output", "out", "-m", "emoji", "--steps", "1"]
    command += ["--height", "64", "--width", "64"]
    killed_after(fresh, "out/*.png", *command, "--batch-size", "2", n=3)
    mlxdiff(*command, cwd=fresh, **THREADS)
    pictures = sorted(path.stem for path in (fresh / "out").glob("*.png"))
    assert len(pictures) == len(PROMPTS)
    assert len({int(name.rsplit("-", 1)[1]) - i for i, name in enumerate(pictures)}) == 1


def test_two_processes_share_the_work(undisturbed, fresh):
    both = [start(fresh, *arguments("out")) for _ in range(2)]
    said = [process.communicate(timeout=WAIT) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    shown = [line for out, _ in said for line in out.splitlines()]
    assert len(shown) == len(set(shown)) == len(PROMPTS)
    assert contents(fresh / "out") == contents(undisturbed / "whole")


def free_ports(n: int) -> int:
    """The first of n ports in a row that nothing listens on."""
    while True:
        first = random.randrange(20000, 30000)
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + n):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCH.exists(), reason="MLX brought no mlx.launch")
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_make_the_same_files(undisturbed, fresh, n):
    command = [str(LAUNCH), "-n", str(n), "--starting-port", str(free_ports(n)), "--", sys.executable, "-m", "mlxdiff"]
    done = subprocess.run(
        [*command, *arguments("out")],
        cwd=fresh,
        env={**os.environ, **THREADS},
        capture_output=True,
        text=True,
        timeout=WAIT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert contents(fresh / "out") == contents(undisturbed / "whole")
    assert len([line for line in done.stdout.splitlines() if line.endswith(".png")]) == len(PROMPTS)


def test_picture_without_its_line_is_adopted(undisturbed, fresh):
    shutil.copytree(undisturbed / "whole", fresh / "out")
    journal = fresh / "out" / NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))
    done = mlxdiff(*arguments("out"), cwd=fresh, **THREADS)
    assert done.stdout == ""
    assert contents(fresh / "out") == contents(undisturbed / "whole")


def test_picture_of_somebody_else_stays_and_is_told(undisturbed, fresh):
    (fresh / "out").mkdir()
    theirs = fresh / "out" / "00003-a-house-10.png"
    shutil.copy(undisturbed / "whole" / "00004-a-tree-11.png", theirs)
    before = theirs.read_bytes()
    done = mlxdiff(*arguments("out"), cwd=fresh, code=1, **THREADS)
    assert "exists already" in done.stderr
    assert theirs.read_bytes() == before
    assert not list((fresh / "out").glob("00000*"))
    mlxdiff(*arguments("out", "--force"), cwd=fresh, **THREADS)
    assert contents(fresh / "out") == contents(undisturbed / "whole")


def test_without_metadata_a_picture_without_its_line_is_compared(fresh):
    (fresh / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    mlxdiff(*arguments("out", "--no-metadata", "--save-latents"), cwd=fresh, **THREADS)
    before = contents(fresh / "out")
    journal = fresh / "out" / NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    (fresh / "out" / "00001-a-dog-8.png").unlink()
    mlxdiff(*arguments("out", "--no-metadata", "--save-latents"), cwd=fresh, **THREADS)
    assert contents(fresh / "out") == before
    assert len(before) == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_once_finishes_the_group_at_hand(fresh, number, code):
    slow = arguments("out", "--steps", "12")
    process = start(fresh, *slow, program=falling(naming("*.png"), 2, "stop"))
    until_stopped(process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == code, err
    names = {Path(line).name for line in out.splitlines()}
    left = contents(fresh / "out")
    assert left.keys() == {*names, NAME}
    assert len(names) in (2, 4), "two that are written, and two that are at hand"
    assert re.search(rf"Interrupted: {len(names)} of {len(PROMPTS)} pictures are done", err)
    assert "Traceback" not in err
    again = mlxdiff(*slow, cwd=fresh, **THREADS)
    assert len(again.stdout.splitlines()) == len(PROMPTS) - len(names)
    assert contents(fresh / "out").items() >= {name: left[name] for name in names}.items()


def test_interrupted_twice_ends_at_once(fresh):
    process = start(fresh, *arguments("out", "--steps", "1000"), program=falling(r"^open .*\.lock", 2, "stop"))
    assert process.stderr is not None
    until_stopped(process)
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    assert any("Finishing" in line for line in process.stderr)  # where it is slow, it has said that it loads the model
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert not list((fresh / "out").glob("*.png")), "the pictures at hand have many steps to go"


def limited(size: int):
    """Files of at most `size` bytes, as on a disk that is nearly full."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize(("option", "code", "n"), [("--keep-going", 3, 8), ("--fail-fast", 1, 2)])
def test_pictures_that_do_not_fit_on_the_disk_are_listed(fresh, option, code, n):
    process = start(fresh, *arguments("out", option), preexec_fn=limited(2000))
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == code, err
    assert out == ""
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(failed) >= n if code == 1 else len(failed) == n
    assert "prompts.txt, line 2, out/00000-a-cat-7.png" in failed[0]
    assert os.listdir(fresh / "out") == [NAME]


def test_folder_deleted_on_the_way_is_told_and_not_made_again(fresh):
    process = start(fresh, *arguments("out", "--steps", "12"), program=falling(naming("*.png"), 3, "stop"))
    until_stopped(process)
    shutil.rmtree(fresh / "out")
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 3, err
    assert "is gone, or its journal" in err
    left = list((fresh / "out").glob("*"))
    assert len(left) <= 1, "more than the picture that was just being written"


def test_stream_renders_before_it_ends(fresh):
    command = ["generate", "--prompts-file", "-", "-o", "out/", "-m", "emoji", "--steps", "1", "--seed", "3", "--json"]
    command += ["--height", "64", "--width", "64"]
    with start(fresh, *command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('a cat\n# note\n{"prompt": "a dog", "seed": 11}\n')
        process.stdin.flush()
        said = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(line["prompt"], line["seed"]) for line in said] == [("a cat", 3), ("a dog", 11)]
        process.stdin.write("a fish\n")
        process.stdin.close()
        assert json.loads(process.stdout.read())["path"] == "out/00002-a-fish-5.png"
    assert process.returncode == 0


def test_bad_line_of_a_file_is_found_before_the_first_picture_and_of_a_stream_after(fresh):
    (fresh / "prompts.txt").write_text('a cat\n{"prompt": "a dog", "steps": -1}\n')
    done = mlxdiff(*arguments("out"), cwd=fresh, code=2, **THREADS)
    assert "prompts.txt, line 2" in done.stderr
    assert not list(fresh.glob("out/*.png"))
    command = ["generate", "--prompts-file", "-", "-o", "out/", "-m", "emoji", "--steps", "1", "--seed", "3"]
    process = start(fresh, *command, stdin=subprocess.PIPE)
    _, err = process.communicate('a cat\n{"prompt": "a dog", "steps": -1}\n', timeout=WAIT)
    assert process.returncode == 2
    assert "standard input, line 2" in err
    assert [path.name for path in fresh.glob("out/*.png")] == ["00000-a-cat-3.png"], "what came before is there"


@pytest.mark.parametrize(
    ("line", "more", "code", "said"),
    [
        ("a dog", ["--limit", "1"], 0, "Stopped by --limit 1"),
        ('{"image": "nowhere.png"}', [], 2, "standard input, line 2: there is no prompt."),
        ('{"prompt": "a dog", "image": "nowhere.png"}', [], 1, "standard input, line 2: There is no picture nowhere"),
    ],
)
def test_a_stream_that_stays_open_holds_up_no_end(fresh, line, more, code, said):
    command = ["generate", "--prompts-file", "-", "-o", "out/", "-m", "emoji", "--steps", "1", "--seed", "3", *more]
    with start(fresh, *command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(f"a cat\n{line}\n")
        process.stdin.flush()
        assert process.wait(WAIT) == code
        assert process.stderr is not None
        err = process.stderr.read()
    assert said in err
    assert "Fatal" not in err
    assert [path.name for path in fresh.glob("out/*.png")] == ["00000-a-cat-3.png"]


def test_all_bad_lines_are_named_and_nothing_is_left_behind(fresh):
    bad = ['{"prompt": "a dog", "steps": -1}', '{"prompt": "x", "height": 65}', '{"model": "nosuch", "prompt": "y"}']
    (fresh / "prompts.txt").write_text("\n".join(["a cat", *bad, "a cow", '{"x": 1}']))
    done = mlxdiff(*arguments("out"), cwd=fresh, code=2, **THREADS)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [re.match(r"error: prompts\.txt, line (\d+): ", line)[1] for line in lines] == ["2", "3", "4", "6"]  # type: ignore[index]
    (fresh / "prompts.txt").write_text("\n".join(['{"x": 1}'] * 30))
    done = mlxdiff(*arguments("out"), cwd=fresh, code=2, **THREADS)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 21
    assert "only the first 20" in lines[-1]
    assert os.listdir(fresh) == ["prompts.txt"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_prompts_is_an_error(fresh, text):
    (fresh / "prompts.txt").write_text(text)
    done = mlxdiff(*arguments("out"), cwd=fresh, code=1, **THREADS)
    assert "prompts.txt has no prompts." in done.stderr
    command = ["generate", "--prompts-file", "-", "-o", "out/", "-m", "emoji"]
    process = start(fresh, *command, stdin=subprocess.PIPE)
    _, err = process.communicate(text, timeout=WAIT)
    assert process.returncode == 1
    assert "Standard input has no prompts." in err
    assert os.listdir(fresh) == ["prompts.txt"]


def test_a_line_in_the_middle_renders_only_itself(undisturbed, fresh):
    shutil.copytree(undisturbed / "whole", fresh / "out")
    lines = (fresh / "prompts.txt").read_text().splitlines()
    (fresh / "prompts.txt").write_text("\n".join([*lines[:4], "a snake", *lines[4:]]))
    done = mlxdiff(*arguments("out"), cwd=fresh, **THREADS)
    assert done.stdout.splitlines() == ["out/00003-a-snake-10.png"]
    assert contents(undisturbed / "whole").items() - contents(fresh / "out").items() <= {
        (NAME, contents(undisturbed / "whole")[NAME])
    }


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_picture_is_rendered_again_and_the_rest_found(undisturbed, fresh, damage):
    shutil.copytree(undisturbed / "whole", fresh / "out")
    path = fresh / "out" / "00002-a-fish-9.png"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    done = mlxdiff(*arguments("out"), cwd=fresh, **THREADS)
    assert done.stdout == "out/00002-a-fish-9.png\n"
    wanted = undisturbed / "whole"
    assert {p.name: p.read_bytes() for p in (fresh / "out").glob("*.png")} == {
        p.name: p.read_bytes() for p in wanted.glob("*.png")
    }


def test_a_changed_digit_in_the_journal_changes_no_seed(undisturbed, fresh):
    shutil.copytree(undisturbed / "whole", fresh / "out")
    journal = fresh / "out" / NAME
    journal.write_bytes(journal.read_bytes().replace(b'"seed":7', b'"seed":5').replace(b'"seed":9', b'"seed":4'))
    done = mlxdiff(*arguments("out"), cwd=fresh, **THREADS)
    assert "lines that cannot be read" in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in (fresh / "out").glob("*.png")) == sorted(
        path.name for path in (undisturbed / "whole").glob("*.png")
    )


def test_a_picture_to_start_from_that_was_replaced_renders_its_jobs_again(fresh):
    Image.new("RGB", (64, 64), "red").save(fresh / "in.png")
    (fresh / "prompts.txt").write_text('a cat\n{"prompt": "a dog", "image": "in.png", "strength": 0.5}\n')
    mlxdiff(*arguments("out", "--steps", "4"), cwd=fresh, **THREADS)
    before = contents(fresh / "out")
    assert mlxdiff(*arguments("out", "--steps", "4"), cwd=fresh, **THREADS).stdout == ""
    Image.new("RGB", (64, 64), "blue").save(fresh / "in.png")
    again = mlxdiff(*arguments("out", "--steps", "4"), cwd=fresh, **THREADS)
    assert again.stdout == "out/00001-a-dog-8.png\n"
    after = contents(fresh / "out")
    assert before.keys() == after.keys()
    assert after["00001-a-dog-8.png"] != before["00001-a-dog-8.png"]
    assert mlxdiff(*arguments("out", "--steps", "4"), cwd=fresh, **THREADS).stdout == ""


def test_lines_of_different_models(fresh):
    other = Path(__file__).parents[2] / "src" / "mlxdiff" / "assets" / "emoji"
    line = json.dumps({"prompt": "a dog", "model": str(other)})
    (fresh / "prompts.txt").write_text(f"a cat\n{line}\na fish\n{line}\n")
    done = mlxdiff(*arguments("out", "--json"), cwd=fresh, **THREADS)
    said = [json.loads(text) for text in done.stdout.splitlines()]
    assert [(line["index"], line["request"]["model"]) for line in said] == [
        (0, "emoji"),
        (2, "emoji"),
        (1, str(other)),
        (3, str(other)),
    ]
    again = [
        json.loads(text) for text in mlxdiff(*arguments("out", "--json"), cwd=fresh, **THREADS).stdout.splitlines()
    ]
    assert [line["event"] for line in again] == ["found"] * 4


def test_a_line_that_is_appended_while_it_renders_is_not_rendered_twice(fresh):
    """Batches of the two processes differ, and each picture is made by one of them."""
    (fresh / "prompts.txt").write_text("\n".join(PROMPTS[:3]))
    while_it_claims = falling(r"^open .*\.lock", 2, "stop")
    first = start(fresh, *arguments("out"), program=while_it_claims)
    until_stopped(first)
    (fresh / "prompts.txt").write_text("\n".join(PROMPTS[:5]))
    second = start(fresh, *arguments("out"), program=while_it_claims)
    until_stopped(second)
    for process in (first, second):
        process.send_signal(signal.SIGCONT)
    said = [process.communicate(timeout=WAIT) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], said
    shown = [line for out, _ in said for line in out.splitlines()]
    assert sorted(shown) == [f"out/{i:05d}-{p.replace(' ', '-')}-{7 + i}.png" for i, p in enumerate(PROMPTS[:5])]
    assert not list(fresh.glob("out/.mlxdiff*"))


def test_failures_have_lines_of_json(fresh):
    process = start(fresh, *arguments("out", "--json"), preexec_fn=limited(2000))
    out, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 3
    said = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in said] == ["failed"] * 8
    assert {line["seed"] for line in said} == set(range(7, 15))
    assert all("cannot be written" in line["error"] and line["path"].startswith("out/") for line in said)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["a cat", "--prompts-file", "prompts.txt"], "There is a prompt and a file"),
        ([], "nothing to draw"),
        (["--prompts-file", "prompts.txt", "--n-rows", "2"], "no contact sheet"),
        (["--prompts-file", "missing.txt"], "no prompt file"),
    ],
)
def test_wrong_usage_is_told(fresh, options, problem):
    done = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "generate", *options], cwd=fresh, capture_output=True, text=True
    )
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_another_picture_is_rendered_again_and_overridden(undisturbed, fresh):
    source = undisturbed / "whole" / "00000-a-cat-7.png"
    mlxdiff("generate", "--from", source, "-o", "again.png", "--batch-size", "2", cwd=fresh, **THREADS)
    again, before = (np.asarray(Image.open(path)).astype(int) for path in (fresh / "again.png", source))
    assert np.abs(again - before).max() <= 1
    done = mlxdiff("generate", "a dog", "--from", source, "--seed", "8", "-o", "x.png", "--json", cwd=fresh, **THREADS)
    assert json.loads(done.stdout)["prompt"] == "a dog"
    other = np.asarray(Image.open(fresh / "x.png")).astype(int)
    dog = np.asarray(Image.open(undisturbed / "whole" / "00001-a-dog-8.png")).astype(int)
    assert np.abs(other - dog).max() <= 1
