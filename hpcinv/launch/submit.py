r"""`hpcinv submit`: a study goes to Slurm in one go, with its dependencies."""

from __future__ import annotations

__all__ = ["Delivery", "submit_study"]

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import BadInput
from ..kinds.arrays import inputs_of_task
from ..kinds.base import Job
from ..kinds.prepare import complete, cut_alike, input_digests, input_folders, place, prepare
from ..kinds.study import Study
from ..runs.folder import RunFolder
from ..runs.tasks import forget, states
from .batches import ARRAY, JOIN, Batch, expand, follows, spec
from .estimate import refuse_what_cannot_fit
from .profile import Profile
from .script import render, scripts
from .send import patiently, send
from .slurm import cancel, check_partition, forgotten, need_slurm, queue
from .submission import Queue, Submission, locked

TURNS = 3  # how often what Slurm has forgotten is sent


def submit_study(
    study: Study, runs: Path, profile: Profile, cluster: str | None = None
) -> Delivery:
    r"""Submits every job that is neither complete nor already in the queue.

    Arguments:
        cluster: The profile as it was asked for, remembered for `retry`.

    Returns:
        The delivery: `folders` of all jobs asked for, and what is left to send.

    Raises:
        BadInput: For mistakes known before anything is queued, or what Slurm refuses.
    """
    need_slurm()
    study.check()
    refuse_what_cannot_fit(study, runs, profile)
    names = [n for n in study.order() if n in study.wanted]
    for name in names:
        profile.check(name, study.jobs[name])
    for partition in {profile.nodes_of(study.jobs[n]).partition for n in names}:
        check_partition(partition, profile.name)
    if note := profile.misplaced(runs):
        print(note)
    for name in names:
        study.jobs[name].fetch()
    delivery = Delivery(study, runs, profile, names, cluster)
    delivery.prepare = lambda name: prepare(study, runs, name)
    delivery.go_on()
    return delivery


def _queue() -> Queue:
    r"""My jobs; waits for a Slurm that does not answer."""
    for pause in patiently("squeue", print):
        known = queue()
        if known is not None:
            return known
        pause(0.0)
    raise AssertionError("patiently() ends by itself")


@dataclass
class Delivery:
    r"""Sends the jobs of a study; again and again, where a site takes only some at once.

    Attributes:
        names: The jobs, parents first.
        prepare: Makes a job's run folder.
        left: Jobs that could not be sent yet, or not wholly.
        given: Tasks sent so far, by job: one that failed is not sent again by itself.
        fresh: Keys of the batches sent just now.
    """

    study: Study
    runs: Path
    profile: Profile
    names: list[str]
    cluster: str | None = None
    prepare: Callable[[str], RunFolder] | None = None
    left: list[str] = field(default_factory=list)
    given: dict[str, set[int]] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)

    @property
    def folders(self) -> list[RunFolder]:
        return [place(self.study, self.runs, n) for n in self.names]

    def go_on(self) -> None:
        r"""Sends what can be sent now.

        Raises:
            BadInput: If Slurm refuses a job.
        """
        with locked(self.runs / self.study.name):
            known = _queue()
            for _ in range(TURNS):
                told, moved = self.left, self._turn(known)
                if not moved:
                    break
                known = _queue()
                if not self._forgotten(moved, known):
                    break
                print("Slurm has forgotten what it was sent; sending it again", flush=True)
            for name in self.left if not told else ():
                print(f"{self.study.name}/{name} follows when the queue has room for it")

    def _turn(self, known: Queue) -> set[str]:
        r"""Goes through the jobs once; returns the names of those it sent something of."""
        self.left = []
        self.fresh.clear()
        subs = {n: Submission.of(place(self.study, self.runs, n)) for n in self.names}
        for sub in subs.values():
            sub.find_lost(known)
        if self.prepare is not None:
            for name, sub in subs.items():
                if not sub.live(known):
                    self.prepare(name)
        room = self._room(known)
        ids: dict[str, str] = {}  # what waits or runs, by name
        moved: set[str] = set()  # sent just now: what waited for its old self is sent again
        for name in self.names:
            parents = self.study.parents(name)
            if any(p in self.left for p in parents):
                self.left.append(name)
                continue
            stale = bool(moved & set(parents))
            room = self._one(name, subs[name], stale, known, room, ids, moved)
        return moved

    def _forgotten(self, names: set[str], known: Queue) -> bool:
        r"""Whether Slurm does not know what it has just taken: a controller that is killed loses
        the last seconds. It is struck off, to be sent again."""
        some = False
        for name in names:
            sub = Submission.of(place(self.study, self.runs, name))
            for s in [s for s in sub.sent if s.key in self.fresh]:
                if not s.elements(known) and s.slurm_job and forgotten(s.slurm_job, s.key):
                    sub.sent.remove(s)
                    lost = {k for i in expand(s.indices) for k in s.tasks(i)}
                    self.given.get(name, set()).difference_update(lost)
                    some = True
            sub.save()
        return some

    def _room(self, known: Queue) -> int | None:
        r"""How many more jobs the site takes from me."""
        if self.profile.max_submit is None:
            return None
        mine = [e for elements in known.values() for e in elements if e.alive]
        return self.profile.max_submit - sum(len(expand(e.indices)) or 1 for e in mine)

    def _one(
        self,
        name: str,
        sub: Submission,
        stale: bool,
        known: Queue,
        room: int | None,
        ids: dict[str, str],
        moved: set[str],
    ) -> int | None:
        folder, job = sub.folder, self.study.jobs[name]
        parents = [p for p in self.study.parents(name) if p in ids]
        after = [ids[p] for p in parents]
        live = sub.live(known)
        if stale and live:
            cancel(s.slurm_job for s in live)
            gone = {s.slurm_job for s in live}
            known = {id_: of for id_, of in known.items() if id_ not in gone}
            self.given.pop(name, None)
            live = []
        ready = not after and self._complete(name)
        if ready:
            print(f"{folder.name} is complete")
            return room
        if folder.manifest()["state"] == "complete" and not live:
            folder.set_aside()
            folder = self.prepare(name)
            sub = Submission(folder)
        given = self.given.setdefault(name, set())
        todo = self._todo(name, folder, parents, known)
        joins = [s for s in live if s.step != ARRAY]
        if joins and not todo:
            ids[name] = joins[-1].slurm_job
            print(f"{folder.name} is in the queue already, as job {ids[name]}")
            return room
        cancel(s.slurm_job for s in joins)  # its array has changed
        batches = scripts(job, self.profile, todo)
        if room is not None:
            batches, room = self._fit(batches, room)
        before = folder.manifest()["state"]
        sub.cluster, sub.refused = self.cluster or sub.cluster, None
        folder.mark(state="queued")
        arrays = [s.slurm_job for s in live if s.step == ARRAY]
        sent: list[str] = []
        try:
            early: dict[str, str] = {}  # joins of parents that the tasks do not wait for
            for batch in batches:
                twins = self._twins(job, batch, parents)
                early |= {p: ids[p] for p in twins}
                ok = [ids[p] for p in parents if p not in twins]
                if batch.step == JOIN and (parts := arrays + sent):
                    ok = [*parts, *early.values()]
                waits = [f"afterok:{':'.join(ok)}"] if ok else []
                waits += [f"aftercorr:{id_}" for id_ in twins.values()]
                if batch.after is not None:
                    waits.append(f"afterany:{sent[batch.after]}")
                sent.append(self._send(name, sub, batch, ",".join(waits)))
                given.update(k for i in expand(batch.indices) for k in sub.sent[-1].tasks(i))
        except BadInput as e:
            sub.sent = [s for s in sub.sent if s.slurm_job]
            sub.refused = str(e)
            sub.save()
            if not sent:
                folder.mark(state=before)
            raise
        moved.add(name)
        if batches and batches[-1].step != ARRAY:
            ids[name] = sent[-1]
        else:
            self.left.append(name)
        if sent:
            waits = f" after {', '.join(after)}" if after else ""
            parts = f" ({len(todo)} tasks: {', '.join(sent[:-1])})" if len(sent) > 1 else ""
            print(f"{folder.name} is job {sent[-1]}{parts}{waits}", flush=True)
        return room

    def _twins(self, job: Job, batch: Batch, parents: list[str]) -> dict[str, str]:
        r"""Arrays, by parent, of which each element needs only the one of the same index.

        They have been sent just now: Slurm knows all their elements.
        """
        found: dict[str, str] = {}
        if batch.step != ARRAY:
            return found
        for p in parents:
            if not follows(job, p, self.study.jobs[p]):
                continue
            for s in Submission.of(place(self.study, self.runs, p)).sent:
                same = s.step == ARRAY and s.offset == batch.offset and s.key in self.fresh
                if same and set(expand(batch.indices)) <= set(expand(s.indices)):
                    found[p] = s.slurm_job
        return found

    def _send(self, name: str, sub: Submission, batch: Batch, dependency: str) -> str:
        job = self.study.jobs[name]
        script = render(sub.folder.name, job, self.profile, sub.folder.path, batch)
        array = job.resources.array
        sent = sub.open(batch, array.pack if array else 1)
        self.fresh.add(sent.key)
        sent.slurm_job = send(script, sub.folder.logs, sent.key, dependency)
        sub.save()
        return sent.slurm_job

    def _fit(self, batches: list[Batch], room: int) -> tuple[list[Batch], int]:
        r"""As much of an array as the queue has room for; its join comes with the last of it."""
        out: list[Batch] = []
        for batch in batches:
            n = len(batch.elements()) if batch.step == ARRAY else 1
            if n <= room:
                out.append(batch)
                room -= n
                continue
            if batch.step == ARRAY and room > 0:
                out.append(replace(batch, indices=spec(expand(batch.indices)[:room])))
            return out, 0
        return out, room

    def _todo(self, name: str, folder: RunFolder, parents: list[str], known: Queue) -> list[int]:
        r"""Tasks of an array that are neither complete nor in the queue.

        Arguments:
            parents: The jobs it reads from that are in the queue.
        """
        job = self.study.jobs[name]
        array = job.resources.array
        if array is None:
            return []
        done = {k for k, (state, _) in states(folder.path).items() if state == "complete"}
        sources = input_folders(self.study, self.runs, name)
        same = cut_alike(sources, job)
        if not all(p in same for p in parents):
            done = set()  # nobody knows yet what they will read: each task looks for itself
        if done:
            # Parts made of other inputs are made again.
            rest = {ref: path for ref, path in sources.items() if ref not in parents}
            inputs = input_digests(rest, job)
            moving = {k for p in parents for k in self._moving(p, known)}
            for k in list(done):
                mine = inputs_of_task(inputs, same, k)
                if k not in moving and complete(folder.of_task(k), mine):
                    continue
                done.remove(k)
                if not folder.of_task(k).exists:  # somebody has deleted it
                    forget(folder.path, k)
        busy = self._moving(name, known)
        return [k for k in range(array.tasks) if k not in done and k not in busy]

    def _moving(self, name: str, known: Queue) -> set[int]:
        r"""Tasks of an array that are in the queue, or have been sent just now."""
        sub = Submission.of(place(self.study, self.runs, name))
        return sub.covered(known) | self.given.get(name, set())

    def _complete(self, name: str) -> bool:
        try:
            inputs = input_digests(
                input_folders(self.study, self.runs, name), self.study.jobs[name]
            )
        except BadInput:
            if any(p not in self.names for p in self.study.parents(name)):
                raise
            return False
        return complete(place(self.study, self.runs, name), inputs)
