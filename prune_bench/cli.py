"""The command line: words in, calls, words out."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.stopping import stop_signal, stopping_tidily
from prune_bench.untrusted import printable, say, without_user


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words after ``prune-bench``; those of the process if None.

    Returns:
        0 if all is well, 1 if some cells failed, 2 if the request was wrong and nothing was run, 130 after Ctrl-C,
        128 + n after signal n (:mod:`prune_bench.stopping`).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no name may be too odd to be printed
    console = Console(width=None if sys.stdout.isatty() else 140)
    args = _parse(arguments)
    with stopping_tidily():
        try:
            code = int(args.command(args, console) or 0)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _say_stopped()
        except (PruneBenchError, OSError) as error:
            # A closed terminal fails the clean-up's last words too.
            return _say_error(error) if stop_signal() is None else _say_stopped()


def _say_error(error: Exception) -> int:
    """Says what is wrong in one line; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        # Whoever reads, as in `| head`, has enough; what Python flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    print(f"prune-bench: {printable(without_user(str(error)))}", file=sys.stderr)
    return 2


def _say_stopped() -> int:
    """Says how to go on, if anybody can still read it; returns the exit status."""
    number = stop_signal()
    by = f" by {signal.Signals(number).name}" if number else ""
    with contextlib.suppress(OSError):
        print(
            f"\nprune-bench: stopped{by}; what is finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
    return 128 + (number or signal.SIGINT)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse stops taking key=value words at the first flag among them.
    if not hasattr(args, "overrides") or any(word.startswith("-") for word in rest):
        return parser.parse_args(arguments)
    args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prune-bench", description="Compare pruning methods on equal terms.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sweep = commands.add_parser("sweep", help="run an experiment file and print its table")
    sweep.add_argument("experiment", help="an experiment file, for example experiments/smoke.yaml")
    sweep.add_argument("--executor", choices=["inline", "processes", "ray"], help="the same as executor=...")
    sweep.add_argument("--address", help="of a Ray cluster: auto or host:port, the same as devices.address=...")
    sweep.add_argument("--dry-run", action="store_true", help="say what would run and what it would cost, and stop")
    sweep.add_argument("--retry-failed", action="store_true", help="try stages again that failed before")
    sweep.add_argument("--fast", action="store_true", help="the same experiment at toy size, in under a minute")
    sweep.set_defaults(command=_sweep)
    run = commands.add_parser("run", help="run one cell: [FILE] method=cts_kl density=0.02 seed=0")
    run.set_defaults(command=_run)
    agents = commands.add_parser("wandb-sweep", help="register an experiment file as a grid for W&B agents")
    agents.add_argument("experiment", help="an experiment file, as the agents find it")
    agents.add_argument("--print", action="store_true", help="print the sweep's YAML and register nothing")
    agents.set_defaults(command=_wandb_sweep)
    doctor = commands.add_parser(
        "doctor",
        help="look at this machine before a sweep: [FILE] store=/scratch/run",
        epilog="example: prune-bench doctor experiments/smoke.yaml devices.count=2 --json doctor.json",
    )
    doctor.add_argument(
        "overrides", nargs="*", metavar="FILE|key=value", help="an experiment, and what is laid over it"
    )
    doctor.add_argument("--json", type=Path, metavar="PATH", help="write what was found there as data too")
    doctor.set_defaults(command=_doctor)
    for command in (sweep, run, agents):
        command.add_argument("overrides", nargs="*", metavar="key=value", help="laid over the experiment's keys")
    words = {
        "report": (_report, "compare what is in a run, or in several: table, page, figures"),
        "compare": (_compare, "lay a run beside the published accuracies"),
        "status": (_status, "how the sweeps on a run are doing, from another terminal"),
        "sync": (_sync, "send a run to Weights & Biases"),
        "clean": (_clean, "remove from a run's store what no result needs"),
        "export": (_export, "pack a run into one zip file"),
        "import": (_import, "lay an exported run into this one"),
    }
    made = {name: commands.add_parser(name, help=text) for name, (_, text) in words.items()}
    for name, command in made.items():
        if name == "import":
            command.add_argument("archive", help="a zip file of prune-bench export")
        several: dict[str, Any] = {"nargs": "+"} if name == "report" else {}
        command.add_argument("run", help="the run's folder, for example runs/smoke", **several)
        command.set_defaults(command=words[name][0])
    made["report"].add_argument("--format", choices=["table", "csv", "json", "md", "latex"], help="print this alone")
    made["report"].add_argument("--latex", action="store_true", help="write table.tex too")
    made["report"].add_argument("--wandb", metavar="ENTITY/PROJECT", help="make a workspace and a report there too")
    made["report"].add_argument("--output", help="the folder to write to; the first run's if it is left out")
    made["compare"].add_argument("--format", choices=["table", "csv", "json", "md"], default="table")
    made["status"].add_argument("--watch", action="store_true", help="every second, until the sweep ends")
    made["status"].add_argument("--json", action="store_true", help="as data")
    made["sync"].add_argument("--all", action="store_true", help="send every cell again, whatever was sent before")
    made["clean"].add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    made["clean"].add_argument("--yes", action="store_true", help="remove results that no run names, without asking")
    made["export"].add_argument("archive", help="the zip file to write")
    for name, text in (("methods", "pruning methods"), ("models", "networks"), ("datasets", "data sets")):
        command = commands.add_parser(name, help=f"list the {text} with options, defaults and sources")
        command.set_defaults(command=_list, what=name)
    return parser


def _sweep(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.config import load_experiment
    from prune_bench.sweep.finished import close_sweep, find_finished, show_page
    from prune_bench.tracking import Mirror

    flags = {"executor": args.executor, "devices.address": args.address}
    words = [*args.overrides, *(f"{key}={value}" for key, value in flags.items() if value)]
    experiment = load_experiment(args.experiment, words)
    if not args.fast and not args.dry_run:
        results = find_finished(experiment, lambda words: say(console, words, "yellow"))
        if results is not None:
            close_sweep(experiment, results, list(results.key), Mirror(experiment.wandb, experiment.folder), console)
            show_page(experiment.folder, results, console)
            return 0
    # Imported only now: torch takes seconds, and a finished run needs none.
    from prune_bench.sweep.sweep import run_sweep
    from prune_bench.sweep.toy import toy_size

    experiment = toy_size(experiment) if args.fast else experiment
    return run_sweep(experiment, console, dry_run=args.dry_run, retry_failed=args.retry_failed)


def _run(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.config import make_experiment
    from prune_bench.sweep.sweep import run_sweep

    if any("=" not in word for word in args.overrides):
        return _run_of_file(args, console)
    plural = {"method": "methods", "density": "densities", "variant": "variants", "seed": "seeds"}
    words = [re.sub(r"^(method|density|variant|seed)(?==)", lambda key: plural[key[0]], w) for w in args.overrides]
    if not any(word.startswith("methods") for word in words):
        raise ConfigError("method", None, "is missing: say which, for example method=cts_kl; see prune-bench methods")
    # A method must be named before options are laid over it.
    words.sort(key=lambda word: not word.startswith("methods="))
    return run_sweep(make_experiment({"name": "single"}, words), console)


def _run_of_file(args: argparse.Namespace, console: Console) -> int:
    """Cells of an experiment file, into its store and its folder."""
    from prune_bench.sweep.cells import choose
    from prune_bench.sweep.sweep import run_sweep
    from prune_bench.wandb_sweep import is_agents, run_for_agent

    file, *more = [word for word in args.overrides if "=" not in word]
    if more:
        raise ConfigError("override", more[0], "is not of the form key=value, and one experiment file is enough")
    experiment, choices, _ = _choices(file, [word for word in args.overrides if word != file])
    cells = choose(experiment, choices)
    if is_agents() and len(cells) == 1:
        return run_for_agent(experiment, cells[0], console)
    return run_sweep(experiment, console, only=cells)


def _doctor(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.doctor import run_doctor
    from prune_bench.doctor.visit import choose_experiment

    words = [word for word in args.overrides if "=" in word]
    files = [word for word in args.overrides if "=" not in word]
    if len(files) > 1:
        raise ConfigError("override", files[1], "is not of the form key=value, and one experiment file is enough")
    return run_doctor(choose_experiment(files[0] if files else None, words), console, args.json)


def _wandb_sweep(args: argparse.Namespace, console: Console) -> None:
    from omegaconf import OmegaConf

    from prune_bench.sweep.cells import check, choose
    from prune_bench.wandb_sweep import register, sweep_config

    experiment, choices, overrides = _choices(args.experiment, args.overrides)
    check(experiment)
    config = sweep_config(experiment, choose(experiment, choices), args.experiment, overrides)
    if args.print:
        # As it is: "${env}" is the agent's to fill in.
        print(OmegaConf.to_yaml(OmegaConf.create(config)), end="")
    else:
        say(console, f"start agents, one a GPU, where the file is: {register(config)}")


def _choices(file: str, words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """An experiment, the words that choose cells of it, and those that were laid over it."""
    from prune_bench.config import load_experiment
    from prune_bench.sweep.cells import CHOICES

    choices = [word for word in words if word.partition("=")[0] in (*CHOICES, "cell")]
    overrides = [word for word in words if word not in choices]
    return load_experiment(file, overrides), choices, overrides


def _report(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.report.results import load_results
    from prune_bench.report.table import CAPTION, latex_table, markdown_table, rich_table

    if args.format:
        results = load_results(*args.run)
        make: dict[str, Any] = {
            "csv": lambda: results.to_csv(index=False).rstrip(),
            "json": lambda: results.to_json(orient="records", indent=1),
            "md": lambda: markdown_table(results),
            "latex": lambda: latex_table(results),
        }
        console.print(rich_table(results)) if args.format == "table" else print(make[args.format]())
        return 0
    from prune_bench.report.build import make_report, write_page, write_paper
    from prune_bench.wandb_pages import publish

    report, folder = make_report([_path(run) for run in args.run]), _path(args.output or args.run[0])
    console.print(rich_table(report.results))
    console.print(CAPTION, style="dim", highlight=False)
    try:
        written = [*write_paper(report, folder, latex=args.latex), write_page(report, folder)]
    except OSError as error:
        raise PruneBenchError(f"{folder} cannot be written: {error}; name another folder with --output") from None
    for path in written:
        say(console, f"wrote {path}")
    return publish(report, [_path(run) for run in args.run], args.wandb, console) if args.wandb else 0


def _path(word: str) -> Path:
    """A path of the command line; shells leave a ``~`` behind an equals sign as it is."""
    return Path(word).expanduser()


def _compare(args: argparse.Namespace, console: Console) -> None:
    from prune_bench.report.compare import compare_run, markdown_comparison, show_comparison

    if args.format == "table":
        show_comparison(_path(args.run), console)
        return
    table = compare_run(_path(args.run))[0]
    make: dict[str, Any] = {
        "csv": lambda: table.to_csv(index=False).rstrip(),
        "json": lambda: table.to_json(orient="records", indent=1),
        "md": lambda: markdown_comparison(table),
    }
    print(make[args.format]())


def _status(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.sweep.status import show_status

    return show_status(_path(args.run), console, as_json=args.json, watch=args.watch)


def _clean(args: argparse.Namespace, console: Console) -> None:
    from prune_bench.sweep.housekeeping import Swept, clean
    from prune_bench.sweep.sweep import stage_keys

    def confirm(swept: Swept) -> bool:
        if args.yes or not sys.stdin.isatty():
            return bool(args.yes)
        say(console, f"{swept.words()} would be removed, {len(swept.computed)} results and tickets among them")
        return input("They are of no run that is known here. Remove them? [y/N] ").strip().lower() in ("y", "yes")

    folder = _path(args.run)
    needed, unfinished = stage_keys(folder)
    swept = clean(folder, needed, unfinished, dry_run=args.dry_run, confirm=confirm)
    say(console, f"{swept.words()} {'would be removed' if args.dry_run else 'removed'}")
    if swept.computed and args.dry_run:
        say(console, f"{len(swept.computed)} results and tickets that no run names are among them", "yellow")
    if swept.kept_for:
        say(console, f"searches and trainings stay: {swept.kept_for} cells of other experiments have no result yet")


def _export(args: argparse.Namespace, console: Console) -> None:
    from prune_bench.sweep.housekeeping import export_run
    from prune_bench.sweep.sweep import stage_keys

    count = export_run(_path(args.run), _path(args.archive), stage_keys(_path(args.run))[0])
    say(console, f"{count} artifacts of {args.run} are in {args.archive}")


def _import(args: argparse.Namespace, console: Console) -> None:
    from prune_bench.sweep.housekeeping import import_run

    new, cells = import_run(_path(args.archive), _path(args.run))
    say(console, f"{new} artifacts are new; {args.run} has {cells} cells now")


def _sync(args: argparse.Namespace, console: Console) -> int:
    from prune_bench.config import load_experiment
    from prune_bench.sweep.sweep import cell_runs
    from prune_bench.wandb_pages import send

    folder = _path(args.run)
    settings = load_experiment(folder / "experiment.yaml").wandb
    return send(cell_runs(folder), settings, folder, console, again=args.all)


def _list(args: argparse.Namespace, console: Console) -> None:
    from prune_bench.catalogue import catalogue

    for entry in catalogue()[args.what]:
        say(console, f"{entry.name}  {entry.summary}  ({entry.source})", "bold", wrap=True)
        table = Table(box=None, padding=(0, 2), show_header=False)
        for row in entry.options:
            words = ("", row["name"], row["type"], f"default {row['default']}", row["meaning"])
            table.add_row(*(Text(printable(word)) for word in words), style="dim")
        if table.rows:
            console.print(table)


if __name__ == "__main__":
    sys.exit(main())
