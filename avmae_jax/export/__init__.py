"""Writes models as programs that run without this project: ONNX and StableHLO."""
