"""Where backbones come from: torchvision, timm, Hugging Face, bundled weights and Python factories, one file per kind.

A source loads a network, its weights and its transform. It never cuts, runs or trains one."""

from __future__ import annotations

from .load import backbone_identity, backbone_sources, load_backbone
from .source import Backbone, BackboneSource

__all__ = ["Backbone", "BackboneSource", "backbone_identity", "backbone_sources", "load_backbone"]
