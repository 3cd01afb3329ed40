"""The networks of others that the benchmarks measure beside pvlit's, and what it takes to import them.

They are installed by: pip install --no-deps -r benchmarks/requirements.txt
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from pathlib import Path

from torch import nn

VISION = {
    "torchvision": {},
    "torchvision.transforms": {"ToTensor": object},
    "torchvision.utils": {},
}  # ToTensor: a default argument of a peer's file loader


@contextlib.contextmanager
def stubs(modules):
    """Stand in for modules while a peer is imported.

    The peers import torchvision for loading files, which a step never does; beside a CPU build of torch the real
    package fails to import, and its mere presence breaks diffusers. The stubs are gone again before anything else is
    imported.
    """
    kept = {name: sys.modules.get(name) for name in modules}
    for name, content in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
        parent, _, child = name.rpartition(".")
        if parent in modules:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Unet3D(nn.Module):
    "lucidrains' Unet3D with the axes of pvlit: (B, T, C, H, W)."

    def __init__(self, channels, width, multipliers):
        super().__init__()
        with stubs(VISION):
            from video_diffusion_pytorch import Unet3D
        self.net = Unet3D(dim=width, dim_mults=multipliers, channels=channels)

    def forward(self, x, t):
        return self.net(x.transpose(1, 2), t).transpose(1, 2)


def cvivit_class():
    "Return lucidrains' CViViT, imported without the rest of its package, which wants a language model."
    place = Path(importlib.util.find_spec("phenaki_pytorch").origin).parent
    with stubs(VISION | {"phenaki_pytorch": {"__path__": [str(place)]}}):
        return importlib.import_module("phenaki_pytorch.cvivit").CViViT
