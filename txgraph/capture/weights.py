"""Which weights a model may have."""

from __future__ import annotations

import torch
from torch import nn

from txgraph.capture.state import plain_tensors
from txgraph.errors import TxgraphError


def check_weights(model: nn.Module) -> None:
    """Refuse weights that cannot be compiled, by name, before any work.

    Raises:
        TxgraphError: a weight is on the meta device, sparse, quantized, complex or made in inference mode; or they are
            on several devices.
    """
    devices = set()
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise TxgraphError(f"{path} is quantized ({type(module).__name__}): optimize() takes models before that")
    held = dict([*model.named_parameters(), *model.named_buffers()])
    for name, tensor in {**held, **plain_tensors(model)}.items():
        if tensor.device.type == "meta":
            raise TxgraphError(
                f"{name} is on the meta device: it has no values. Load the weights first (load_state_dict, "
                f"from_pretrained, or model.to_empty(device=...) and initialisation), then optimize."
            )
        if tensor.is_inference():
            raise TxgraphError(
                f"{name} was made under torch.inference_mode(), and torch.export takes no such tensors: make or load "
                f"the model outside of it"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or (tensor.is_complex() and name in held):
            dense = ": give it dense, by to_dense(); zeros are found there" if "sparse" in str(tensor.layout) else ""
            raise TxgraphError(
                f"{name} has layout {tensor.layout} and dtype {tensor.dtype}, which optimize() does not take{dense}"
            )
        if name in held:
            devices.add(tensor.device)
    if len(devices) > 1:
        raise TxgraphError(f"the weights are on several devices, {sorted(map(str, devices))}: move the model to one")
