"""What ps shows of a process that has to start fast."""

from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def set_title(text: str) -> None:
    """As setproctitle does it, but without its package, which loads logging: that would be much of a start."""
    package = PathFinder.find_spec("setproctitle")
    found = PathFinder.find_spec("_setproctitle", package.submodule_search_locations) if package else None
    if found is not None and found.loader is not None:
        module = module_from_spec(found)
        found.loader.exec_module(module)
        module.setproctitle(text)
