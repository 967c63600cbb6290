"""Nothing that was computed is lost, whatever command comes next."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import prune_bench as pb
from prune_bench import cli
from prune_bench.data.cache import _write
from prune_bench.data.protocol import Samples
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.sweep import compute, sweep
from prune_bench.sweep.claims import living_claims
from prune_bench.sweep.finished import find_finished
from prune_bench.sweep.housekeeping import clean, import_run
from prune_bench.sweep.run_folder import read_cells, write_cells
from prune_bench.sweep.store import Store, key_of
from prune_bench.sweep.sweep import stage_keys
from tests.sweep import faults, hostile
from tests.sweep.faults import EXPERIMENT
from tests.sweep.test_sweep import run as run_of

BASE = EXPERIMENT | {
    "methods": {"magnitude": {}}, "prune_at": ["init"], "variants": ["original"], "densities": [0.4],
    "train": {"epochs": 1, "batch_size": 32, "milestones": [], "pack": 1},
}  # fmt: skip
OURS, THEIRS = "methods=[magnitude]", "methods=[random]"


def run(folder, *words, **how):
    return run_of(folder, *words, base=BASE, **how)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Our half, their half, and their half exported; never changed."""
    top = tmp_path_factory.mktemp("made")
    for name, words in (("ours", OURS), ("theirs", THEIRS)):
        assert run(top / name, words)[0] == 0
    assert cli.main(["export", str(top / "theirs"), str(top / "theirs.zip")]) == 0
    return top


@pytest.fixture
def ours(made, tmp_path):
    return shutil.copytree(made / "ours", tmp_path / "ours")


def done(folder):
    frame = pb.load_results(folder)
    return sorted(zip(frame[frame.status == "done"].method, frame[frame.status == "done"].seed))


ALL = [("magnitude", 0), ("magnitude", 1), ("random", 0), ("random", 1)]


def kept(folder, kind):
    return {key_of(name) for name in Store(folder / "store").files.names(kind)}


@pytest.mark.parametrize("then", ["export", "clean", "sweep", "narrower", "wider", "retry", "report"])
def test_after_an_import_no_command_loses_what_was_imported(made, ours, tmp_path, then, capsys):
    assert cli.main(["import", str(made / "theirs.zip"), str(ours)]) == 0
    assert done(ours) == ALL
    if then == "export":
        assert cli.main(["export", str(ours), str(tmp_path / "both.zip")]) == 0
        import_run(tmp_path / "both.zip", tmp_path / "new")
        assert done(tmp_path / "new") == ALL
    elif then == "clean":
        assert cli.main(["clean", str(ours)]) == 0
        assert len(kept(ours, "ticket")) == 4
    elif then == "report":
        assert cli.main(["report", str(ours), "--format", "md"]) == 0
    else:
        words = {"narrower": (OURS, "seeds=[0]"), "wider": ("methods=[magnitude, random, dense]",)}.get(then, (OURS,))
        assert run(ours, *words, retry_failed=then == "retry")[0] == 0
    assert set(done(ours)) >= set(ALL)
    assert cli.main(["clean", str(ours)]) == 0
    assert set(done(ours)) >= set(ALL)
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_of_the_version_before_is_kept_by_clean_and_export(made, ours, tmp_path):
    """Its rows name no tickets and no recipe, its artifacts no key, its store no runs."""
    cli.main(["import", str(made / "theirs.zip"), str(ours)])
    hostile.forget(ours)
    shutil.rmtree(ours / "store" / "runs")
    rows = [{name: row[name] for name in ("cell", "key", "reason")} for row in read_cells(ours).rows]
    (ours / "cells.json").write_text(json.dumps({"store": "", "rows": rows, "plan": ""}))
    assert cli.main(["export", str(ours), str(tmp_path / "both.zip")]) == 0
    assert cli.main(["clean", str(ours)]) == 0
    assert (done(ours), len(kept(ours, "ticket"))) == (ALL, 4)
    shutil.rmtree(ours)
    import_run(tmp_path / "both.zip", ours)
    assert (done(ours), len(kept(ours, "ticket"))) == (ALL, 4)


def test_two_runs_on_one_store_do_not_clean_each_other_away(ours, tmp_path):
    assert run(tmp_path / "other", THEIRS, f"store={ours / 'store'}")[0] == 0
    assert cli.main(["clean", str(ours)]) == 0
    assert done(tmp_path / "other") == ALL[2:]
    assert len(kept(ours, "ticket")) == 4


def test_searches_and_trainings_of_another_runs_unfinished_cells_stay(ours, tmp_path, capsys):
    assert run(tmp_path / "other", THEIRS, f"store={ours / 'store'}")[0] == 0
    lost = pb.load_results(tmp_path / "other").key[0]
    Store(ours / "store").files.remove(Store.name(lost))
    before = kept(ours, "training")
    assert cli.main(["clean", str(ours)]) == 0
    assert kept(ours, "training") == before
    assert "searches and trainings stay: 1 cells" in capsys.readouterr().out


def test_another_recipe_in_the_same_folder_is_not_laid_into_one_table_and_not_lost(ours):
    before = read_cells(ours)
    assert run(ours, "methods=[random]", "train.lr=0.05")[0] == 0
    assert done(ours) == ALL[2:]
    assert {row["key"] for row in read_cells(ours).earlier} == {row["key"] for row in before.rows}
    assert cli.main(["clean", str(ours)]) == 0
    assert {row["key"] for row in before.rows} <= kept(ours, "result")
    assert run(ours, OURS)[0] == 0
    assert done(ours) == ALL[:2]


def test_an_import_of_another_recipe_is_refused(made, ours, tmp_path):
    assert run(tmp_path / "slow", THEIRS, "train.lr=0.05")[0] == 0
    cli.main(["export", str(tmp_path / "slow"), str(tmp_path / "slow.zip")])
    before = hostile.tree(ours)
    with pytest.raises(PruneBenchError, match="another recipe"):
        import_run(tmp_path / "slow.zip", ours)
    assert hostile.tree(ours) == before


def test_clean_asks_before_results_go_that_no_run_names(made, ours, capsys):
    shutil.copytree(made / "theirs" / "store" / "result", ours / "store" / "result", dirs_exist_ok=True)
    before = hostile.tree(ours / "store" / "result")
    assert cli.main(["clean", str(ours), "--dry-run"]) == 0
    assert "2 results and tickets that no run names" in capsys.readouterr().out
    assert cli.main(["clean", str(ours)]) == 2  # nobody is there to answer
    assert "--yes" in capsys.readouterr().err
    assert hostile.tree(ours / "store" / "result") == before
    asked = []
    swept = clean(ours, *stage_keys(ours), confirm=lambda swept: asked.append(swept) or True)
    assert asked == [swept] and len(swept.computed) == 2
    assert len(kept(ours, "result")) == 2


@pytest.mark.parametrize("moment", ["prepare", "missing_stages", "make_packs", "_run"])
def test_a_sweep_is_seen_from_its_plan_to_its_end(ours, monkeypatch, moment):
    gone = next((ours / "store" / "result").rglob("*.safetensors"))
    gone.unlink()
    real, seen = getattr(sweep, moment), []

    def looking(*args, **kwargs):
        seen.extend(living_claims(Store(ours / "store").files))
        with pytest.raises(PruneBenchError, match="at work"):
            clean(ours, [], [])
        return real(*args, **kwargs)

    monkeypatch.setattr(sweep, moment, looking)
    assert run(ours, OURS)[0] == 0
    assert seen
    assert list(Store(ours / "store").files.names("claims")) == []


def test_a_refused_sweep_leaves_no_folder(tmp_path):
    for words in (
        ("data.root=/nowhere", "data={name: imagenet}"),
        ("methods=[snap]",),
        ("devices.accelerator=cuda",),
    ):
        with pytest.raises(PruneBenchError):
            run(tmp_path / "a" / "run", *words)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_experiment_no_sweep_wrote_is_not_written_over(tmp_path):
    (tmp_path / "experiment.yaml").write_text("mine")
    with pytest.raises(PruneBenchError, match="is no run"):
        run(tmp_path)
    assert (tmp_path / "experiment.yaml").read_text() == "mine"


class TestData:
    """A result is of the data that its key names."""

    @pytest.fixture
    def words(self, tmp_path, monkeypatch):
        self.write(tmp_path, 0)
        return (f"data={{name: digits, root: {tmp_path}}}", OURS, "seeds=[0]", "train.pack=1")

    @staticmethod
    def write(root, seed):
        g = np.random.default_rng(seed)
        for split, count in (("train", 1438), ("test", 359)):
            images = torch.from_numpy(g.integers(0, 255, (count, 1, 8, 8), dtype=np.uint8))
            file = root / "digits" / f"{split}.safetensors"
            file.unlink(missing_ok=True)
            _write(file, Samples(images, torch.arange(count) % 10))

    def test_data_that_changes_between_plan_and_work_is_a_failure_and_no_result(self, tmp_path, words, monkeypatch):
        real = sweep.run_plan

        def changing(*args, **kwargs):
            self.write(tmp_path, 1)
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(sweep, "run_plan", changing)
            code, said = run(tmp_path / "run", *words)
        assert code == 1
        assert "is not what the sweep was planned with" in said
        assert done(tmp_path / "run") == []
        assert run(tmp_path / "run", *words)[0] == 0  # planned anew, with the data there is


def test_pictures_that_change_inside_a_class_are_noticed_by_a_finished_run(tmp_path):
    from prune_bench.config import make_experiment
    from prune_bench.data.folder import list_pictures
    from prune_bench.sweep.finished import plan_mark

    home = tmp_path / "imagenet"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (home / split / name).mkdir(parents=True)
            (home / split / name / "a.jpg").write_bytes(b"1")
    experiment = make_experiment({"name": "x", "methods": ["snip"]}, [f"data={{name: imagenet, root: {tmp_path}}}"])
    marks, prints = [plan_mark(experiment)], [list_pictures("imagenet", home).fingerprint]
    (home / "train" / "cat" / "a.jpg").write_bytes(b"12")
    marks.append(plan_mark(experiment)), prints.append(list_pictures("imagenet", home).fingerprint)
    (home / "val" / "dog" / "b.jpg").write_bytes(b"1")
    marks.append(plan_mark(experiment)), prints.append(list_pictures("imagenet", home).fingerprint)
    assert len(set(marks)) == len(set(prints)) == 3
    assert plan_mark(experiment) == marks[-1]


def test_swapped_tickets_are_computed_again(ours, monkeypatch):
    one, other = sorted((ours / "store" / "ticket").rglob("*.safetensors"))
    one_data, before = one.read_bytes(), pb.load_results(ours)
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_data)
    for kind in ("result", "training"):
        shutil.rmtree(ours / "store" / kind)
    code, said = run(ours, OURS)
    assert code == 0
    assert said.count("is damaged") == 2
    columns = ["key", "kept", "test/accuracy", "test/loss"]
    assert pb.load_results(ours)[columns].equals(before[columns])


def test_credentials_in_a_url_are_in_no_file_and_no_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prune-bench", "sweep", "x.yaml", "store=memory://user:hunter2@bucket/run"])
    words = (OURS, "seeds=[0]", "store=memory://user:hunter2@bucket/run")
    assert run(tmp_path / "run", *words)[0] == 0
    write_cells(tmp_path / "run", replace(read_cells(tmp_path / "run"), store="memory://user:hunter2@bucket/run"))
    assert done(tmp_path / "run") == ALL[:1]
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "x.zip")]) == 0
    held = [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert held == []
    assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["..", ".", "..."])
def test_a_name_of_dots_is_no_name(tmp_path, name):
    with pytest.raises(ConfigError, match="names a folder"):
        run(tmp_path, f"name='{name}'")


@pytest.mark.parametrize("label", ["a[/b]", "[red]", "<b>x</b>", "a|b", ":smile:"])
def test_a_label_is_never_markup(tmp_path, label, monkeypatch):
    def failing(*args):
        raise RuntimeError("[/usr/lib] \ud800 \x1b[2J <script>")

    monkeypatch.setitem(compute._HOW, "training", failing)
    code, said = run(tmp_path / "run", f"methods={{'{label}': {{method: magnitude}}}}", "seeds=[0]")
    assert code == 1
    assert label in said and "[/usr/lib]" in said
    assert "\x1b[2J" not in said
    for command in (["status"], ["report", "--format", "md"], ["report"]):
        assert cli.main([command[0], str(tmp_path / "run"), *command[1:]]) in (0, 1)
    assert "<script>" not in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("folder", ["a[/b]", "[bold]x", "é"])
def test_a_folder_is_never_markup(made, tmp_path, folder):
    code, said = run(tmp_path / folder, OURS, "seeds=[0]")
    assert code == 0
    assert folder in said.replace("\n", "")


@pytest.mark.parametrize("word", ['methods={"\\uD800": {method: snip}}', "output=/tmp/\udcff", 'output="a\\x1b"'])
def test_half_a_letter_is_refused_when_it_is_read(tmp_path, word):
    with pytest.raises(ConfigError) as error:
        run(tmp_path, word)
    str(error.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_run_is_told(ours):  # root is tried with a read-only mount in test_disks
    (ours / "store").chmod(0o500)
    assert cli.main(["clean", str(ours)]) == 2


def test_an_export_to_a_missing_folder_and_of_a_long_name(made, tmp_path, capsys):
    assert cli.main(["export", str(made / "ours"), str(tmp_path / "no" / "x.zip")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["export", str(made / "ours"), str(tmp_path / ("x" * 251 + ".zip"))]) == 0
    assert cli.main(["export", str(made / "ours"), str(tmp_path / ("x" * 300 + ".zip"))]) == 2


@pytest.mark.parametrize("length", [255, 256, 300])
def test_an_output_of_a_long_name_is_a_run_or_a_word(tmp_path, length):
    try:
        assert run(tmp_path / ("x" * length), OURS, "seeds=[0]")[0] == 0
    except PruneBenchError as error:
        assert "too long" in str(error)


def test_an_import_that_the_disk_does_not_take_leaves_nothing(made, ours, tmp_path, monkeypatch):
    from prune_bench.files import LocalFiles

    real, written = LocalFiles.write, []

    def full(self, name, data):
        written.append(name)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        real(self, name, data)

    monkeypatch.setattr(LocalFiles, "write", full)
    files = {path for path in ours.rglob("*") if path.is_file()}
    for folder in (ours, tmp_path / "new" / "run"):
        written.clear()
        with pytest.raises(PruneBenchError, match="No space left"):
            import_run(made / "theirs.zip", folder)
    assert {path for path in ours.rglob("*") if path.is_file()} == files
    assert not (tmp_path / "new").exists()


def test_a_finished_run_is_found_with_what_was_imported(made, ours):
    from prune_bench.config import make_experiment

    cli.main(["import", str(made / "theirs.zip"), str(ours)])
    run(ours, OURS)
    found = find_finished(make_experiment(BASE, [f"output={ours}", OURS]), print)
    assert len(found) == 4


@pytest.mark.slow
def test_four_sweeps_at_once_on_one_store_share_the_work_to_the_bit(tmp_path):
    alone = faults.start(tmp_path / "alone")
    alone.join()
    words = f"store={tmp_path / 'shared' / 'store'}"
    children = [faults.start(tmp_path / f"run{i}", words) for i in range(4)]
    for child in children:
        child.join()
    assert [child.exitcode for child in (alone, *children)] == [0] * 5
    assert faults.content(tmp_path / "shared") == faults.content(tmp_path / "alone")
    assert list(Store(tmp_path / "shared" / "store").files.names("claims")) == []
    written = [key for i in range(4) for key in faults.finished(tmp_path / f"run{i}")]
    assert len(written) == len(set(written))
    frames = [pb.load_results(tmp_path / f"run{i}").drop(columns="run") for i in range(4)]
    assert all(frame.equals(frames[0]) for frame in frames)
