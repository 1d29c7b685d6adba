"""Causes of failures: recorded logs of known origin, and how pieces of evidence weigh."""

from pathlib import Path

import pytest
import yaml

from hpcinv.launch.causes import Evidence, judge, rules
from hpcinv.launch.why import last_start

RECORDED = yaml.safe_load(Path(__file__).with_name("failures.yaml").read_text())


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: c["origin"].split("github.com/")[-1])
def test_recorded_failures_are_named(case):
    rule, line = judge(Evidence(state="FAILED", reason="NonZeroExitCode", log=case["log"]))
    assert rule.name == case["cause"]
    assert line in case["log"]


def cause(**evidence):
    found = judge(Evidence(**evidence))
    return found and found[0].name


SECOND = """\
Traceback (most recent call last):
  File "a.py", line 3, in <module>
    x = f(0)
ZeroDivisionError: division by zero
Traceback (most recent call last):
  File "b.py", line 9, in <module>
    dist.barrier()
RuntimeError: [../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:30391
srun: error: node2: task 1: Exited with exit code 1
"""


def test_the_first_rank_that_failed_counts_and_not_the_last():
    rule, line = judge(Evidence(log=SECOND))
    assert rule.name == "Python error" and line == "ZeroDivisionError: division by zero"
    # What the first rank wrote itself says more than the log of all.
    error = "OSError: [Errno 28] No space left on device\nTraceback ..."
    assert cause(error=error, log=SECOND) == "disk"
    assert cause(error="KeyError: 'x'\nTraceback", log="MPI_ABORT was invoked") == "Python error"


CHAIN = """\
Traceback (most recent call last):
  File "a.py", line 3, in save
    write_end_of_file()
RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 9, in save
    raise DiskFull()
hpcinv.training.checkpoints.DiskFull: the disk is full (or a quota spent): step-80 was not written

"""


def test_of_a_chain_what_it_came_to_counts():
    rule, line = judge(Evidence(state="FAILED", code="1:0", log=CHAIN + SECOND))
    assert rule.name == "disk" and line.startswith("hpcinv.training.checkpoints.DiskFull")
    assert cause(log=SECOND + CHAIN) == "Python error"
    # The disk took the log no further than here.
    for end in (CHAIN.index("The above") + 27, CHAIN.index("unexpected")):
        assert cause(log=CHAIN[:end]) == "disk"


def test_what_hindered_an_earlier_try_is_not_what_ended_the_job(tmp_path):
    start = "=== hpcinv: job 2, start 4, on node[1-2], 2026-11-29T14:01:29\n"
    hindered = (
        "srun: error: task 1 launch failed: Unspecified error\n"
        "=== hpcinv: the ranks did not meet (srun says 137), try 1 of 3\n"
    )
    ended = "training: 573/3200 (18%)\nOSError: [Errno 28] No space left on device\n\nTrac"
    log = tmp_path / "slurm-2.log"
    for text, name in (
        (start + hindered + ended, "disk"),
        (start + hindered, "node failure"),
        (start + ended + "\n" + start + hindered, "node failure"),
        (start + "=== hpcinv: the ranks did not meet (srun says 1), try 3 of 3\nbye", "launch"),
    ):
        log.write_text(text)
        assert judge(Evidence(log=last_start(log)))[0].name == name


def test_a_failure_that_a_full_disk_cannot_take_is_in_the_log(tmp_path, monkeypatch, capsys):
    from hpcinv.kinds import execute
    from hpcinv.runs.folder import RunFolder

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execute.json, "dump", full)
    try:
        try:
            raise OSError("whatever the writer says")
        except OSError as e:
            raise RuntimeError("no space left on device, the first") from e
    except RuntimeError as e:
        assert execute._failed(e, RunFolder(tmp_path / "job"), None) == 1
    said = capsys.readouterr().err
    assert "whatever the writer says" in said
    # However soon the log ends, what it came to is there.
    for end in (len(said), said.index("In full")):
        assert judge(Evidence(log=said[:end])) == (
            next(r for r in rules() if r.name == "disk"),
            "RuntimeError: no space left on device, the first",
        )
    assert not (tmp_path / "job" / "failure.json").exists()


def test_a_task_that_slurm_ended_with_the_others_was_not_killed():
    gloo = "RuntimeError: [gloo/transport/tcp/pair.cc:537] Connection reset by peer\n"
    killed = "srun: error: node4: task 0: Killed\n"
    ended = "slurmstepd-node4: error: *** STEP 8.0 ON node4 CANCELLED AT 2026-11-25T00:20:58 ***\n"
    other = "srun: error: node4: task 1: Exited with exit code 1\n"
    assert cause(log=gloo + killed + ended + other) == "killed"
    assert cause(log=gloo + ended + killed + other) == "timeout of NCCL or gloo"
    assert cause(log="ValueError: no\n" + killed + ended + other) != "timeout of NCCL or gloo"
    assert cause(log=SECOND + killed) == "Python error"


def test_slurms_own_verdict_comes_first():
    assert cause(state="NODE_FAIL", log=SECOND) == "node failure"
    assert cause(state="PREEMPTED", error="KeyError: 1") == "preemption"
    assert cause(state="OUT_OF_MEMORY", log="whatever") == "memory of the host"
    assert cause(state="TIMEOUT") == "time limit"
    # ... but that it was cancelled says little: the failed rank has the others cancelled.
    log = "slurmstepd: error: *** STEP 3.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 ***\n"
    assert cause(state="CANCELLED", log=SECOND + log) == "Python error"
    assert cause(state="CANCELLED", log=log) == "cancelled"
    assert cause(state="FAILED", code="0:9") == "killed"
    assert cause(state="FAILED", code="1:0", log="") is None


def test_reasons_of_waiting():
    for reason, name in (
        ("DependencyNeverSatisfied", "unmet dependency"),
        ("InvalidAccount", "account"),
        ("InvalidQOS", "qos"),
        ("PartitionTimeLimit", "partition"),
        ("QOSMaxCpuPerUserLimit", "limits"),
        ("AssocGrpCPUMinutesLimit", "limits"),
        ("launch_failed_requeued_held", "requeue hold"),
    ):
        assert cause(state="PENDING", reason=reason) == name
    assert cause(state="PENDING", reason="Priority") is None


def test_what_sbatch_says_when_it_refuses():
    for said, name in (
        ("Invalid account or account/partition combination specified", "account"),
        ("Invalid qos specification", "qos"),
        ("Invalid partition name specified", "partition"),
        ("Job violates accounting/QOS policy (job submit limit, ...)", "limits"),
        ("Requested node configuration is not available", "limits"),
        ("Requested reservation is invalid", "refused"),
        ("Invalid feature specification", "refused"),
    ):
        log = f"\n/r/s/job/logs: Slurm refused the job: Batch job submission failed: {said}"
        assert cause(log=log) == name, said


def test_every_rule_says_what_to_do_and_can_be_met():
    for rule in rules():
        assert rule.says and rule.do and (rule.state or rule.reason or rule.text or rule.code)
    assert len({r.name for r in rules()}) == len(rules())


def test_a_launch_that_failed_thrice_is_named_and_one_that_was_tried_again_is_not():
    said = "=== hpcinv: the ranks did not meet (srun says 1), try {} of 3\n"
    tries = [said.format(k) for k in (1, 2, 3)]
    assert cause(state="FAILED", log="".join(tries)) == "launch"
    # Cancelled while it started: what it was about to try again is not why it ended.
    assert cause(state="CANCELLED", log=tries[0]) == "cancelled"
    assert cause(state="FAILED", log=tries[0] + SECOND) == "Python error"
