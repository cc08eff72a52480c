"""Organisms with hand-set weights: chat models whose circuit is known, to score a search for circuits against."""

from undertow.organism.built.building import Built, build, read, save
from undertow.organism.built.circuit import Circuit, Head
from undertow.organism.built.pairs import built_pairs
from undertow.organism.built.spec import Spec

__all__ = ["Built", "Circuit", "Head", "Spec", "build", "built_pairs", "read", "save"]
