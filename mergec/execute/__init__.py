"""Runs a plan: tiles of tensors through kernels, on any number of workers; never sees a recipe."""
