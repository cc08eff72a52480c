"""A chat model opened for reading and writing."""

from undertow.model.anatomy import Anatomy, register_anatomy
from undertow.model.capture import Activations
from undertow.model.chat import ChatModel
from undertow.model.edit import Add, Edit, ProjectOut, Replace, Scale
from undertow.model.generate import PrefillBatch, Steer, Stop
from undertow.model.identity import ModelIdentity
from undertow.model.load import load
from undertow.model.positions import Rendered

__all__ = [
    "Activations",
    "Add",
    "Anatomy",
    "ChatModel",
    "Edit",
    "ModelIdentity",
    "PrefillBatch",
    "ProjectOut",
    "Rendered",
    "Replace",
    "Scale",
    "Steer",
    "Stop",
    "load",
    "register_anatomy",
]
