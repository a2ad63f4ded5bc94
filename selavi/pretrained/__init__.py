"""Weights that others can use, and weights of others: read safely and by name, written in open formats.

Read: a run, a folder that `write_weights` or `write_hub` made, the official SeLaVi release, R(2+1)D-18 of torchvision
and of XDC.  Written: safetensors with the settings beside them, a folder for the Hugging Face Hub, torch.export, ONNX.
"""

from selavi.pretrained.hub import write_hub
from selavi.pretrained.official import NON_COMMERCIAL
from selavi.pretrained.program import ClusterModel, example_clips, export_onnx, export_program
from selavi.pretrained.read import load, load_encoders
from selavi.pretrained.weights import Pretrained
from selavi.pretrained.write import write_weights

__all__ = [
    "NON_COMMERCIAL",
    "ClusterModel",
    "Pretrained",
    "example_clips",
    "export_onnx",
    "export_program",
    "load",
    "load_encoders",
    "write_hub",
    "write_weights",
]
