"""The process that sends cells to W&B: it empties the outbox of :mod:`prune_bench.tracking`, whole runs one by one.

Several may share an outbox: each takes a cell by renaming its file, which only one of them can.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from prune_bench.identity import identity, is_alive

_FOREIGN_SECONDS = 600.0


def sent_mark(mode: str, entity: str | None, project: str) -> str:
    """What marks a cell as sent: the mode, and online also where to, for the same run may go to two projects."""
    return mode if mode != "online" else f"online-{zlib.crc32(f'{entity or str()}/{project}'.encode()):08x}"


def main() -> None:
    """The mirror process: empties the outbox until it is told to end, or until the sweep is gone."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "mode", "project", "--entity", "--patience"):
        parser.add_argument(name)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, folder = os.getppid(), Path(args.folder)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    ending = threading.Event()
    threading.Thread(target=_await_end, args=(ending,), daemon=True).start()
    (folder / "sent").mkdir(parents=True, exist_ok=True)
    refused: set[str] = set()  # not tried again before the next sweep
    while True:
        over = ending.is_set()
        for file in sorted((folder / "outbox").glob("*.json*")):
            _send(file, refused, args, folder)
        if over:
            return
        time.sleep(0.1)


def _await_end(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


def _send(file: Path, refused: set[str], args: argparse.Namespace, folder: Path) -> None:
    """Sends a cell of the outbox, under a name that says who does, unless somebody else is at it."""
    key = file.name.partition(".")[0]
    if key in refused or is_taken(file):
        return
    mine = file.with_name(f"{key}.json.{_mark()}")
    with contextlib.suppress(FileNotFoundError):  # another mirror was quicker
        file.rename(mine)
        os.utime(mine)
        try:
            _write({"job_type": "cell", **json.loads(mine.read_text())}, args, folder)
            mine.replace(folder / "sent" / f"{key}.{sent_mark(args.mode, args.entity, args.project)}")
        except Exception as error:  # one run W&B will not take must not hold back the others
            print(f"{key}: {type(error).__name__}: {error}", flush=True)
            refused.add(key)
            mine.replace(file.with_name(f"{key}.json"))


def _mark() -> str:
    me = identity()
    return f"{zlib.crc32(me['host'].encode()):08x}_{me['pid']}_{me['began']}"


def is_taken(file: Path) -> bool:
    """Whether a living mirror sends this cell now; one on another machine is given some minutes."""
    owner = file.name.partition(".json")[2].lstrip(".")
    if not owner:
        return False
    machine, _, process = owner.partition("_")
    if machine == _mark().split("_")[0]:
        pid, _, began = process.partition("_")
        return is_alive({"pid": pid, "began": began})
    try:
        return time.time() - file.stat().st_mtime < _FOREIGN_SECONDS
    except FileNotFoundError:
        return True


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(run: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    import wandb

    from prune_bench.wandb_cell import lean_settings, write_cell

    with wandb.init(
        id=run["key"], name=run["name"], group=run["group"], job_type=run["job_type"], tags=run["tags"],
        config=run["config"],
        project=args.project, entity=args.entity or None, dir=folder, mode=args.mode, reinit="create_new",
        resume="allow" if args.mode == "online" else None, settings=lean_settings(float(args.patience)),
    ) as out:  # fmt: skip
        write_cell(out, run)


if __name__ == "__main__":
    main()
