"""Which processes share a batch."""

from typing import NamedTuple

from torch import distributed


class Processes(NamedTuple):
    """A process group of two or more, as compiled graphs can hold it."""

    group: str
    """The group's name, by which the functional collectives find it."""
    size: int


def processes_of(group: "distributed.ProcessGroup | None") -> Processes | None:
    """The processes of ``group`` (None: the default group); None if this one is alone.

    Raises:
        ValueError: this process is not a member of ``group``.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    size = distributed.get_world_size(group)
    if size < 0:
        raise ValueError(
            f"process_group is one that rank {distributed.get_rank()} is not a member of: expected "
            "a group of which every process that runs the layer is a member"
        )
    if size == 1:
        return None
    return Processes(group_name(group), size)


def group_name(group: "distributed.ProcessGroup | None") -> str:
    """The name of ``group``, None being the default group; the same in all its processes."""
    chosen = distributed.group.WORLD if group is None else group
    assert chosen is not None
    return chosen.group_name
