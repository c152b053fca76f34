"""Networks as prediction wants them: without what only training needs."""

from __future__ import annotations

from typing import Any

from autoseg.errors import BadUsage
from autoseg.parts import NETWORKS
from autoseg.records import Configuration, Question, amend


def built(settings: Configuration, question: Question) -> tuple[Any, frozenset[str]]:
    """The network, pruned where it can be, and the names of the weights that it is trained with and does without."""
    from autoseg.steps.learner import build_network

    network = build_network(settings, question)
    trained = frozenset(network.state_dict())
    if prune := getattr(network, "prune", None):
        prune()
    return network, trained - frozenset(network.state_dict())


def at_depth(settings: Configuration, depth: int) -> Configuration:
    """The configuration, its network to predict with the head of that depth alone. Raises: BadUsage."""
    architecture = settings.network.architecture
    if not hasattr(NETWORKS.get(architecture.name), "prune"):
        raise BadUsage(f"{architecture.name} has no heads of several depths", where="--depth", expected="a unetpp")
    options = {"mode": "fast", "depth": depth}
    return amend(settings, {f"network.architecture.options.{name}": value for name, value in options.items()})


def before_deepest(settings: Configuration) -> int | None:
    """The depth of the head before the deepest one; None where the network has heads of one depth only."""
    deepest = len(settings.network.features) - 1
    prunable = hasattr(NETWORKS.get(settings.network.architecture.name), "prune")
    return deepest - 1 if prunable and deepest > 1 else None
