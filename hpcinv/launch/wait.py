r"""`hpcinv submit --wait`: the jobs of a study as they run on the cluster."""

from __future__ import annotations

__all__ = ["wait"]

import shlex
import time
from pathlib import Path

from ..errors import EXIT_FAILED
from .show import Screen
from .status import OVER, collect
from .submit import Delivery
from .why import explain


def wait(delivery: Delivery, runs: Path) -> int:
    r"""Shows the jobs until all have ended, and sends what the queue had no room for.

    Slurm is asked every second at first, every ten after some minutes. Ctrl-C leaves the jobs
    running.

    Returns:
        The exit code.
    """
    screen, began = Screen(), time.monotonic()
    names = {f.name: f for f in delivery.folders}
    study = delivery.study.name
    seen: dict[str, str] = {}
    late: dict[str, float] = {}
    shown: set[str] = set()
    try:
        while True:
            rows = [r for r in collect(runs, study) if r.name in names]
            for row in rows:
                job = row.name.partition("/")[2]
                state = row.state
                if row.note == "its manifest is late":  # a slow shared filesystem: give it time
                    first = late.setdefault(row.name, time.monotonic())
                    state = "running" if time.monotonic() - first < 60 else "failed"
                if state == "running":
                    screen.watch(job, row.report(names[row.name].path))
                if state != seen.get(row.name):
                    new = row.name not in shown
                    if (state == "running" and new) or state in OVER:
                        shown.add(row.name)
                        screen.job(job, state, f"job {row.slurm}" if row.slurm else "")
                    if state == "failed":
                        screen.say("\n".join(f"  {x}" for x in explain(runs, row).lines()))
                    seen[row.name] = state
            waiting = [f"{study}/{n}" for n in delivery.left]
            if all(seen.get(n) in OVER for n in names if n not in waiting):
                if not waiting or any(s != "complete" for n, s in seen.items() if s in OVER):
                    return EXIT_FAILED if any(s != "complete" for s in seen.values()) else 0
            if waiting:
                delivery.go_on()
            time.sleep(min(10.0, 1.0 + (time.monotonic() - began) / 30))
    except KeyboardInterrupt:
        screen.close()
        print(
            f"\nThe jobs go on. To look again: hpcinv status {shlex.quote(study)} "
            f"--runs {shlex.quote(str(runs))}\n"
            "To wait again: the same submit command with --wait."
        )
        return 0
    finally:
        screen.close()
