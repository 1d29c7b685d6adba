"""The study of the dry atmosphere runs whole, in small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("dinosaur")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def test_the_smoke_preset_runs_whole_and_filtering_does_not_see_the_future(tmp_path):
    import numpy as np

    from hpcinv.io.analysis import open_analysis

    def run(file="", *more):
        done = subprocess.run(
            [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "weather" / file, "--preset",
             "smoke", "--runs", tmp_path, *more],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def filtered():
        with open_analysis(tmp_path / "weather" / "filtering") as a:
            return a.ensemble()

    run()
    card = json.loads((tmp_path / "weather" / "evaluate" / "scores.json").read_text())
    score = {n: e["pooled"]["crps"]["value"] for n, e in card["methods"].items()}
    # Little is learnt in a second, but interpolation beats knowing nothing of these days.
    assert score["oi-localised"] < score["climatology"]
    # Twenty soundings of seven numbers each, which no method was shown, judge all of them.
    rows = card["withheld"]["methods"]
    assert card["withheld"]["count"] == 16 * 20 * 7 and set(rows) == set(card["methods"])
    crps = {n: e["pooled"]["crps"]["value"] for n, e in rows.items()}
    assert crps["oi-localised"] < crps["climatology"]
    # The model's own states are nearer to geostrophy than their winds are strong.
    checks = card["methods"]["letkf"]["checks"]
    level = "at sigma 0.25"
    off, wind = checks[f"geostrophic imbalance {level}"], checks[f"wind {level}"]
    assert off["truth"] < 0.6 * wind["truth"] and off["members"] > 0
    twin = json.loads((tmp_path / "weather" / "evaluate-twin" / "scores.json").read_text())
    assert set(twin["methods"]) == {"reanalysis-twin", "letkf-twin", "climatology-twin"}
    found = json.loads((tmp_path / "weather" / "map" / "map.json").read_text())
    assert len(found["cells"]) == 4
    assert (tmp_path / "weather" / "report" / "report.html").exists()
    before = filtered()
    # No station reports from the eighth frame on: the filter's first eight stay, bit by bit.
    run("2_observe.yaml", "--fresh", "observing.gaps=[[8,16]]")
    run("6_filtering.yaml", "--fresh")
    after = filtered()
    assert np.array_equal(before[:, :8], after[:, :8])
    assert not np.array_equal(before[:, 8:], after[:, 8:])
    # Ten windows and more on one, two and four ranks: the same bits. 32 frames, windows of three.
    # Other jobs of the study have other frames: these few are a study of their own.
    source, study = ROOT / "jobs" / "weather", tmp_path / "long" / "weather"
    (study / "presets").mkdir(parents=True)
    some = ("1_simulate", "2_observe", "3_train-autoencoder", "4_encode", "5_train-diffusion",
            "6_reanalysis")  # fmt: skip
    for name in (*(f"{n}.yaml" for n in some), "stations.csv"):
        shutil.copy(source / name, study)
    preset = yaml.safe_load((source / "presets" / "smoke.yaml").read_text())
    kept = {n.partition("_")[2] for n in some}
    preset = {k: v for k, v in preset.items() if k in kept}
    (study / "presets" / "smoke.yaml").write_text(yaml.safe_dump(preset))
    longer = {"observe.frames": "[128,160]", "reanalysis.frames": "[128,160]",
              "reanalysis.members": 1, "reanalysis.window": 3, "reanalysis.overlap": 2,
              "reanalysis.reproducible": "true"}  # fmt: skip
    shutil.rmtree(tmp_path / "weather" / "observe")
    bits = []
    for ranks in (1, 2, 4):
        shutil.rmtree(tmp_path / "weather" / "reanalysis")
        run(study, *(f"{k}={v}" for k, v in longer.items()), "--ranks", str(ranks))
        with open_analysis(tmp_path / "weather" / "reanalysis") as a:
            bits.append(a.ensemble())
    assert bits[0].shape[1] == 32 and np.array_equal(bits[0], bits[1])
    assert np.array_equal(bits[0], bits[2])
