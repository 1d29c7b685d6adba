r"""Why jobs fail. What the causes look like, `causes.yaml` says; this file weighs the evidence.

Slurm's own verdict comes first: a node that died makes the other ranks complain of their network.
Then what the first rank that failed said, then the log; and of the rules the first that fits:
words that only say that something went wrong (MPI aborted, killed) come last.
"""

from __future__ import annotations

__all__ = ["Evidence", "Rule", "judge", "rules"]

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass
class Evidence:
    r"""What is known of a failed job.

    Attributes:
        state: Slurm's state, as squeue or sacct say it.
        reason: Slurm's reason: of waiting, or of the end.
        code: Exit code and signal, "1:0", where sacct knows them.
        error: What the first failing rank said (`failure.json`), with its traceback.
        log: The last start's part of the log.
    """

    state: str = ""
    reason: str = ""
    code: str = ""
    error: str = ""
    log: str = ""


@dataclass(frozen=True)
class Rule:
    r"""A cause: patterns for pieces of evidence (see `judge` for their order)."""

    name: str
    says: str
    do: str
    state: str = ""
    reason: str = ""
    code: str = ""
    text: str = ""

    def verdict(self, e: Evidence) -> str | None:
        r"""The line that shows it, where Slurm itself says so; or None."""
        for pattern, value in ((self.state, e.state), (self.reason, e.reason)):
            if pattern and re.search(pattern, value):
                return self.line(e.log) or f"Slurm: {value}"
        return None

    def line(self, text: str) -> str | None:
        r"""The first line of a text that shows it, or None."""
        if not self.text:
            return None
        found = re.search(rf"^.*(?:{self.text}).*$", text, re.MULTILINE | re.IGNORECASE)
        return found[0].strip() if found else None


@cache
def rules() -> list[Rule]:
    r"""The rules of `causes.yaml`, in their order."""
    import yaml

    data = yaml.safe_load(Path(__file__).with_name("causes.yaml").read_text())
    return [
        Rule(**{k: v if isinstance(v, str) else "|".join(v) for k, v in r.items()}) for r in data
    ]


TRACEBACK = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*?^(\S.*)$", re.MULTILINE
)

# Between tracebacks of one failure: the last of them is what it came to.
CHAINED = re.compile(
    r"\A\s*(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\s*\Z"
)

LOST = "timeout of NCCL or gloo"
# The end of a task, or of the step: tasks that end later were ended by Slurm.
ENDED = re.compile(
    r"^srun: error: .*: tasks? [\d,-]+: (.*)$|CANCELLED AT|^srun: Job step aborted", re.MULTILINE
)


def _first_error(log: str) -> str:
    r"""What the first failure of which a log shows a traceback came to."""
    found = None
    for each in TRACEBACK.finditer(log):
        if found is not None and not CHAINED.match(log[found.end() : each.start()]):
            break
        found = each
    return found[1] if found else ""


def judge(e: Evidence) -> tuple[Rule, str] | None:
    r"""The cause, and the line that shows it.

    Of several tracebacks in a log, the first one counts: the other ranks fail because one did.
    That it was cancelled says little: a rank that failed has the others cancelled. Where ranks
    lost each other and a task was killed before Slurm ended the others, they miss that one.
    """
    if not e.error:
        e = Evidence(e.state, e.reason, e.code, _first_error(e.log), e.log)
    ended = ENDED.search(e.log)
    tests = [
        lambda r: None if r.name == "cancelled" else r.verdict(e),
        lambda r: r.line(e.error),
        lambda r: r.line(e.log),
        lambda r: f"exit code {e.code}" if r.code and re.search(r.code, e.code) else None,
        lambda r: r.verdict(e),
    ]
    for test in tests:
        for rule in rules():
            if (line := test(rule)) is None:
                continue
            if rule.name == LOST and ended and ended[1] == "Killed":
                return next(r for r in rules() if r.name == "killed"), ended[0]
            return rule, line
    return None
