"""What others have written is read as that: a clear word or the right result, and never a change on a refusal."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from safetensors.numpy import save

import prune_bench as pb
from prune_bench import cli
from prune_bench.config import Wandb, load_experiment
from prune_bench.errors import PruneBenchError
from prune_bench.report.build import make_report
from prune_bench.report.table import markdown_table, rich_table
from prune_bench.sweep.housekeeping import export_run, import_run
from prune_bench.sweep.run_folder import read_rates
from prune_bench.sweep.store import Artifact, Store, decode, encode
from prune_bench.tracking import Mirror
from tests.report.synthetic import make_run
from tests.sweep import hostile
from tests.sweep.hostile import CELLS, CONTENTS, FILES, NAMES, SIZES, YAMLS, tree, write_zip

FUZZ = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ZIPS = NAMES | CONTENTS | CELLS | {f"experiment: {name}": hostile.said(text) for name, text in YAMLS.items()}
# An interpolation is refused, an entity of one's own is only left out.
ZIPS |= {"no experiment": hostile.without("experiment.yaml")}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    return hostile.sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("ours") / "run", **SIZES)


def refused(archive, ours):
    """It is refused in one line, into a run and into nothing, and nothing has changed on the disk."""
    before, new = tree(ours), archive.parent / "new" / "run"
    for folder in (ours, new):
        with pytest.raises(PruneBenchError, match="no exported run") as error:
            import_run(archive, folder)
        assert len(str(error.value).splitlines()) == 1
    assert tree(ours) == before
    assert not new.parent.exists()


@pytest.mark.parametrize("change", ZIPS.values(), ids=ZIPS)
def test_an_archive_that_is_not_what_it_should_be_is_refused_and_changes_nothing(members, ours, tmp_path, change):
    refused(write_zip(tmp_path / "x.zip", change(members)), ours)


def test_archives_that_are_no_plain_zip_are_refused(members, ours, tmp_path):
    def patched(at, value):
        """A byte in the local and in the central header of the first artifact."""
        data = bytearray(write_zip(tmp_path / "x.zip", members).read_bytes())
        name = hostile.results_of(members)[0].encode()
        local = data.index(name) - 30
        central = data.index(name, local + 31) - 46
        data[local + at], data[central + at + 2] = value, value
        return bytes(data)

    whole = write_zip(tmp_path / "x.zip", members).read_bytes()
    for data in (b"", b"PK", whole[:-30], whole[: len(whole) // 2], patched(6, 1), patched(8, 97), patched(8, 14)):
        (tmp_path / "x.zip").write_bytes(data)
        refused(tmp_path / "x.zip", ours)
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(tmp_path / "x.zip", [*members.items(), *list(members.items())[-1:]])
    refused(tmp_path / "x.zip", ours)


@pytest.mark.parametrize("name", [hostile.NAME, "cells.json", "experiment.yaml"])
def test_a_bomb_is_not_unpacked(members, ours, tmp_path, name, monkeypatch):
    archive = write_zip(tmp_path / "x.zip", members | {name: bytes(40_000_000)}, zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 100_000

    def read(*_):
        raise AssertionError("it was read")

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    refused(archive, ours)


def test_an_archive_that_was_packed_again_is_taken(members, tmp_path):
    archive = write_zip(tmp_path / "x.zip", members, zipfile.ZIP_DEFLATED)
    assert import_run(archive, tmp_path / "new")[1] == len(pb.load_results(tmp_path / "new"))


def test_an_import_brings_no_wandb_no_store_no_output_and_no_devices(members, tmp_path):
    words = members["experiment.yaml"].decode() + (
        "store: s3://evil/x\noutput: /evil\nwandb: {entity: evil, project: evil}\nexecutor: ray\n"
        "devices: {address: evil:6379}\n"
    )
    words = "\n".join(dict.fromkeys(words.splitlines()))
    import_run(write_zip(tmp_path / "x.zip", members | {"experiment.yaml": words.encode()}), tmp_path / "new")
    kept = load_experiment(tmp_path / "new" / "experiment.yaml")
    assert (kept.store, kept.output, kept.wandb.entity, kept.executor, kept.devices.address) == (
        "",
        "",
        None,
        "auto",
        None,
    )
    assert "evil" not in (tmp_path / "new" / "experiment.yaml").read_text()


def test_a_store_of_the_format_before_is_read_and_its_export_has_keys(tmp_path):
    run = make_run(tmp_path / "run", **SIZES)
    before = pb.load_results(run)
    hostile.forget(run)
    assert pb.load_results(run).equals(before)
    export_run(run, tmp_path / "x.zip", [])
    assert import_run(tmp_path / "x.zip", tmp_path / "new") == (len(before), len(before))


@pytest.mark.parametrize("with_key", [True, False], ids=["with keys", "of the format before"])
def test_a_sound_result_under_another_cells_name_is_not_counted_twice(tmp_path, with_key):
    run = make_run(tmp_path / "run", **SIZES)
    if not with_key:
        hostile.forget(run)
    frame = pb.load_results(run)
    one, other = (Store.name(key) for key in frame[frame.method == "snip"].key[:2])
    (run / "store" / other).write_bytes((run / "store" / one).read_bytes())
    found = pb.load_results(run)
    assert sorted(found.status) == sorted(["done"] * (len(frame) - 1) + ["missing" if with_key else "failed"])
    assert markdown_table(found)


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_a_runs_experiment_file_reads_no_environment_and_ends_in_words(ours, text, monkeypatch, capsys):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    file = ours / "experiment.yaml"
    kept = file.read_bytes()
    try:
        hostile.write_file(ours, "experiment.yaml", text.encode() if isinstance(text, str) else text)
        with pytest.raises(PruneBenchError) as error:
            load_experiment(file)
        assert "hunter2" not in str(error.value)
        for words in (["report", "--format", "csv"], ["compare"], ["status"]):
            assert cli.main([words[0], str(ours), *words[1:]]) in (0, 2)
        assert cli.main(["sync", str(ours)]) == 2
    finally:
        file.write_bytes(kept)
    assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_odd_and_old_files_of_a_run_are_read_as_what_they_are(ours, tmp_path, name, content, capsys):
    run = shutil.copytree(ours, tmp_path / "run")
    hostile.write_file(run, name, content)
    assert cli.main(["status", str(run)]) in (0, 1)
    assert cli.main(["status", str(run), "--json"]) in (0, 1)
    assert cli.main(["report", str(run), "--format", "csv"]) == 0
    make_report([run])
    Mirror(Wandb(mode="disabled"), run).close()
    assert read_rates(run, "cpu") == {}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("change", CELLS.values(), ids=CELLS)
def test_odd_cells_of_a_run_end_in_words(members, ours, tmp_path, change):
    run, data = tmp_path / "run", change(members).get("cells.json")
    run.mkdir()
    if data is not None:
        (run / "cells.json").write_bytes(data)
    (run / "experiment.yaml").write_bytes((ours / "experiment.yaml").read_bytes())
    for command in (["status"], ["report", "--format", "md"], ["compare"], ["export"]):
        more = [str(tmp_path / "x.zip")] if command == ["export"] else []
        assert cli.main([command[0], str(run), *command[1:], *more]) in (0, 1, 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("small") / "run", methods=(), seeds=2, epochs=1)
    key = pb.load_results(run).key[0]
    return run, key, Store(run / "store").read(key)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4)
    | st.sampled_from(["..", "/etc", "[/b]", "${oc.env:HOME}", "<b>", "result-" + "0" * 32]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def change_somewhere(data, value):
    """The value with one part of it replaced, removed or repeated."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 9)):
        name = data.draw(st.sampled_from(sorted(value)))
        rest = {key: part for key, part in value.items() if key != name}
        return rest if not data.draw(st.integers(0, 9)) else rest | {name: change_somewhere(data, value[name])}
    if isinstance(value, list) and value and data.draw(st.integers(0, 9)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], change_somewhere(data, value[at]), *value[at + data.draw(st.integers(0, 1)) :]]
    return data.draw(JSON)


def looked_at(run):
    """All that reads results can read these."""
    results = pb.load_results(run)
    assert set(results.status) <= {"done", "diverged", "failed", "missing"}
    markdown_table(results)
    Console(file=io.StringIO()).print(rich_table(results))
    results.to_csv().encode()


@FUZZ
@given(st.data())
def test_fuzz_an_import_is_refused_without_a_trace_or_can_be_read(members, tmp_path_factory, data):
    folder, changed = tmp_path_factory.mktemp("fuzz"), dict(members)
    name = data.draw(st.sampled_from(sorted(members)))
    if name == "cells.json":
        changed[name] = json.dumps(change_somewhere(data, json.loads(members[name]))).encode()
    elif name == "experiment.yaml":
        values = OmegaConf.to_container(OmegaConf.create(members[name].decode()))
        changed[name] = json.dumps(change_somewhere(data, values)).encode()  # JSON is YAML
    else:
        whole = decode(members[name])
        record = change_somewhere(data, whole.record)
        changed[name] = encode(
            Artifact(record if isinstance(record, dict) else {"x": record}), "result-" + name[-44:-12]
        )
    before = tree(folder)
    try:
        import_run(write_zip(folder / "x.zip", changed), folder / "run")
    except PruneBenchError as error:
        (folder / "x.zip").unlink()
        assert str(error).isprintable()
        assert set(tree(folder)) == set(before)
    else:
        looked_at(folder / "run")
        assert {path.name for path in (folder / "run").iterdir()} == {"cells.json", "experiment.yaml", "store"}


@FUZZ
@given(st.data())
def test_fuzz_a_store_that_others_write_to_never_breaks_a_report(small, data):
    run, key, artifact = small
    record = change_somewhere(data, artifact.record)
    Store(run / "store").write(key, Artifact(record if isinstance(record, dict) else {"x": record}))
    looked_at(run)


@FUZZ
@given(st.data())
def test_fuzz_a_header_of_an_artifact_gives_an_artifact_or_a_value_error(data):
    whole = encode(Artifact({"a": 1}, {"x": np.arange(4, dtype=np.int32)}))
    length = int.from_bytes(whole[:8], "little")
    header = change_somewhere(data, json.loads(whole[8 : 8 + length]))
    said = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(said), len(said) + 1, 0, 1 << 40, (1 << 64) - 1]))
    with contextlib.suppress(ValueError):
        assert isinstance(decode(struct.pack("<Q", length) + said + whole[8 + length :]).record, dict)


@pytest.mark.parametrize("record", ["[]", "7", '"x"', "null", "[" * 100_000, "{", '{"key": 7}', '[["key", "x"]]'])
@pytest.mark.parametrize("order", ["[]", "{}", "7", "[[]]", '["x", "x"]', "[" * 100_000])
def test_a_signed_artifact_of_an_odd_record_is_damaged(record, order, tmp_path):
    said = {"format": "1", "record": record, "order": order}
    said["sha256"] = hashlib.sha256(f"{record}\n{order}\n".encode()).hexdigest()
    store, key, words = Store(tmp_path), "result-" + "0" * 32, []
    store._say = words.append
    store.files.write(store.name(key), save({}, said))
    assert store.read(key) is None
    assert "damaged" in words[0]


def test_a_member_cannot_leave_the_store_by_its_name(tmp_path):
    store = Store(tmp_path / "store")
    for name in (f"{tmp_path}/evil", "../evil", "result/../../evil"):
        with pytest.raises(ValueError, match="outside"):
            store.files.write(name, b"")
    assert os.listdir(tmp_path) == []
