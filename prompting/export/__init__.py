"""Trained runs for use elsewhere: safetensors with a loader in one file, ONNX, int8 weights, a model card."""
