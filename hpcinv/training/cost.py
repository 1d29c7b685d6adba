r"""What a training costs, known before it runs: parameters, operations, memory, checkpoint bytes.

The learner is built and run on the meta device, which computes shapes and allocates nothing, so a
model of a billion parameters is measured in seconds on a laptop.
"""

from __future__ import annotations

__all__ = ["Cost", "count_flops", "describe", "memory", "trace"]

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

BUCKET = 50_000_000  # numbers in a bucket of ZeRO's collectives (training/engine.py)


@dataclass(frozen=True)
class Cost:
    r"""The cost of one micro-batch of a model.

    Attributes:
        parameters: Trained numbers.
        flops: Floating point operations of a forward and a backward pass, of the model alone:
            what is recomputed to save memory is not counted, as is usual for MFU.
        activations: Bytes kept from the forward for the backward pass.
    """

    parameters: int
    flops: int
    activations: int


def trace(learner: Any, batch: Mapping[str, Any], precision: str = "fp32") -> Cost:
    r"""Runs a learner's loss on the meta device.

    Arguments:
        learner: A learner built under `torch.device("meta")`, or any: it is not changed.
        batch: Tensors of a micro-batch, of which only shapes and types count.
        precision: `fp32` or `bf16`, of the weights.
    """
    import torch
    from torch.func import functional_call
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    narrow = torch.bfloat16 if precision == "bf16" else torch.float32

    def on_meta(t: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty_like(t, device="meta", dtype=dtype, requires_grad=t.requires_grad)

    state = {k: on_meta(v, narrow) for k, v in learner.named_parameters()}
    # Casting a module casts its buffers too, but for those of layers that keep theirs wide.
    wide = [n for n, m in learner.named_modules() if type(m)._apply is not torch.nn.Module._apply]
    fixed = {
        k: on_meta(v, narrow if v.is_floating_point() and not k.startswith(tuple(wide)) else None)
        for k, v in learner.named_buffers()
    }
    own = {v.untyped_storage()._cdata for v in [*state.values(), *fixed.values()]}
    kept: dict[int, Any] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its identity stays its own
        return t

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    class Fused(TorchFunctionMode):
        # Shapes alone choose the attention that writes out its matrix; devices choose a fused one.
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            kwargs = kwargs or {}
            if func is torch.nn.functional.scaled_dot_product_attention:
                query, key, value = args or (kwargs[k] for k in ("query", "key", "value"))
                return fused(query, key, value)[0]
            return func(*args, **kwargs)

    def attention(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    counter = FlopCounterMode(display=False, custom_mapping={fused: attention})
    inputs = {k: on_meta(v.detach()) for k, v in batch.items()}
    for v in inputs.values():
        pack(v)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), counter, Fused():
        functional_call(learner, {**state, **fixed}, (inputs,))
    return Cost(
        parameters=sum(v.numel() for v in state.values() if v.requires_grad),
        flops=3 * counter.get_total_flops(),  # a backward pass costs two forward ones
        activations=sum(s.nbytes() for s in kept.values()),
    )


def memory(cost: Cost, zero: int, precision: str, ranks: int, ema: bool = True) -> dict[str, int]:
    r"""Bytes of a rank while it trains, by what they hold.

    Bytes per parameter as DeepSpeed 0.19 keeps them (Rajbhandari et al., 2020, section 3, with its
    32-bit gradient accumulation). Stage s divides by the ranks: 1 the optimiser and the average,
    2 also the gradients, 3 also the weights.

    Arguments:
        cost: What :func:`trace` found.
        zero: The ZeRO stage.
        precision: `fp32` or `bf16`.
        ranks: Ranks that share the states.
        ema: Whether averaged weights are kept.
    """
    p = cost.parameters
    wide = precision == "fp32"
    size = 4 if wide else 2
    states = 8 + 4 * ema + (0 if wide and zero == 0 else 4)  # moments, average, 32-bit weights
    found = {
        "weights": size * p // (ranks if zero == 3 else 1),
        "gradients": (4 if wide or zero == 0 else 2) * p // (ranks if zero >= 2 else 1),
        "optimiser": states * p // (ranks if zero else 1),
        "activations": cost.activations,
        # Stage 3 gathers weights layer by layer; others' buckets are idle with a single rank.
        "buffers": size * (min(p, BUCKET) * (zero == 3) + 2 * BUCKET * (zero > 0 and ranks > 1)),
    }
    return {**found, "all": sum(found.values())}


def describe(learner: Any, sample: Mapping[str, Any], micro: int, precision: str = "fp32") -> Cost:
    r"""The cost of `micro` samples, shaped like one that `learner.draw` has made, with the one
    block that recomputation holds at a time."""
    cost = trace(learner, _batch(sample, micro), precision)
    if learner.model.get("checkpointing"):
        block = _block(learner.model, sample, micro, precision)
        cost = replace(cost, activations=cost.activations + block)
    return cost


def _batch(sample: Mapping[str, Any], micro: int) -> dict[str, Any]:
    r"""Shapes of a micro-batch."""
    import numpy as np
    import torch

    return {
        k: torch.empty((micro, *np.shape(v)), dtype=torch.float32, device="meta")
        for k, v in sample.items()
    }


def _block(model: dict[str, Any], sample: Mapping[str, Any], micro: int, precision: str) -> int:
    r"""Bytes of one block of a denoiser."""
    import torch

    from hpcinv.training.diffusion import DiffusionLearner

    found = []
    with torch.device("meta"):
        for depth in (1, 2):
            shallow = DiffusionLearner({**model, "depth": depth, "checkpointing": False})
            found.append(trace(shallow, _batch(sample, micro), precision).activations)
    return found[1] - found[0]


def count_flops(learner: Any, sample: Mapping[str, Any], micro: int) -> int:
    r"""Operations of `micro` drawn samples; 0 where the model holds one without a known shape."""
    try:
        return trace(learner, _batch(sample, micro)).flops
    except (NotImplementedError, RuntimeError):
        return 0


def main() -> None:
    r"""Reads the fields of trainings as a JSON list on stdin and writes their costs, for the
    planner, which loads no torch itself."""
    json.dump([asdict(_foreseen(asked)) for asked in json.load(sys.stdin)], sys.stdout)


def _foreseen(asked: dict[str, Any]) -> Cost:
    import numpy as np
    import torch

    from hpcinv.training.config import AutoencoderLoss, DiffusionLoss

    shape = (asked["window"], asked["channels"], *asked["grid"])
    model = {**asked["model"], "channels": asked["channels"], "grid": asked["grid"]}
    sample = {
        "x": np.broadcast_to(np.float32(0), shape),
        "context": np.zeros((asked["window"], model["context"]), np.float32),
    }
    with torch.device("meta"):
        if model["name"] == "autoencoder":
            from hpcinv.training.autoencoder import AutoencoderLearner

            learner: Any = AutoencoderLearner(model, AutoencoderLoss(**asked["loss"]))
        else:
            from hpcinv.training.diffusion import DiffusionLearner

            learner = DiffusionLearner(model, DiffusionLoss(**asked["loss"]))
        sample = learner.draw(sample, np.random.default_rng(0))
    return describe(learner, sample, 1, asked["precision"])


if __name__ == "__main__":
    main()
