"""The command: its public face, its speed of start, and what it says of mistakes."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from tiny_study import STUDY, make

from hpcinv import cli
from hpcinv.errors import BadInput


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "tiny")


def hpcinv(*args):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True
    )


def test_verbs_and_options_are_frozen():
    import typer.main

    command = typer.main.get_command(cli.app)
    found = {
        name: sorted(
            o for p in verb.params for o in (p.opts if p.param_type_name == "option" else [p.name])
        )
        for name, verb in command.commands.items()
    }
    frozen = {
        "run": "--fresh --launcher --preset --ranks --runs overrides path",
        "submit": "--cluster --preset --runs --wait overrides path",
        "plan": "--cluster --preset --runs --sbatch overrides path",
        "status": "--json --runs which",
        "why": "--json --runs which",
        "retry": "--json --mem --runs --time which",
        "cancel": "--json --runs which",
        "schema": "--table kind",
        "selftest": "--runs names",
    }
    assert {k: " ".join(o for o in v if o != "--help") for k, v in found.items()} == frozen


@pytest.mark.parametrize("args", [["--help"], ["plan", "jobs/winds"]])
def test_help_and_plan_import_nothing_heavy(args):
    code = (
        "import sys; from hpcinv.cli import main; sys.argv = ['hpcinv', *sys.argv[1:]]; main();"
        "bad = {'torch', 'deepspeed', 'matplotlib', 'xarray', 'mpi4py.MPI'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    # Reading netCDF headers needs netCDF4, whose MPI build imports mpi4py.MPI; it starts no MPI.
    assert done.returncode == 0 or done.stderr.strip() == "imported {'mpi4py.MPI'}", done.stderr


@pytest.mark.parametrize(
    "override, said",
    [
        ("import.variabels=1", "unknown key 'variabels'. Did you mean 'variables'?"),
        ("imprt.seed=1", "names no job of this study: 'imprt'. Did you mean 'import'?"),
        ("import.source.path=nowhere.nc", "no such file"),
        ("import.variables={tt: {units: K}}", "field.nc has no variable 'tt'. Did you mean 't'?"),
        ("evaluate.after=[obsrve]", "no job of this study: 'obsrve'. Did you mean 'observe'?"),
        ("observe.after=[oi]", "in a circle: observe -> oi -> observe"),
        ("oi.observations=import", "needs a job that makes observations; 'import' makes a store"),
        ("oi.members=many", "'members': input should be a valid integer"),
        ("oi.members=0", "'members': input should be greater than or equal to 1, not 0"),
        ("oi.frames=[24, 30]", "differ from those of 'observe'"),
        ("oi.method=kriging", "'enks', 'climatology' or 'persistence', not 'kriging'"),
        ("observe.kind=obsreve", "unknown kind 'obsreve'. Did you mean 'observe'?"),
        ("import.resources.time=soon", "'soon' is no duration: write 90s, 30m, 2h or 1d12h"),
        ("import.resources.time=30", "a duration has a unit: write 30s, 30m or 30h, not 30"),
        ("observe", "is no override. Write key=value."),
    ],
)
def test_a_mistake_gets_one_message_and_code_2(study, override, said, tmp_path):
    done = hpcinv("run", study, override, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists(), "nothing may be made before the mistake is found"


def test_more_windows_than_frames(study, tmp_path):
    from hpcinv.kinds.study import load

    (study / "3_oi.yaml").write_text(
        "kind: assimilate\ndata: import\nframes: [24, 36]\nprior: ./prior\nwindow: 13\n"
    )
    (study / "prior").mkdir()
    with pytest.raises(BadInput, match="windows of 13 frames do not fit into 12 frames") as e:
        load(study).check()
    assert "3_oi.yaml, line 5" in str(e.value)


@pytest.mark.parametrize(
    ("points", "error", "line"), [("none", 1, 6), (50, -0.5, 7), (50, "{u: 1, v: -1}", 7)]
)
def test_a_mistake_within_a_union_names_its_own_line(study, points, error, line):
    from hpcinv.kinds.study import load

    (study / "2_observe.yaml").write_text(
        "kind: observe\ndata: import\nframes: [24, 36]\nobserving:\n  network: random_points\n"
        f"  points: {points}\n  error: {error}\n"
    )
    with pytest.raises(BadInput, match="points'" if line == 6 else "is positive") as e:
        load(study)
    assert f"2_observe.yaml, line {line}:" in str(e.value)


def test_windows_that_the_prior_has_not_learnt_are_told_by_the_plan(study):
    from hpcinv.kinds.study import load

    (study / "3_train.yaml").write_text(
        "kind: train\ndata: import\nwindow: 4\nmodel: {name: trajectory_denoiser}\n"
        "training: {steps: 2, batch: 1}\n"
    )
    job = "kind: assimilate\ndata: import\nframes: [24, 36]\nprior: train\noverlap: 2\nwindow: "
    for n, said in [(4, "5 of 4/2"), (6, "3 of 6/2; the prior learns windows of 4")]:
        (study / "4_sample.yaml").write_text(f"{job}{n}\n")
        s = load(study)
        assert s.jobs["sample"].figures(s, "sample")["windows"] == said


def test_yaml_mistakes_name_their_line(study):
    from hpcinv.kinds.study import load

    (study / "2_observe.yaml").write_text("kind: observe\ndata: import\ndata: import\n")
    with pytest.raises(BadInput, match="'data' stands twice") as e:
        load(study)
    assert "lines 2 and 3" in str(e.value)
    (study / "2_observe.yaml").write_text("kind: observe\n  truth: [\n")
    with pytest.raises(BadInput, match="this is no YAML"):
        load(study)


def test_presets_merge_and_lists_replace(study):
    from hpcinv.kinds.study import load

    (study / "presets").mkdir()
    (study / "presets" / "big.yaml").write_text(
        "observe: {observing: {points: 7}}\nevaluate: {analyses: [oi, ./x]}\n"
    )
    s = load(study, "big", ["observe.observing.error=0.5"])
    observing = s.jobs["observe"].observing
    assert (observing.network, observing.points, observing.error) == ("random_points", 7, 0.5)
    assert s.jobs["evaluate"].analyses == ["oi", "./x"]
    with pytest.raises(BadInput, match="Did you mean 'big'"):
        load(study, "bigg")


def test_each_sweeps(study):
    from hpcinv.kinds.study import load

    (study / "2_observe.yaml").write_text(STUDY["2_observe.yaml"] + "each: {seed: [0, 3]}\n")
    s = load(study)
    assert [n for n in s.jobs if n.startswith("observe")] == ["observe-seed0", "observe-seed3"]
    assert s.jobs["observe-seed3"].seed == 3


def test_what_is_swept_alike_follows(study):
    from hpcinv.kinds.study import load

    each = "each: {frames: {early: [0, 4], late: [20, 24]}}\n"
    for name in ("2_observe", "3_oi", "4_evaluate"):
        fields = yaml.safe_load(STUDY[f"{name}.yaml"])
        del fields["frames"]
        (study / f"{name}.yaml").write_text(yaml.safe_dump(fields) + each)
    s = load(study)
    s.check()
    assert s.jobs["oi-late"].frames == (20, 24)
    assert s.jobs["oi-late"].observations == "observe-late"
    assert s.jobs["oi-late"].data == "import"  # made once, read by both
    assert s.jobs["evaluate-early"].analyses == ["oi-early"]
    with pytest.raises(BadInput, match=r"over values with names.*\n?.*early"):
        load(study, overrides=["observe.each=3"])


@pytest.mark.parametrize(
    "args, said", [(["status", "--runs"], "requires an argument"), (["--no"], "No such")]
)
def test_a_mistyped_command_is_no_traceback(args, said):
    done = hpcinv(*args)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_schema_lists_the_fields():
    done = hpcinv("schema", "assimilate")
    fields = json.loads(done.stdout)
    assert fields["properties"]["members"]["default"] == 16
    assert fields["additionalProperties"] is False
    assert hpcinv("schema", "assimilat").returncode == 2
    kinds = hpcinv("schema").stdout
    assert "assimilate  An ensemble of trajectories" in kinds and "simulate" in kinds
    table = hpcinv("schema", "assimilate", "--table").stdout.splitlines()
    row = next(line for line in table if line.startswith("window "))
    assert "integer, default 24: frames of a window" in row
    assert any(line.startswith("guidance.iterations ") for line in table)
    row = next(line for line in table if line.startswith("resources.time "))
    assert "string, default 1h" in row  # a bare number is refused
    table = hpcinv("schema", "observe", "--table").stdout
    assert "observing (stations).places" in table and "observing (orbit)." in table


def test_a_slurm_without_configuration_is_told_at_once(tmp_path):
    """Its commands are here, the cluster is not: nothing will come of waiting."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "squeue", "srun", "sinfo"):
        (tools / name).write_text(
            '#!/bin/sh\necho "fatal: Could not establish a configuration source" >&2\nexit 1\n'
        )
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    env.pop("SLURM_CONF", None)
    study = make(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "submit", str(study), "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True, env=env, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "find no configuration" in done.stderr and "SLURM_CONF" in done.stderr
