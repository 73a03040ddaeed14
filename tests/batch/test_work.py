"""Commands as work: what each resolves, how it cuts its batches, and that what is refused leaves nothing."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlxdiff.batch import work
from mlxdiff.batch.journal import NAME, Done, Journal, Run, hash_of
from mlxdiff.batch.models import Models
from mlxdiff.batch.naming import parse_output
from mlxdiff.batch.options import RunOptions
from mlxdiff.errors import InputError, ModelNotFoundError, OutputError, RequestError
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Model, Request, Resolved

BASE = Request(model="m", seed=7)
TWO = RunOptions(batch_size=2)


class Fake:
    """Resolves, and counts how often; has no weights to load."""

    def __init__(self, model: Model, resolved: list[Request]) -> None:
        if model.reference == "missing":
            raise ModelNotFoundError("There is no model missing.", "Pull it.")
        self.model, self._resolved = model, resolved
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def unload(self) -> None:
        pass

    def resolve(self, request: Request) -> Resolved:
        self._resolved.append(request)
        if request.steps == 13:
            raise RequestError("13 is unlucky.", "Take 12.")
        values = {item.name: getattr(request, item.name) for item in fields(Request)}
        filled = {"steps": 2, "height": 32, "width": 32, "guidance_scale": 2.0, "sampler": "ddim", "dtype": "fp32"}
        values |= {name: value for name, value in filled.items() if values[name] is None}
        schedule = SimpleNamespace(sigmas=(1.0, 0.5, 0.0))
        return Resolved(**values | {"model": self.model.reference, "prompt_syntax": "a1111", "noise_levels": schedule})


@pytest.fixture
def resolved() -> list[Request]:
    return []


@pytest.fixture
def models(resolved) -> Models:
    return Models(lambda model: Fake(model, resolved))  # type: ignore[arg-type, return-value]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(*texts: str) -> str:
    Path("p.txt").write_text("\n".join(texts))
    return "p.txt"


def indices(made: work.Work) -> list[list[int]]:
    return [[job.index for job in batch.jobs] for batch in made.batches if batch is not None]


def test_lines_that_differ_in_prompt_and_seed_alone_are_resolved_once(models, resolved):
    made = work.for_file(models, BASE, lines("a", "b", '{"prompt": "c", "n_images": 3}'), "out", TWO)
    assert [request.n_images for request in resolved] == [1, 3]
    assert indices(made) == [[0, 1], [2, 3], [4]]
    assert made.n_images == 5


def test_a_prompt_is_resolved_once_and_ten_thousand_images_are_quick(models, resolved):
    began = time.process_time()
    made = work.for_prompt(models, replace(BASE, prompt="a", n_images=10_000), None, RunOptions(batch_size=4))
    assert len(indices(made)) == 2500
    assert len(resolved) == 1
    assert time.process_time() - began < 30, "quadratic, it took minutes"


def test_names_of_a_prompt_are_its_own_and_its_seed():
    def names(n: int, output: str | None) -> list[str]:
        models = Models(lambda model: Fake(model, []))  # type: ignore[arg-type, return-value]
        made = work.for_prompt(models, replace(BASE, prompt="A cat", n_images=n), output, TWO)
        return [str(job.path) for batch in made.batches if batch for job in batch.jobs]

    assert names(1, None) == ["a-cat-7.png"]
    assert names(2, None) == ["a-cat-7.png", "a-cat-8.png"]
    assert names(2, "apple.webp") == ["apple-7.webp", "apple-8.webp"]
    assert names(2, "out/") == ["out/00000-a-cat-7.png", "out/00001-a-cat-8.png"]


def test_a_drawn_seed_is_another_each_time(models):
    drawn = {
        job.request.seed
        for _ in range(2)
        for batch in work.for_prompt(models, Request("a", model="m", n_images=2), None, TWO).batches
        if batch
        for job in batch.jobs
    }
    assert len(drawn) == 4


def test_bad_lines_are_all_named_and_leave_nothing(models, in_folder):
    with pytest.raises(work.BadLinesError) as caught:
        work.for_file(models, BASE, lines("a", '{"steps": 0}', '{"model": "missing"}', "b"), "out", TWO)
    assert [str(error)[:13] for error in caught.value.errors] == ["p.txt, line 2", "p.txt, line 3"]
    assert caught.value.exit_code == 2
    with pytest.raises(ModelNotFoundError, match=r"p.txt, line 1: There is no model missing"):
        work.for_file(models, BASE, lines('{"prompt": "a", "model": "missing"}'), "out", TWO)
    with pytest.raises(InputError, match="has no prompts"):
        work.for_file(models, BASE, lines("# none"), "out", TWO)
    with pytest.raises(RequestError, match="would both be written"):
        work.for_file(models, BASE, lines("a", "b"), "out/{steps}.png", TWO)
    assert os.listdir(in_folder) == ["p.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="Linux and macOS have a file without an end")
def test_a_file_without_an_end_is_refused(models, in_folder):
    with pytest.raises(InputError, match="no line end"):
        work.for_file(models, BASE, "/dev/zero", "out", TWO)
    assert os.listdir(in_folder) == []


def test_the_seed_and_batch_size_of_a_run_are_kept(models):
    base, file = Request(model="m"), lines("a", "b", "c")
    first = work.for_file(models, base, file, "out", TWO)
    again = work.for_file(models, base, file, "out", RunOptions())
    for made in (first, again):
        assert indices(made) == [[0, 1], [2]]
    seeds = [[job.request.seed for batch in made.batches if batch for job in batch.jobs] for made in (first, again)]
    assert seeds[0] == seeds[1]
    larger = work.for_file(models, base, file, "out", RunOptions(batch_size=3))
    assert indices(larger) == [[0, 1, 2]], "nothing is done yet, so nothing binds"
    assert indices(work.for_file(models, base, file, "out", RunOptions())) == [[0, 1, 2]]


def finished(made: work.Work, n: int) -> None:
    """As if the first pictures had been rendered."""
    jobs = [job for batch in made.batches if batch for job in batch.jobs]
    for job in jobs[:n]:
        made.store.write(job, np.zeros((32, 32, 3), np.uint8), np.zeros((8, 8, 4), np.float32))


def test_another_batch_size_is_refused_while_some_are_done_and_some_are_not(models):
    file = lines("a", "b", "c")
    made = work.for_file(models, BASE, file, "out", TWO)
    finished(made, 1)
    with pytest.raises(RequestError, match="begun with --batch-size 2"):
        work.for_file(models, BASE, file, "out", RunOptions(batch_size=3))
    finished(made, 3)
    assert work.for_file(models, BASE, file, "out", RunOptions(batch_size=3)).needs is None


def test_a_finished_run_needs_no_model_and_writes_nothing(models):
    file = lines("a", "b", "c")
    finished(work.for_file(models, BASE, file, "out", TWO), 3)
    before = Path("out", NAME).read_bytes()
    made = work.for_file(models, BASE, file, "out", RunOptions())
    assert made.needs is None
    assert Path("out", NAME).read_bytes() == before


def test_pictures_that_say_what_made_them_need_no_journal_and_no_model(models):
    file = lines("a", "b", "c")
    finished(work.for_file(models, BASE, file, "out", TWO), 3)
    before = Path("out", NAME).read_bytes()
    Path("out", NAME).unlink()
    made = work.for_file(models, BASE, file, "out", TWO)
    assert made.needs is None
    assert all(made.store.is_done(job) for batch in made.batches if batch for job in batch.jobs)
    assert Path("out", NAME).read_bytes() == before
    request = replace(BASE, prompt="a", n_images=2)
    finished(work.for_prompt(models, request, None, TWO), 2)
    for left in Path().glob(".mlxdiff*"):
        left.unlink()
    made = work.for_prompt(models, request, None, TWO)
    assert made.needs is None
    assert all(made.store.is_done(job) for batch in made.batches if batch for job in batch.jobs)


def test_a_folder_of_the_first_version_is_gone_on_with(models):
    """Its run was a hash of the resolved request, its jobs of request and name; its lines had no checksum."""
    template = str(parse_output("out", several=True).template)
    asked = Models(lambda model: Fake(model, [])).resolve(Request(model="m", seed=0))  # type: ignore[arg-type, return-value]
    journal = Journal(Path("out"))
    journal.begin(Run(hash_of(replace(asked, seed=None).to_json(), "None", template), 40, 2))
    one = replace(asked, prompt="a", seed=40)
    write_picture("out/00000-a-40.png", np.zeros((32, 32, 3), np.uint8), picture_text(one))
    digest = hashlib.sha256(Path("out/00000-a-40.png").read_bytes()).hexdigest()
    journal.append(Done(hash_of(one.to_json(), "00000-a-40.png"), "00000-a-40.png", digest))
    made = work.for_file(models, Request(model="m"), lines("a", "b"), "out", RunOptions())
    assert [(job.request.seed, job.path.name) for batch in made.batches if batch for job in batch.jobs] == [
        (40, "00000-a-40.png"),
        (41, "00001-b-41.png"),
    ]
    first = next(iter(made.batches)).jobs[0]  # type: ignore[union-attr]
    assert made.store.standing(first).done


def test_a_run_that_was_begun_with_a_5_goes_on_with_5_0(models):
    """Its name was a hash of numbers as they were typed; so was that of a prompt's hidden journal."""
    template = str(parse_output("out", several=True).template)
    typed = '{"guidance_scale":5,"model":"m","n_images":1,"prompt":""}'
    Journal(Path("out")).begin(Run(hash_of(typed, "None", template), 40, 2))
    base = Request(model="m", guidance_scale=5.0)
    made = work.for_file(models, base, lines("a"), "out", RunOptions(dry_run=True))
    assert [job.request.seed for job in made.jobs] == [40]

    alone = str(parse_output("x/{seed}.png", several=True).template)
    typed = '{"guidance_scale":5,"model":"m","n_images":2,"prompt":"a"}'
    key = hash_of(typed, "None", alone)[:16]
    Journal(Path("x"), f".mlxdiff-{key}-0.run").begin(Run(key, 50, 1))
    request = Request("a", model="m", n_images=2, guidance_scale=5.0)
    made = work.for_prompt(models, request, "x/{seed}.png", RunOptions(dry_run=True))
    assert [job.request.seed for job in made.jobs] == [50, 51]


def test_each_model_is_opened_once_and_the_first_that_is_needed_is_named(models):
    other = '{"prompt": "b", "model": "n"}'
    made = work.for_file(models, BASE, lines("a", other, "c", other), "out", RunOptions(batch_size=1))
    assert [batch.model.reference for batch in made.batches if batch] == ["m", "m", "n", "n"]
    assert made.needs == Model("m")
    finished(made, 2)
    assert work.for_file(models, BASE, lines("a", other, "c", other), "out", RunOptions()).needs == Model("n")


def test_equal_cells_are_one_job_in_several_places(models):
    made = work.for_sweep(models, BASE, ["steps=1,2,1"], Path("s.png"), Path("c"), 4, TWO)
    jobs = [job for batch in made.batches if batch for job in batch.jobs]
    assert [(job.path.name, [copy.name for copy in job.copies]) for job in jobs] == [
        ("00-00-steps-1.png", ["00-02-steps-1.png"]),
        ("00-01-steps-2.png", []),
    ]
    assert made.sheet is not None
    assert [job.index for job in made.sheet.cells] == [0, 1, 0]
    assert {path.name: cell["varied"] for path, cell in made.cells.items()} == {
        "00-00-steps-1.png": {"steps": 1},
        "00-01-steps-2.png": {"steps": 2},
        "00-02-steps-1.png": {"steps": 1},
    }


def test_cells_that_differ_in_prompt_and_seed_share_a_batch(models):
    request = replace(BASE, prompt="an apple")
    made = work.for_sweep(
        models, request, ["prompt=apple,pear", "seed=1,2"], Path("s.png"), None, 4, RunOptions(batch_size=4)
    )
    (batch,) = [batch for batch in made.batches if batch]
    assert batch.request.seeds == (1, 1, 2, 2)
    assert batch.request.prompts == ("an apple", "an pear") * 2


def test_a_file_in_the_way_of_anything_is_found_before_anything_is_made(models, in_folder):
    Path("s.png").write_text("mine")
    Path("a-8.png").write_text("mine")
    for make in (
        lambda: work.for_sweep(models, BASE, ["steps=1,2"], Path("s.png"), Path("c"), 4, TWO),
        lambda: work.for_sheet(models, replace(BASE, prompt="a", n_images=2), 1, "s.png", TWO),
        lambda: work.for_prompt(models, replace(BASE, prompt="a", n_images=2), None, TWO),
    ):
        with pytest.raises(OutputError, match="exists already"):
            make()
    assert sorted(os.listdir(in_folder)) == ["a-8.png", "s.png"]
