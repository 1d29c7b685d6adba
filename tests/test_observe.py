"""`observe` reads a file of a person's own as well as it draws."""

import json
import subprocess
import sys

from tiny_study import make

from hpcinv.observations.table import ObservationTable

ROWS = """variable,value,units,error,time,lat,lon,station
t,7.0,degC,0.5,2002-02-14T00:00,44.0,-89.0,here
t,281.0,K,0.5,2002-03-16T12:00,-74.0,181.0,there
t,281.0,K,0.5,1950-03-16T12:00,-74.0,181.0,old
"""


def test_a_csv_becomes_the_table(tmp_path):
    study = make(tmp_path / "tiny")
    (study / "own.csv").write_text(ROWS)
    (study / "2_observe.yaml").write_text(
        "kind: observe\ndata: import\nframes: [24, 36]\n"
        "observing: {network: table, path: own.csv}\n"
    )
    command = [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "tiny" / "observe"
    log = (folder / "logs" / "attempt-1.log").read_text()
    assert "1 rows left out: too far in time from any frame" in log
    t = ObservationTable.load(folder / "observations.nc")
    assert len(t) == 3 and t.station[t.flag == 12].tolist() == ["old"]
    assert json.loads((folder / "quality.json").read_text())["flags"] == {
        "t": {"used": 2, "too far in time from any frame": 1}
    }
    t = t.used
    # 7 degC is 280.15 K; February 2002 is frame 25 of the store; 44 N 89 W is nearest 45 N 270 E.
    assert t.frame.tolist() == [1, 2] and abs(t.value[0] - 280.15) < 1e-9
    assert t.point.tolist() == [4 * 8 + 6, 0 * 8 + 4]
    before = json.loads((folder / "manifest.json").read_text())["inputs"]["table"]
    (study / "own.csv").write_text(ROWS.replace("7.0", "8.0"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("its inputs have changed") == 3
    assert json.loads((folder / "manifest.json").read_text())["inputs"]["table"] != before


SENSORS = """variable,value,error,time,lat,lon,sensor
t,283.0,0.5,2002-02-14T00:00,44.0,-89.0,old
t,283.2,0.5,2002-03-16T12:00,-74.0,181.0,old
t,282.9,0.5,2002-04-16T12:00,-74.0,181.0,old
t,280.1,0.5,2002-02-14T00:00,15.0,89.0,new
t,279.8,0.5,2002-03-16T12:00,-15.0,45.0,new
"""


def test_a_column_names_the_instrument_whose_bias_is_estimated(tmp_path):
    study = make(tmp_path / "tiny")
    (study / "own.csv").write_text(SENSORS)
    (study / "2_observe.yaml").write_text(
        "kind: observe\ndata: import\nframes: [24, 36]\n"
        "observing: {network: table, path: own.csv, columns: {station: sensor}, units: K}\n"
        "quality: {station_bias: 10, background: 20}\n"
    )
    for name in ("3_oi", "4_evaluate"):
        (study / f"{name}.yaml").unlink()
    command = [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "tiny" / "observe"
    told = json.loads((folder / "quality.json").read_text())["biases"]
    assert [(b["of"], b["variable"], b["units"]) for b in told] == [
        ("new", "t", "K"), ("old", "t", "K")
    ]  # fmt: skip
    old = told[1]
    assert 2 < old["bias"] < 4 and old["deviation"] > 0.2
    log = (folder / "logs" / "attempt-1.log").read_text()
    assert f"bias of old, t: {old['bias']:.3g} ± {old['deviation']:.2g} K, taken off" in log
