"""Decision rules: from the states of a prompt to one score. Register another with `register_rule`."""

from __future__ import annotations

from undertow.guard.rules.base import Rule, register_rule, rule_named, rule_names
from undertow.guard.rules.centroid import CentroidRule
from undertow.guard.rules.linear import LinearRule
from undertow.guard.rules.normed import NormedRule
from undertow.guard.rules.prototype import PrototypeRule

__all__ = [
    "CentroidRule",
    "LinearRule",
    "NormedRule",
    "PrototypeRule",
    "Rule",
    "register_rule",
    "rule_named",
    "rule_names",
]
