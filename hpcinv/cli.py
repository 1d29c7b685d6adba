r"""The command `hpcinv`. Its verbs and options are public; heavy imports stay inside the verbs."""

from __future__ import annotations

__all__ = ["app", "main"]

import errno
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from .errors import EXIT_BAD_INPUT, EXIT_STOPPED, BadInput

app = typer.Typer(
    help="Invert observations with deep generative priors, as batch jobs on Slurm clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PathArg = Annotated[Path, typer.Argument(metavar="PATH", help="A job file or a study folder.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer reads it so)
    typer.Argument(metavar="[key=value ...]", help="Fields; of a study: job.key=value."),
]
Preset = Annotated[str, typer.Option(metavar="NAME", help="presets/NAME.yaml of the study.")]
Cluster = Annotated[str, typer.Option(metavar="NAME", help="Cluster profile, or its YAML file.")]
Runs = Annotated[
    Path, typer.Option(metavar="DIR", help="Run folders. Default: $HPCINV_RUNS, else ./runs.")
]
Task = Annotated[
    Optional[str],  # noqa: UP045 (typer reads it so)
    typer.Argument(metavar="[STUDY[/JOB[/TASK]]]", help="Default: everything."),
]
Which = Annotated[str, typer.Argument(metavar="[STUDY[/JOB]]", help="Default: everything.")]

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # folders of others, disks that are read only
FULL = (errno.ENOSPC, errno.EDQUOT)  # told of no file: writing fails, not opening


def _runs(given: Path | None) -> Path:
    return (given or Path(os.environ.get("HPCINV_RUNS", "runs"))).expanduser().resolve()


@app.command()
def run(
    path: PathArg,
    overrides: Overrides = None,
    preset: Preset = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="MPI ranks, instead of the job files'; of a study, trainings keep theirs.",
        ),
    ] = None,
    launcher: Annotated[
        str, typer.Option(metavar="auto|none", help="none: this process is the job's rank.")
    ] = "auto",
    runs: Runs = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier runs aside.")] = False,
) -> None:
    """Run a job or a study here, without Slurm."""
    from .parallel import launched

    if launcher not in ("auto", "none"):
        raise BadInput(f"unknown launcher '{launcher}'", "--launcher", "Write auto or none.")
    if path.name == "job.yaml" and path.is_file() and _resolved(path):
        from .kinds.execute import execute

        if overrides or preset or fresh:
            raise BadInput("a resolved job file takes no overrides, preset or --fresh", path)
        raise typer.Exit(execute(path, ranks))
    from .kinds.study import load

    study = load(path, preset, overrides or [])
    if launcher == "none" or launched().size > 1:
        raise typer.Exit(_as_rank(study, _runs(runs), ranks, fresh))
    from .launch.run_here import run_here

    raise typer.Exit(run_here(study, _runs(runs), ranks, fresh))


def _resolved(path: Path) -> bool:
    """Whether a job file is that of a run folder, made by a command or by hand."""
    with open(path) as f:
        return ", resolved from " in f.readline()


def _as_rank(study, runs: Path, ranks: int | None, fresh: bool) -> int:
    """The jobs of a study in this very world: rank 0 prepares, all run."""
    import time

    from .kinds.execute import execute
    from .kinds.prepare import place, prepare
    from .parallel import launched

    launch = launched()
    if len(study.wanted) != 1:
        raise BadInput("one job at a time can be a rank", study.folder, "Give a job file.")
    (name,) = study.wanted
    study.check()
    job = place(study, runs, name).path / "job.yaml"
    if launch.rank == 0:
        study.jobs[name].fetch()
        prepare(study, runs, name, fresh)
    else:
        until = time.monotonic() + 60
        text = study.resolved(name)
        while not job.exists() or job.read_text() != text:
            if time.monotonic() > until:
                raise BadInput("rank 0 did not prepare the run folder within 60 s", job)
            time.sleep(0.1)
    return execute(job, ranks)


@app.command()
def submit(
    path: PathArg,
    overrides: Overrides = None,
    preset: Preset = None,
    cluster: Cluster = None,
    runs: Runs = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the jobs until they end.")] = False,
) -> None:
    """Submit a job or a study to Slurm."""
    from .kinds.study import load
    from .launch.profile import load_profile
    from .launch.submit import submit_study
    from .launch.wait import wait as wait_for

    study = load(path, preset, overrides or [])
    delivery = submit_study(study, _runs(runs), load_profile(cluster), cluster)
    if wait:
        raise typer.Exit(wait_for(delivery, _runs(runs)))
    if delivery.left:
        print("The site takes no more now: the same command sends the rest, --wait by itself.")
    print(f"To follow: hpcinv status {study.name}")


@app.command()
def plan(
    path: PathArg,
    overrides: Overrides = None,
    preset: Preset = None,
    cluster: Cluster = None,
    runs: Runs = None,
    sbatch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the scripts `submit` would send.")
    ] = None,
) -> None:
    """Show what would run and what it asks for; run nothing."""
    from rich.console import Console

    from .kinds.study import load
    from .launch.estimate import estimate_table, estimates
    from .launch.plan import plan_table
    from .launch.profile import load_profile
    from .launch.sampling import sampling_table, samplings

    study = load(path, preset, overrides or [])
    study.check()
    profile = load_profile(cluster)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(plan_table(study, _runs(runs), profile))
    trainings, unknown = estimates(study, _runs(runs))
    if trainings:
        console.print(estimate_table(trainings, profile))
    if analyses := samplings(study, _runs(runs), trainings):
        console.print(sampling_table(analyses, profile))
    if note := profile.misplaced(_runs(runs)):
        print(note)
    if unknown:
        print(f"what {', '.join(unknown)} will hold is known once the data are there")
    if sbatch is not None:
        from .launch.by_hand import write_scripts

        for script in write_scripts(study, _runs(runs), profile, sbatch):
            print(script)
        print(f"to send them: bash {shlex.quote(str(sbatch / 'submit.sh'))}")


@app.command()
def status(
    which: Which = None,
    runs: Runs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show what runs, waits, failed: progress, time left, reasons."""
    from .launch.status import collect

    rows = collect(_runs(runs), which)
    if as_json:
        print(json.dumps([r.as_json() for r in rows], indent=1))
        return
    from rich.console import Console

    from .launch.show import status_table

    Console(width=None if sys.stdout.isatty() else 160).print(status_table(rows))


@app.command()
def why(
    which: Task = None,
    runs: Runs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say why a job failed or waits: the cause, the line of the log, what to do."""
    from .launch.why import why as find

    found = find(_runs(runs), which)
    if as_json:
        print(json.dumps([x.as_json() for x in found], indent=1))
        return
    print("\n".join(line for x in found for line in x.lines()) or "everything is well")


@app.command()
def retry(
    which: Annotated[str, typer.Argument(metavar="STUDY[/JOB[/TASK]]")],
    runs: Runs = None,
    mem: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of one rank, e.g. 60GB.")
    ] = None,
    time: Annotated[str | None, typer.Option(metavar="TIME", help="Time limit, e.g. 2h.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Send only what failed, and what hangs on it, again: from the last checkpoints."""
    from contextlib import redirect_stdout

    from .launch.retry import retry as send

    changes = {"mem_per_task": mem, "time": time}
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        delivery = send(_runs(runs), which, **{k: v for k, v in changes.items() if v is not None})
    if as_json:
        print(json.dumps([{"job": f.name, **f.submission()} for f in delivery.folders], indent=1))


@app.command()
def cancel(
    which: Which,
    runs: Runs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Cancel what waits or runs."""
    from .launch.retry import cancel_jobs

    said = cancel_jobs(_runs(runs), which)
    print(json.dumps(said, indent=1) if as_json else "\n".join(said) or "nothing to cancel")


@app.command()
def schema(
    kind: Annotated[
        Optional[str],  # noqa: UP045 (typer reads it so)
        typer.Argument(metavar="[KIND]", help="E.g. assimilate; none: list them."),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="For people, a line a field.")] = False,
) -> None:
    """Print the JSON Schema of a kind of job, or its fields as a table."""
    from rich.console import Console

    from .errors import nearest
    from .kinds import KINDS
    from .kinds import kind as kind_of
    from .launch.fields import field_table, kind_table

    if kind is None:
        words = {name: (kind_of(name).__doc__ or "").split("\n\n")[0] for name in KINDS}
        Console().print(kind_table({k: " ".join(w.split()) for k, w in words.items()}))
        return
    if kind not in KINDS:
        raise BadInput(f"unknown kind '{kind}'", None, nearest(kind, KINDS))
    schema = kind_of(kind).model_json_schema()
    if table:
        Console().print(field_table(schema))
    else:
        print(json.dumps(schema, indent=1))


@app.command()
def selftest(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer reads it so)
        typer.Argument(metavar="[ERS PEM ERP REP NODEFAIL]", help="Default: all."),
    ] = None,
    runs: Runs = None,
) -> None:
    """Prove that this machine's ranks resume and agree to the bit; in a Slurm allocation, its."""
    from .launch.selftest import selftest as prove

    raise typer.Exit(prove(names or [], _runs(runs)))


def main() -> int:
    """Entry point; returns the exit code."""
    from .parallel import leave_mpi_alone

    leave_mpi_alone()
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BadInput as e:
        print(f"hpcinv: {e}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except Exception as e:
        if isinstance(e, typer.Exit):
            return e.exit_code
        if hasattr(e, "show"):  # a usage error; typer carries its own click, or needs that of PyPI
            e.show()
            return EXIT_BAD_INPUT
        if isinstance(e, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        todo = None
        if isinstance(e, OSError) and e.errno in FULL:
            todo = "Make room, or write elsewhere."
        elif isinstance(e, OSError) and e.errno in CLOSED and e.filename:
            todo = "Give --runs DIR where you may write."
        if todo:
            print(f"hpcinv: {BadInput(e.strerror, e.filename, todo)}", file=sys.stderr)
            return EXIT_BAD_INPUT
        raise
