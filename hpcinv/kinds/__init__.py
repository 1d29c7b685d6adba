r"""The kinds of jobs. Each module holds the typed fields of one kind and its `run`."""

from __future__ import annotations

__all__ = ["KINDS", "kind"]

from importlib import import_module

KINDS = {
    "import": ("import_", "Import"),
    "simulate": ("simulate", "Simulate"),
    "train": ("train", "Train"),
    "encode": ("encode", "Encode"),
    "observe": ("observe", "Observe"),
    "assimilate": ("assimilate", "Assimilate"),
    "infer": ("infer", "Infer"),
    "evaluate": ("evaluate", "Evaluate"),
    "report": ("report", "Report"),
    "map": ("map", "Map"),
}


def kind(name: str) -> type:
    r"""The class of a kind, importing its module only now."""
    module, cls = KINDS[name]
    return getattr(import_module(f".{module}", __name__), cls)
