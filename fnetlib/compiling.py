"""torch.compile that fails where it would silently return to eager."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils._triton import has_triton

from .errors import ParameterError

GRAPHS = {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}  # torch.compile's options: one launch, or an error
AUTOTUNED = {"max_autotune": True}  # products by whichever kernel was the fastest, a library's or Triton's with sums in it
OPTIONS = {"graphs": GRAPHS, "autotuned": AUTOTUNED}  # of the efficiency study's modes


def require_compiler() -> None:
    """ParameterError where torch.compile has no compiler for the GPU."""
    if torch.cuda.is_available() and not has_triton():
        raise ParameterError("compile: torch.compile needs Triton on this GPU (pip install triton), or a newer GPU; without it: no")


def compiled(model: nn.Module, graphs: bool = False) -> Callable:
    """The model, compiled anew for each shape of its inputs. graphs: its kernels are launched as one CUDA graph.

    An error where it cannot be compiled as a whole, or not be launched so.
    """
    return torch.compile(model, fullgraph=True, dynamic=False, options=GRAPHS if graphs else None)


def keeping(share: float) -> contextlib.AbstractContextManager:
    """What is compiled inside keeps at most this share of the activations' memory for its backward pass, of what keeping all that is
    not free to recompute would take; the rest is computed again there, what costs least first (PyTorch's partitioner of joint graphs)."""
    import torch._functorch.config  # slow, and seldom needed

    return torch._functorch.config.patch(activation_memory_budget=share)


@contextlib.contextmanager
def room_for(shapes: int) -> Iterator[None]:
    """Inside, one function can be compiled so many times, whatever was compiled before; RuntimeError beyond."""
    import torch._dynamo  # slow, and seldom needed

    torch._dynamo.reset()
    try:
        with torch._dynamo.config.patch(recompile_limit=shapes, accumulated_recompile_limit=max(shapes, 256),
                                        fail_on_recompile_limit_hit=True):
            yield
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise RuntimeError(f"torch.compile: more than {shapes} shapes") from error
    finally:
        torch._dynamo.reset()
