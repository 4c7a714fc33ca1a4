"""ONNX files of an exported model: float32, and with int8 weights in the vision tower."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prompting.export.portable import ExportedModel

OPSET = 18


def needed(package: str) -> Any:
    """Return an imported package of the extra ``export``; raise ImportError that says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: pip install 'align-clip[export]' ({error})") from None


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Let loggers ("" is the root) show errors only."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in loggers}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def write_onnx(model: ExportedModel, path: Path) -> None:
    """Write an ONNX file: input ``images`` (B, 3, H, W) for any B, output ``logits`` (B, K).

    Raises:
        ImportError: onnx or onnxscript is not installed, or torch is older than 2.7.
    """
    needed("onnx"), needed("onnxscript")
    if torch.__version__ < "2.7":  # compares versions, not texts
        raise ImportError(
            f"ONNX files need torch 2.7 or later; this is {torch.__version__} (--forms safetensors writes the others)"
        )
    images = torch.zeros(2, 3, *model.config["images"]["size"])
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            verbose=False,
        )
        assert program is not None  # None is for the older exporter
        program.save(str(path))


def write_int8(source: Path, path: Path) -> None:
    """Write an ONNX file whose vision tower has int8 weights; activations are quantised as they come (dynamically).

    All behind the tower stays float32: adapters of its outputs, class features, the transport.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    onnx, quantization = needed("onnx"), needed("onnxruntime.quantization")
    graph = onnx.load(str(source)).graph
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    last = max(i for i, node in enumerate(products) if any(name.startswith("vision.tensors.") for name in node.input))
    chosen = [node.name for node in products[: last + 1] if set(node.input) & matrices]
    with quiet(""):  # it advises to preprocess
        quantization.quantize_dynamic(
            str(source), str(path), nodes_to_quantize=chosen, weight_type=quantization.QuantType.QInt8, per_channel=True
        )


def onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that maps images (B, 3, H, W) to logits (B, K) by onnxruntime on the CPU."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
