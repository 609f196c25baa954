"""What a tensor may undergo: ops, each with its kernel, and methods, each a short composition of ops."""

# every op registers when its module is imported; a plan names ops, so all of them must be there
from mergec.ops import (
    basic,
    calibrate,
    competition,
    elect,
    fourier,
    fuse,
    gram,
    opcm,
    pool,
    rescale,
    stock,
    svd,
    threshold,
    trim,
    wudi,
)

__all__ = [
    "basic",
    "calibrate",
    "competition",
    "elect",
    "fourier",
    "fuse",
    "gram",
    "opcm",
    "pool",
    "rescale",
    "stock",
    "svd",
    "threshold",
    "trim",
    "wudi",
]
