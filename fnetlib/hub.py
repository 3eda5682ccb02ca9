"""Does the Hugging Face Hub answer? Asked once, briefly: a machine without network must not wait for retries."""

from __future__ import annotations

import functools
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, TypeVar

from filelock import FileLock
from huggingface_hub import constants

from .errors import ParameterError

T = TypeVar("T")


@functools.cache
def hub_answers(timeout: float = 5.0) -> bool:
    """True if the Hub's address answers within `timeout` seconds and HF_HUB_OFFLINE is not set."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout)
    except urllib.error.HTTPError:
        return True  # it answered, if only to object to the question
    except OSError:
        return False
    return True


def from_hub(load: Callable[[], T], what: str) -> T:
    """Run a loader against the Hub, or against its local cache alone where the Hub does not answer.

    Raises FileNotFoundError where neither has it: one line that says why, and what to do.
    """
    import datasets

    flags = [(constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(*flag) for flag in flags]
    try:
        if not hub_answers():
            for flag in flags:  # else each file is retried for many seconds before the cache is asked
                setattr(*flag, True)
        return load()
    except ParameterError:
        raise  # it was found, and is not what it should be
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{what}: the Hugging Face Hub {_state(switched_off=before[0])}, and it is not in the local cache "
            f"{constants.HF_HUB_CACHE} ({_first_line(error)}); run once where the Hub answers, or name a folder") from error
    finally:
        for flag, value in zip(flags, before):
            setattr(*flag, value)


def _state(switched_off: bool) -> str:
    if switched_off:
        return "is switched off (HF_HUB_OFFLINE is set)"
    return "does not have it or refused" if hub_answers() else "does not answer"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def cache_lock(name: str) -> FileLock:
    """To be held while datasets' cache is filled: runs that start together wait for the first, and find its work there."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    return FileLock(cache / f"fnetlib-{name}.lock")


def banner(text: str) -> None:
    """A note that cannot be missed, on stderr or as the notebook's output."""
    bar = "!" * 78
    print(f"{bar}\n!! {text}\n{bar}", file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def in_notebook() -> bool:
    """True in a Jupyter kernel; that ipykernel is imported alone says nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
