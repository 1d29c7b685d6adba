r"""The DeepSpeed engine, made quietly, its 32-bit weights reached alike at any stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from hpcinv.errors import BadInput
from hpcinv.training.config import TrainConfig

if TYPE_CHECKING:
    from hpcinv.parallel import World


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    r"""DeepSpeed logs and its subprocesses print on descriptor 1, which belongs to the caller."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _import_deepspeed() -> Any:
    import logging

    if not torch.cuda.is_available():
        # Left to itself DeepSpeed probes for accelerators, which takes seconds.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _stdout_to_stderr():
        import deepspeed

        deepspeed.utils.logger.setLevel(logging.ERROR)
        if not torch.cuda.is_available():
            # An empty table of compiled operators. Reading the real one makes it, by calling
            # compiler and linker, and finds a shared-memory collective to compile at each start.
            deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def micro_batch(config: TrainConfig, world: World) -> int:
    r"""Samples of one forward pass of one rank.

    Raises:
        BadInput: If the batch does not divide among the ranks.
    """
    parts = world.size * config.accumulation
    if config.batch % parts:
        nearest = max(1, round(config.batch / parts)) * parts
        raise BadInput(
            f"a batch of {config.batch} samples does not divide among {world.size} ranks with "
            f"{config.accumulation} accumulation steps",
            where="batch",
            instead=f"Write {nearest}, or change the number of ranks.",
        )
    return config.batch // parts


def describe(config: TrainConfig, micro: int, universal: bool = False) -> dict[str, Any]:
    r"""The configuration given to DeepSpeed."""
    optimizer = {
        "lr": config.learning_rate,
        "betas": list(config.betas),
        "weight_decay": config.weight_decay,
    }
    if not torch.cuda.is_available():
        optimizer["torch_adam"] = True
    stage: dict[str, Any] = {"stage": config.zero}
    if config.zero:
        # Buckets of 50 million numbers overlap communication well and bound its memory.
        stage |= {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
    if config.zero == 3:
        # Small parameters stay whole: gathering each costs more than it saves.
        stage = {"stage": 3, "reduce_bucket_size": 50_000_000}
    described = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip,
        "steps_per_print": 10**9,
        "zero_optimization": stage,
        "optimizer": {"type": "AdamW", "params": optimizer},
    }
    if config.precision == "bf16":
        described["bf16"] = {"enabled": True}
    if universal:
        described["checkpoint"] = {"load_universal": True}
    return described


def start(module: nn.Module, config: TrainConfig, world: World, universal: bool = False) -> Any:
    r"""Wraps a module in an engine.

    Arguments:
        module: A module whose forward pass returns the loss of a batch.
        config: The fields of the training.
        world: A world of the torch backend; its process group must exist.
        universal: Whether it will load a checkpoint of another number of ranks.

    Raises:
        BadInput: If the world has another backend, or the batch does not divide among it.
    """
    if world.backend != "torch":
        raise BadInput(
            f"training needs a world of the torch backend, got {world.backend!r}",
            instead="Join it with hpcinv.parallel.connect('torch').",
        )
    micro = micro_batch(config, world)
    deepspeed = _import_deepspeed()
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    if config.compile:
        module.compile()
    with _stdout_to_stderr():
        deepspeed.init_distributed(
            dist_backend="nccl" if torch.cuda.is_available() else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
        )
        engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            config=describe(config, micro, universal),
            dist_init_required=False,
        )
    _keep_norm(engine)
    return engine


def _keep_norm(engine: Any) -> None:
    r"""Lets the engine tell the gradient's norm in plain 32-bit training too.

    There DeepSpeed clips by torch's function and drops the norm that it returns.
    """
    if engine.zero_optimization_stage() or engine.bfloat16_enabled():
        return
    parameters = [p for p in engine.module.parameters() if p.requires_grad]

    def clip() -> None:
        limit = engine.gradient_clipping() or float("inf")
        engine._global_grad_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)

    engine.clip_fp32_gradients = clip


def masters(engine: Any) -> list[Tensor]:
    r"""This rank's 32-bit weights: whole where they are replicated, its shards otherwise."""
    optimizer = engine.optimizer
    # The names under which DeepSpeed 0.19 keeps them: stage 3, stages 1-2, 16-bit without ZeRO.
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    if hasattr(optimizer, "fp32_groups"):
        return [p for group in optimizer.fp32_groups for p in group]
    return [p for p in engine.module.parameters() if p.requires_grad]


def _wide(engine: Any) -> dict[int, Tensor]:
    r"""The 32-bit copies of 16-bit weights that are not sharded, by the weight's identity."""
    optimizer = engine.optimizer
    if not (hasattr(optimizer, "fp32_groups") and hasattr(optimizer, "fp16_groups")):
        return {}
    groups = zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True)
    return {id(n): w for wide, narrow in groups for n, w in zip(narrow, wide, strict=True)}


@torch.no_grad()
def whole(engine: Any, here: bool = True) -> dict[str, Tensor]:
    r"""All weights in 32 bits, by name, on the CPU. Collective.

    Arguments:
        engine: The engine.
        here: Whether this rank keeps them; a rank that does not takes part, and gets nothing.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    wide, found = _wide(engine), {}
    for name, parameter in engine.module.named_parameters():
        value = wide.get(id(parameter))
        if value is None:
            value = safe_get_full_fp32_param(parameter)
        if here:
            value = parameter if value is None else value
            found[name] = value.detach().float().cpu().clone()
    return found


@torch.no_grad()
def place(engine: Any, weights: dict[str, Tensor]) -> None:
    r"""Puts 32-bit weights, whole and by name, into this rank's :func:`masters`."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    wide = _wide(engine)
    for name, parameter in engine.module.named_parameters():
        value = weights[name].to(engine.device)
        if id(parameter) in wide:
            wide[id(parameter)].copy_(value)
        elif hasattr(parameter, "ds_id"):
            # DeepSpeed cuts a whole weight into shares without what fills the last ones up, and
            # fails where a weight's numbers are no multiple of the ranks.
            group = parameter.ds_process_group
            rank, ranks = dist.get_rank(group), dist.get_world_size(group)
            share = parameter.partition_numel()
            flat = F.pad(value.flatten(), (0, ranks * share - value.numel()))
            safe_set_local_fp32_param(parameter, flat[rank * share : (rank + 1) * share])
        elif hasattr(parameter, "_hp_mapping"):
            safe_set_full_fp32_param(parameter, value)
        else:
            parameter.copy_(value)


class Average:
    r"""Exponential moving average of the weights, sharded as the optimiser shards them.

    .. math:: \bar\theta \gets \bar\theta + (1 - d) (\theta - \bar\theta)

    Arguments:
        engine: The engine whose weights are averaged.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.shards = [m.detach().clone().float() for m in masters(engine)]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        r"""Moves the average towards the present weights; no communication."""
        for shard, present in zip(self.shards, masters(self.engine), strict=True):
            shard.lerp_(present.detach().float(), 1 - decay)

    @contextmanager
    def _in_place(self) -> Iterator[list[Tensor]]:
        r"""The weights, kept aside and put back at the end."""
        present = masters(self.engine)
        kept = [m.detach().clone() for m in present]
        try:
            yield present
        finally:
            for m, k in zip(present, kept, strict=True):
                m.data.copy_(k)

    @torch.no_grad()
    def whole(self, here: bool = True) -> dict[str, Tensor]:
        r"""The averaged weights by name, whole on every rank that keeps them. Collective."""
        with self._in_place() as present:
            for m, s in zip(present, self.shards, strict=True):
                m.data.copy_(s)
            return whole(self.engine, here)

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        r"""Takes the averaged weights from their names, however they were sharded."""
        with self._in_place() as present:
            place(self.engine, weights)
            for m, s in zip(present, self.shards, strict=True):
                s.copy_(m.detach().float())
