"""A progress bar; without tqdm, a line per visit on the error stream."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Yields a function that is told the name of each step when it begins."""
    try:
        from tqdm import tqdm
    except ImportError:
        count = 0

        def line(name: str) -> None:
            nonlocal count
            count += 1
            print(f"{count}/{total}  {name}", file=sys.stderr, flush=True)

        yield line
        return
    with tqdm(total=total, unit="visit", dynamic_ncols=True, leave=False, disable=None) as bar:

        def advance(name: str) -> None:
            bar.update()
            bar.set_description(name)

        yield advance
