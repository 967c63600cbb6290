"""Archives and run folders as an attacker, a full disk or another version would leave them."""

import json
import struct
import zipfile

from prune_bench.sweep.housekeeping import export_run
from prune_bench.sweep.run_folder import read_cells
from prune_bench.sweep.store import Artifact, Store, encode
from tests.report.synthetic import make_run

SIZES = {"methods": ("snip",), "densities": (0.1,), "seeds": 2, "variants": ("original",)}
DEEP = b"[" * 200_000
ZERO = "0" * 32
NAME = f"store/result/00/{ZERO}.safetensors"


def sound(folder):
    """A run, its archive, and what is in that by name."""
    run = make_run(folder / "sound", **SIZES)
    export_run(run, folder / "sound.zip", [row["key"] for row in read_cells(run).rows])
    with zipfile.ZipFile(folder / "sound.zip") as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def results_of(members):
    return [name for name in members if name.startswith("store/result/")]


def tree(folder):
    """All that lies under a folder, to the byte and to the nanosecond."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as bundle:
        for name, data in members.items() if isinstance(members, dict) else members:
            bundle.writestr(name, data)
    return path


def with_cells(members, change):
    said = json.loads(members["cells.json"])
    said = change(said) or said
    return members | {"cells.json": json.dumps(said).encode()}


def with_row(members, **changes):
    return with_cells(members, lambda said: said["rows"][0].update(changes))


def with_cell(members, **changes):
    return with_cells(members, lambda said: said["rows"][0]["cell"].update(changes))


def artifact(key="result-" + ZERO, **record):
    return encode(Artifact(record), key)


def added(name, data=None):
    return lambda members: members | {name: artifact() if data is None else data}


def swapped(members):
    one, other = results_of(members)[:2]
    return members | {one: members[other], other: members[one]}


def copied(members):
    one, other = results_of(members)[:2]
    return members | {other: members[one]}


def replaced(data):
    return lambda members: members | {results_of(members)[0]: data}


def of_first(**record):
    def change(members):
        name = results_of(members)[0]
        return members | {name: artifact("result-" + name[-44:-12], **record)}

    return change


def said(text):
    return lambda members: members | {"experiment.yaml": text if isinstance(text, bytes) else text.encode()}


def cells_as(data):
    return lambda members: members | {"cells.json": data}


def without(name):
    return lambda members: {key: data for key, data in members.items() if key != name}


NAMES = {
    "an absolute path": added("store//tmp/evil/x.safetensors"),
    "a way up": added("store/../../evil.safetensors"),
    "a way up inside": added(f"store/result/../result/{ZERO}.safetensors"),
    "a claim": added(f"store/claims/training-{ZERO}.safetensors"),
    "a damaged one": added(f"store/damaged/{ZERO}.safetensors"),
    "a checkpoint": added(f"store/checkpoints/{ZERO}.ckpt"),
    "a note": added(f"store/runs/{ZERO}"),
    "a failure": added(f"store/failures/result-{ZERO}.json"),
    "another folder": added(f"store/result/ab/{ZERO}.safetensors"),
    "no folder": added(f"store/result/{ZERO}.safetensors"),
    "capitals": added("store/result/AA/" + "A" * 32 + ".safetensors"),
    "other digits": added("store/result/٠٠/" + "٠" * 32 + ".safetensors"),
    "a short key": added("store/result/00/00.safetensors"),
    "another kind": added(f"store/secret/00/{ZERO}.safetensors"),
    "a line more": added(NAME + "\n"),
    "a backslash": added(NAME.replace("/", "\\")),
    "a file beside": added("../evil"),
    "an outbox": added(f"wandb/outbox/{ZERO}.json", b"{}"),
    "a status": added("status/x.json", b"{}"),
    "a folder": added("store/result/", b""),
}
CONTENTS = {
    "two swapped": swapped,
    "one copied": copied,
    "no key": replaced(encode(Artifact({"cell": {}}))),
    "nothing": replaced(b""),
    "a header of 2**60 bytes": replaced(struct.pack("<Q", 1 << 60) + b"{}"),
    "a deep header": replaced(struct.pack("<Q", len(DEEP)) + DEEP),
    "an empty record": of_first(),
    "metrics of words": of_first(cell={}, status="done", metrics="x", curves=[], layers=[], made_by={}),
    "a list of metrics": of_first(cell=[], status=1, metrics=[], curves={}, layers=0, made_by=None),
}
CELLS = {
    "no cells": without("cells.json"),
    "no JSON": cells_as(b"{"),
    "deep JSON": cells_as(DEEP),
    "no UTF-8": cells_as(b'{"store": "\xff", "rows": []}'),
    "a list": cells_as(b"[]"),
    "rows of a mapping": cells_as(b'{"store": "", "rows": {}}'),
    "a row of words": cells_as(b'{"store": "", "rows": ["x"]}'),
    "a row without a key": lambda m: with_cells(m, lambda said: said["rows"][0].pop("key") and None),
    "a row without a cell": lambda m: with_cells(m, lambda said: said["rows"][0].pop("cell") and None),
    "a key of a number": lambda m: with_row(m, key=7),
    "a key that leads up": lambda m: with_row(m, key="result-../../../../etc/passwd"),
    "a ticket that leads up": lambda m: with_row(m, ticket="ticket-/etc"),
    "a cell of words": lambda m: with_row(m, cell="snip"),
    "a reason of a list": lambda m: with_row(m, reason=[1]),
    "a density of words": lambda m: with_cell(m, density="0.1"),
    "a density below 0": lambda m: with_cell(m, density=-0.1),
    "a density of nan": lambda m: with_cell(m, density=float("nan")),
    "a density of a list": lambda m: with_cell(m, density=[0.1]),
    "a seed of true": lambda m: with_cell(m, seed=True),
    "a seed of 1e400": lambda m: with_cell(m, seed=float("inf")),
    "a method of two lines": lambda m: with_cell(m, method="a\n# b"),
    "a method that turns a terminal": lambda m: with_cell(m, method="\x1b]0;x\x07"),
    "half a letter": lambda m: with_cell(m, method="\ud800"),
    "no method": lambda m: with_cell(m, method=None),
    "a key more": lambda m: with_cells(m, lambda said: said.update(extra=1)),
    "a store of a number": lambda m: with_cells(m, lambda said: said.update(store=1)),
    "another cell than the artifact's": lambda m: with_cell(m, seed=77),
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
YAMLS = {
    "an environment variable": "name: x\nmethods: {snip: {}}\nwandb: {project: '${oc.env:MY_SECRET}'}",
    "a decoded variable": "name: x\nmethods: {snip: {}}\nwandb: {entity: '${oc.decode:${oc.env:MY_SECRET}}'}",
    "a variable in a key": "name: x\nmethods: {'${oc.env:MY_SECRET}': {}}",
    "a variable in a list": "name: x\nmethods: {snip: {}}\nvariants: ['${oc.env:MY_SECRET}']",
    "another key's value": "name: x\nmethods: {snip: {}}\noutput: '${name}'",
    "a node that is made": "name: x\nmethods: {snip: {}}\nseeds: '${oc.create:[0]}'",
    "a bomb": BOMB,
    "an anchor": "name: &x y\nmethods: {snip: {}}",
    "deep": "a: " + "[" * 20_000,
    "deep and closed": "a: " + "[" * 3000 + "]" * 3000,
    "large": "name: x\n# " + "x" * 2_000_000,
    "nothing": "",
    "a list": "[1, 2]",
    "a word": "word",
    "a number": "7",
    "no YAML": "a: [",
    "tabs": "a:\n\t- b",
    "bytes": b"\x00\xff\xfe",
    "latin": "name: é".encode("latin-1"),
    "a python object": "name: !!python/object/apply:os.system ['true']",
    "a date": "name: 2020-01-01",
    "two documents": "name: x\n---\nname: y",
    "dots": "name: ..\nmethods: {snip: {}}",
    "a path": "name: ../../x\nmethods: {snip: {}}",
    "an unknown key": "name: x\nmethods: {snip: {}}\nshell: true",
    "methods of a number": "name: x\nmethods: 7",
    "densities that overflow": "name: x\nmethods: {snip: {}}\ndensities: {base: 10.0, powers: [1000000]}",
    "densities of nothing": "name: x\nmethods: {snip: {}}\ndensities: {base: 0.0, powers: [-1]}",
    "complex densities": "name: x\nmethods: {snip: {}}\ndensities: {base: -0.5, powers: [0.5]}",
    "half a letter": 'name: x\nmethods: {"\\uD800": {}}',
    "a missing value": "name: x\nmethods: {snip: {}}\noutput: ???",
}
SNAPSHOT = {
    "began": 1.0, "updated": 2.0, "cells": 3, "cells_done": 1, "cells_failed": 0, "counts": [], "running": [],
    "failed": [], "stages_per_minute": 1.0, "seconds_left": None,
}  # fmt: skip
PROCESS = {"host": "elsewhere", "pid": 1, "began": 0.0}
FILES = {
    "status of a list": ("status/x.json", []),
    "status without a process": ("status/x.json", {"snapshot": SNAPSHOT}),
    "status without a snapshot": ("status/x.json", {"process": PROCESS}),
    "status of an older version": ("status/x.json", {"process": PROCESS, "snapshot": {"began": 1.0}}),
    "status of a newer version": ("status/x.json", {"process": PROCESS, "snapshot": SNAPSHOT | {"more": 1}}),
    "status of endless time": (
        "status/x.json",
        {"process": PROCESS, "snapshot": SNAPSHOT | {"seconds_left": float("inf")}},
    ),
    "status of an odd process": (
        "status/x.json",
        {"process": PROCESS | {"pid": "x"}, "snapshot": SNAPSHOT},
    ),
    "status with markup": (
        "status/x.json",
        {"process": PROCESS, "snapshot": SNAPSHOT | {"failed": [["[/b]", "[/usr/lib] \ud800"]]}},
    ),
    "deep status": ("status/x.json", DEEP),
    "history of a mapping": ("history.json", {"when": 1}),
    "history of numbers": ("history.json", [1, 2]),
    "history of an older version": ("history.json", [{"when": "x", "command": "y"}]),
    "deep history": ("history.json", DEEP),
    "costs of a list": ("costs.json", [1]),
    "costs of words": ("costs.json", {"cpu": "x"}),
    "costs below 0": ("costs.json", {"cpu": {"": -1}}),
    "costs of words inside": ("costs.json", {"cpu": {"": "x", "ranking snip": None}}),
    "deep costs": ("costs.json", DEEP),
    "pages of a list": ("wandb/pages.json", [1]),
    "an odd name in the outbox": ("wandb/outbox/x.json.y", {}),
}


def write_file(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def forget(folder):
    """A store of the format before keys were in records."""
    store = Store(folder / "store")
    for name in list(store.files.names()):
        if name.endswith(".safetensors"):
            kind, _, digits = name.removesuffix(".safetensors").split("/")
            store.files.write(name, encode(store.read(f"{kind}-{digits}")))
