"""Code of the user's own is found, or missed, before a job starts, and is not run for it."""

import sys

import pytest

from hpcinv.errors import BadInput
from hpcinv.kinds.study import load
from hpcinv.own_code import look_up

CODE = """
import numpy as np
from math import tau as turn
if np:
    class Pendulum: pass
    LENGTH, (MASS, [DRAG]) = 1, (2, [3])
try:
    import speedups
except ImportError:
    def swing(): pass
def outer():
    inner = 1
raise SystemExit("a module that must not be run here")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    package = tmp_path / "mine_of_test" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "mine_of_test" / "__init__.py").write_text("raise SystemExit('nor this one')")
    (package / "pendulums.py").write_text(CODE)
    (package / "lazy.py").write_text("def __getattr__(name): return 1")
    (package / "stars.py").write_text("from os.path import *")
    (package / "broken.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    return "mine_of_test.deep."


def test_what_a_module_defines_is_found(own):
    names = ("Pendulum", "LENGTH", "MASS", "DRAG", "swing", "outer", "turn", "np", "speedups")
    for name in names:
        look_up(f"{own}pendulums:{name}", "here")
    look_up(f"{own}lazy:anything", "here")
    look_up(f"{own}stars:join", "here")
    look_up("math:sin", "here")  # has no source
    look_up("hpcinv.simulators.lorenz:Lorenz63", "here")
    assert not [m for m in sys.modules if "mine_of_test" in m]  # nothing of it was run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pendulum:Pendulum", "no module 'mine_of_test.deep.pendulum' is found. Put its folder"),
        ("pendulums.more:X", "no module 'mine_of_test.deep.pendulums.more'"),
        ("pendulums:Pendulums", "has no 'Pendulums'. Did you mean 'Pendulum'?"),
        ("pendulums:inner", "has no 'inner'"),  # of a function
        ("broken:X", "cannot be read"),
    ],
)
def test_what_it_does_not_is_told(own, name, said):
    with pytest.raises(BadInput) as told:
        look_up(own + name, "here")
    assert str(told.value).startswith("here: ") and said in str(told.value)


JOBS = {
    "1_simulate": "kind: simulate\nsimulator: MODULE:Swing\nsimulations: 4\n"
    "trajectory: {frames: 9, training: 2}\n",
    "2_observe": "kind: observe\ndata: simulate\nframes: [18, 20]\nobserving: {network: grid, "
    "error: 1, channels: [e], forward: {derived: [{name: e, units: J, of: [x], "
    "operator: 'MODULE:energy'}]}}\n",
    "3_enkf": "kind: assimilate\nmethod: enkf\ndata: simulate\nframes: [18, 20]\n"
    "training: [0, 18]\nobservations: observe\nmembers: 8\nensemble: {forecast: 'MODULE:step'}\n",
}


@pytest.mark.parametrize(
    ("field", "name", "line"),
    [("1_simulate", "Swing", 2), ("2_observe", "energy", 4), ("3_enkf", "step", 8)],
)
def test_a_study_names_the_line(tmp_path, monkeypatch, field, name, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swings_of_test.py").write_text("class Swing: pass\ndef energy(): ...\nstep = 1\n")
    folder = tmp_path / "study"
    folder.mkdir()
    for job, text in JOBS.items():
        (folder / f"{job}.yaml").write_text(text.replace("MODULE", "swings_of_test"))
    load(folder).check()
    path = folder / f"{field}.yaml"
    path.write_text(path.read_text().replace(f"test:{name}", f"test:{name}x"))
    with pytest.raises(BadInput, match=rf"{field}.yaml, line {line}: .*has no '{name}x'"):
        load(folder).check()
