"""Bytes: safetensors headers, checkpoints, readers, writers and the files beside the weights; knows no graph."""
