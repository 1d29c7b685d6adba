"""What is sent to Slurm: shares of arrays, scripts, limits, and nothing twice. No Slurm here."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.kinds.prepare import input_digests, prepare
from hpcinv.kinds.study import load
from hpcinv.launch import send as sending
from hpcinv.launch.batches import ARRAY, JOIN, Batch, cut, expand, spec
from hpcinv.launch.by_hand import write_scripts
from hpcinv.launch.profile import Profile, load_profile
from hpcinv.launch.script import render, scripts
from hpcinv.launch.slurm import queue
from hpcinv.launch.submission import Submission
from hpcinv.launch.submit import submit_study
from hpcinv.runs.folder import RunFolder


@pytest.mark.parametrize("indices", [[0], [0, 1, 2, 5, 7, 8], [3], list(range(1000))])
def test_slurms_notation_goes_there_and_back(indices):
    assert expand(spec(indices)) == indices
    assert expand(f"[{spec(indices)}%4]") == indices


def test_every_task_is_started_once_however_the_array_is_cut():
    for tasks, pack, most, throttle in (
        (range(10), 1, 1001, None),
        (range(2500), 1, 1001, 7),
        (range(2500), 3, 100, 50),
        ([3, 17, 1000, 1001, 2499], 1, 1001, None),
        (range(300), 1, 100, 2),
    ):
        batches = cut(tasks, pack, most, throttle)
        started = [
            k for b in batches for e in b.elements() for k in range(e * pack, e * pack + pack)
        ]
        assert len(started) == len(set(started)) and set(tasks) <= set(started)
        assert all(i < most for b in batches for i in expand(b.indices))
        if throttle:  # what runs at once: all batches but those that wait for another
            assert sum(b.throttle for b in batches if b.after is None) <= throttle
            assert all(b.throttle == 1 for b in batches if b.after is not None)
    assert [b.option for b in cut(range(10), 1, 1001, 4)] == ["0-9%4"]


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "tiny")


def test_a_hundred_thousand_tasks_are_a_hundred_calls(study, tmp_path):
    over = [
        "oi.members=100000",
        "oi.resources.array={over: members, tasks: 100000, throttle: 400}",
    ]
    s = load(study, None, over)
    batches = scripts(s.jobs["oi"], Profile(name="x", max_array=1001))
    assert [b.step for b in batches] == [ARRAY] * 100 + [JOIN]
    assert sum(b.throttle for b in batches[:-1]) == 400
    s.wanted = ["oi"]
    files = write_scripts(s, tmp_path / "runs", Profile(name="x", max_array=1001), tmp_path / "s")
    assert len(files) == 101
    text = files[99].read_text()
    assert "#SBATCH --array=0-900%4" in text and "$((99099 + SLURM_ARRAY_TASK_ID))" in text


def run_script(text, tmp_path, index, codes):
    """Runs a script with an srun that notes the task and ends with the code meant for it.

    Of a code "-1" the launch fails, which srun calls a success; "-2" fails the first time only;
    "-3" is a step whose ranks have left a node behind, for which srun waits.
    """
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    notes = tmp_path / "notes"
    for name, body in (
        (
            "srun",
            f"""
echo "$HPCINV_TASK" >>{notes}
set -- {codes}
shift $HPCINV_TASK
[ "$1" != -1 ] || exit 0
[ "$1" != -2 ] || [ $(grep -cx "$HPCINV_TASK" {notes}) -gt 1 ] || exit 1
mkdir -p "${{HPCINV_MET%/*}}"; touch "$HPCINV_MET"
[ "$1" != -3 ] || {{ echo 75 >"$HPCINV_MET"; while :; do /bin/sleep 0.1; done; }}
exit ${{1#-2}}""",
        ),
        ("scontrol", f'echo "$@" >>{notes}'),
        ("sleep", "true"),
    ):
        path = tools / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    env = {
        "PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
    }  # fmt: skip
    text = text.replace("export PATH=", "export LOST=")
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True)
    said = notes.read_text().split("\n")[:-1] if notes.exists() else []
    notes.unlink(missing_ok=True)
    return done.returncode, said


def test_packed_tasks_run_in_a_row_and_the_last_block_may_be_short(study, tmp_path):
    s = load(
        study, None, ["oi.members=8", "oi.resources.array={over: members, tasks: 8, pack: 3}"]
    )
    p = Profile(name="x", max_array=1001)
    array, _ = scripts(s.jobs["oi"], p)
    assert array.indices == "0-2"
    text = render("tiny/oi", s.jobs["oi"], p, tmp_path / "oi", array)
    assert run_script(text, tmp_path, 0, "0 0 0 0 0 0 0 0") == (0, ["0", "1", "2"])
    assert run_script(text, tmp_path, 2, "0 0 0 0 0 0 0 0") == (0, ["6", "7"])
    # One that fails does not keep the others from running; one that is stopped does.
    assert run_script(text, tmp_path, 1, "0 0 0 0 1 0 0 0") == (1, ["3", "4", "5"])
    assert run_script(text, tmp_path, 1, "0 0 0 0 75 0 0 0") == (0, ["3", "4", "requeue 7"])
    # A launch that fails is tried again: three times, and its word for success is not taken.
    assert run_script(text, tmp_path, 1, "0 0 0 -2 0 -1 0 0") == (1, ["3", "3", "4", *"555"])
    assert run_script(text, tmp_path, 1, "0 0 0 0 -3 0 0 0") == (0, ["3", "4", "requeue 7"])
    assert not list((tmp_path / "oi" / "logs").iterdir())


def test_text_of_users_reaches_the_shell_quoted_or_not_at_all(study, tmp_path):
    s = load(study)
    evil = tmp_path / "it's $(touch here); `x`"
    p = Profile(name="x", environment={"A": "$(touch here)"}, srun_args=["--label"])
    text = render("tiny/oi", s.jobs["oi"], p, evil)
    body = text[text.index("set -u") :]
    assert "hpcinv run '" in body
    done = subprocess.run(
        ["bash", "-c", "sleep() { :; }; srun() { printf '%s\\n' \"$A\" \"$@\"; }\n" + body],
        env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n"},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert "$(touch here)" in said and str(evil / "job.yaml") in said
    assert not (tmp_path / "here").exists()
    for field in ({"partition": "a b"}, {"qos": "x;y"}, {"environment": {"A B": "1"}},
                  {"environment": {"A": "1\n2"}}, {"sbatch": {"Bad": "1"}},
                  {"staging": {"archive": "/a", "to": "/$(x)"}}, {"setup": ["a\nb"]}):  # fmt: skip
        with pytest.raises(ValueError):
            Profile(**field)


def test_what_a_site_cannot_give_is_known_before_the_queue(study):
    p = load_profile("leonardo")
    for override, said in (
        ("oi.resources={gpus_per_task: 5}", "5 GPUs a node; 'leonardo' gives 4"),
        ("oi.resources={gpus_per_task: 1, time: 2d}", "172800 seconds; 'leonardo' gives 86400"),
        ("oi.resources={tasks_per_node: 15}", "120 cores a node; 'leonardo' gives 112"),
        ("oi.resources={gpus_per_task: 4, mem_per_task: 900GB}", "bytes a node"),
    ):
        with pytest.raises(BadInput, match=said):
            p.check("oi", load(study, None, [override]).jobs["oi"])
    job = load(study, None, ["oi.resources={gpus_per_task: 1, tasks_per_node: 4}"]).jobs["oi"]
    text = render("tiny/oi", job, p, Path("/r"))
    assert "--gres=gpu:4" in text and "--partition=boost_usr_prod" in text


@pytest.mark.parametrize("name", ["jean-zay", "lumi", "leonardo", "perlmutter", "juwels-booster"])
def test_centres_say_where_they_are_from_and_that_they_are_untested(name):
    p = load_profile(name)
    assert p.untested and p.source.startswith("http")


def test_run_folders_that_are_not_on_the_scratch_are_told(study, tmp_path, monkeypatch):
    p = load_profile("leonardo")
    scratch = tmp_path / "scratch"
    monkeypatch.delenv("SCRATCH", raising=False)
    assert p.misplaced(tmp_path) is None  # not known here
    monkeypatch.setenv("SCRATCH", str(scratch))
    assert p.misplaced(scratch / "runs") is None
    assert f"--runs {scratch}/runs" in p.misplaced(tmp_path / "runs")
    with pytest.raises(ValueError):
        Profile(scratch="$(x)")


class Slurm:
    """A Slurm on PATH: sbatch, squeue and scancel as shell scripts over a folder."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self.tool("squeue", f"cat {folder}/queue 2>/dev/null; true")
        self.accepting()

    def tool(self, name, body):
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def accepting(self, then="true", first=""):
        """sbatch puts the job into the queue with its comment; `then` is how it answers."""
        f = self.folder
        self.tool(
            "sbatch",
            f"{first}\necho x >>{f}/calls\nn=$(wc -l <{f}/calls)\n"
            f"for a; do case $a in --comment=*) key=${{a#*=}};; esac; done\n"
            f'echo "$n|PENDING|None||N/A|N/A|$key" >>{f}/queue\n{then}\n'
            'echo "Submitted batch job $n"',
        )

    def listing(self):
        """sbatch writes down what each job waits for; an array has four elements."""
        f = self.folder
        for tool in ("sinfo", "srun"):
            self.tool(tool, "true")
        self.tool("scancel", f'for id; do sed -i "s/^$id|PENDING/$id|CANCELLED/" {f}/queue; done')
        self.tool(
            "sbatch",
            f"touch {f}/queue; n=$(($(wc -l <{f}/queue) + 1)); after=-\n"
            "for a; do case $a in --comment=*) key=${a#*=};; --dep*) after=${a#*=};; esac; done\n"
            f'echo "$n|PENDING|None||N/A|[0-3]|$key" >>{f}/queue\necho "$n $after" >>{f}/sent\n'
            'echo "Submitted batch job $n"',
        )

    @property
    def jobs(self):
        return len((self.folder / "queue").read_text().splitlines())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(sending.time, "sleep", lambda s: None)
    return Slurm(tmp_path / "slurm", monkeypatch)


def test_a_lost_answer_does_not_submit_twice(slurm, tmp_path):
    slurm.accepting(
        'if [ $n = 1 ]; then echo "sbatch: error: Batch job submission failed: '
        'Socket timed out on send/recv operation" >&2; exit 1; fi'
    )
    said = []
    assert sending.send("#!/bin/bash\n", tmp_path, "hpcinv:abc", "", said.append) == "1"
    assert slurm.jobs == 1 and len(said) == 1


def test_a_controller_that_restarts_is_waited_for(slurm, tmp_path):
    f = slurm.folder
    down = (
        f"echo x >>{f}/tries; if [ $(wc -l <{f}/tries) -lt 4 ]; then "
        'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller '
        '(connect failure)" >&2; exit 1; fi'
    )
    slurm.accepting(first=down)
    assert sending.send("#!/bin/bash\n", tmp_path, "hpcinv:abc", "", lambda s: None) == "1"
    assert slurm.jobs == 1 and len((f / "tries").read_text().split()) == 4


def test_a_refusal_is_told_at_once(slurm, tmp_path):
    slurm.tool("sbatch", 'echo "sbatch: error: invalid partition specified: mian" >&2; exit 1')
    with pytest.raises(BadInput, match="Slurm refused the job: invalid partition"):
        sending.send("#!/bin/bash\n", tmp_path, "hpcinv:abc", "", print)


def test_a_command_that_died_before_the_answer_finds_its_job(slurm, tmp_path):
    folder = RunFolder(tmp_path / "s" / "j")
    folder.prepare("kind: import\n", "import")
    sub = Submission(folder)
    heard, never = sub.open(Batch(), 1), sub.open(Batch(), 1)
    (slurm.folder / "queue").write_text(f"12|RUNNING|None|n1|N/A|N/A|{heard.key}\n")
    again = Submission.of(folder)
    again.find_lost(queue())
    assert again.ids == ["12"] and never.key not in [s.key for s in again.sent]
    assert Submission.of(folder).last == "12"


def test_an_array_follows_another_that_is_cut_alike(slurm, study, tmp_path):
    f = slurm.folder
    slurm.listing()
    site = Profile(name="x", max_array=1001)
    over = {job: f"{job}.resources.array={{over: dates, tasks: 4" for job in ("observe", "oi")}
    alike = [f"{over['observe']}}}", f"{over['oi']}}}"]
    quality = "observe.quality={}"  # looks at all rows: only the joined table is of use
    for i, (more, arrays, join) in enumerate((
        (alike, "aftercorr:2", "afterok:4:3"),
        ([alike[0], f"{over['oi']}, pack: 2}}"], "afterok:3", "afterok:4"),
        ([*alike, quality], "afterok:3", "afterok:4"),
        ([*alike, "oi.after=[observe]"], "afterok:3", "afterok:4"),
    )):  # fmt: skip
        for name in ("queue", "sent"):
            (f / name).unlink(missing_ok=True)
        s = load(study, None, more)
        submit_study(s, tmp_path / str(i), site)
        sent = dict(line.split() for line in (f / "sent").read_text().splitlines())
        assert sent == {
            "1": "-", "2": "afterok:1", "3": "afterok:2", "4": f"afterok:1,{arrays}"
            if "corr" in arrays else "afterok:1:3", "5": join, "6": "afterok:1:5",
        }, i  # fmt: skip
        write_scripts(s, tmp_path / str(i), site, tmp_path / f"s{i}")
        text = (tmp_path / f"s{i}" / "submit.sh").read_text()
        assert ("--dependency=afterok:$j1,aftercorr:$j2_0" in text) == ("corr" in arrays)
        assert ("--dependency=afterok:$j3_0:$j2 " in text) == ("corr" in arrays)


def test_what_waits_for_a_job_that_is_sent_again_is_sent_again_whole(slurm, study, tmp_path):
    f = slurm.folder
    slurm.listing()
    s = load(study, None, ["oi.resources.array={over: members, tasks: 4}"])
    submit_study(s, tmp_path / "runs", Profile(name="x", max_array=1001))
    subprocess.run([f / "scancel", "2"])  # somebody cancels observe; oi and its join wait
    (f / "sent").unlink()
    submit_study(s, tmp_path / "runs", Profile(name="x", max_array=1001))
    sent = dict(line.split() for line in (f / "sent").read_text().splitlines())
    assert sent == {"6": "afterok:1", "7": "afterok:1:6", "8": "afterok:7", "9": "afterok:1:8"}
    alive = [r.split("|")[0] for r in (f / "queue").read_text().splitlines() if "PENDING" in r]
    assert alive == ["1", "6", "7", "8", "9"]


def test_only_the_parts_that_are_drawn_again_are_followed(slurm, study, tmp_path):
    """Of two arrays cut alike, task 2 of the first has failed; the second's was cancelled."""
    slurm.listing()
    over = [f"{job}.resources.array={{over: dates, tasks: 4}}" for job in ("observe", "oi")]
    s = load(study, None, over)
    s.check()
    runs = tmp_path / "runs"
    prepared = {name: prepare(s, runs, name) for name in s.jobs}
    source = input_digests({}, s.jobs["import"])
    prepared["import"].start(1, source)
    prepared["import"].end("complete", outputs={}, digest="d")
    for k in range(4):
        part, mine = (prepared[name].of_task(k) for name in ("observe", "oi"))
        part.start(1, {"import": "d"})
        part.end("failed" if k == 2 else "complete", digest=f"d{k}")
        if k != 2:
            mine.start(1, {"import": "d", "observe": f"d{k}"})
            mine.end("complete", digest="e")
    # A task that was made of something else is made again, after the join: its part is there.
    prepared["oi"].of_task(1).mark(inputs={"import": "d", "observe": "another"})
    submit_study(s, runs, Profile(name="x", max_array=1001))
    subs = {n: Submission.of(RunFolder(runs / "tiny" / n)) for n in ("observe", "oi")}
    tasks = {n: [b.indices for b in sub.sent] for n, sub in subs.items()}
    assert tasks == {"observe": ["2", ""], "oi": ["1-2", ""]}


def test_what_a_killed_controller_has_forgotten_is_sent_again(slurm, study, tmp_path):
    """Its first job is lost after it was taken, and the next one gets its id."""
    f = slurm.folder
    for tool in ("sinfo", "srun"):
        slurm.tool(tool, "true")
    slurm.tool("scancel", f'echo "$@" >>{f}/cancelled')
    slurm.tool(
        "scontrol",
        f'id=${{@: -1}}; line=$(grep "^$id|" {f}/queue)\n'
        'if [ "$2" = job ] && [ -z "$line" ]; then\n'
        ' echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi\n'
        'echo "JobId=$id Comment=${line##*|} "',
    )
    slurm.tool(
        "sbatch",
        f"touch {f}/queue; n=$(($(wc -l <{f}/queue) + 1))\n"
        "for a; do case $a in --comment=*) key=${a#*=};; --depend*) after=${a#*=};; esac; done\n"
        f'[ ! -e {f}/sent ] || echo "$n|PENDING|$after||N/A|N/A|$key" >>{f}/queue\n'
        f'touch {f}/sent; echo "Submitted batch job $n"',
    )
    s = load(study)
    s.wanted = ["import", "observe"]
    submit_study(s, tmp_path / "runs", Profile(name="x", max_array=1001))
    rows = [r.split("|") for r in (f / "queue").read_text().splitlines()]
    subs = {n: Submission.of(RunFolder(tmp_path / "runs" / "tiny" / n)) for n in s.wanted}
    last = {n: (sub.sent[-1].slurm_job, sub.sent[-1].key) for n, sub in subs.items()}
    # 1 was the lost import, then observe; it has gone, and both are there once more.
    assert [r[0] for r in rows] == ["1", "2", "3"]
    assert last == {"import": ("2", rows[1][-1]), "observe": ("3", rows[2][-1])}
    assert rows[2][2] == "afterok:2" and (f / "cancelled").read_text() == "1\n"
    assert len(subs["import"].sent) == 1
