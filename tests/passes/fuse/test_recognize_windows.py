"""Masks by which each query sees keys side by side become windows, however they are made; those that only look like it stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import txgraph
from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, assert_as_eager, find, graph_of, module, traced
from txgraph.ir import Graph, arguments, interpret
from txgraph.ir.ops import window_mask
from txgraph.options import Target
from txgraph.passes.fuse.recognize_windows import RecognizeWindows
from txgraph.rewrite import PassContext, explain_pass
