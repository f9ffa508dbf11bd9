"""What modules write into each other's trees while astroid reads them, undone from text to text.

"threading.Thread.mine = 1" in a package is written by astroid into the tree of threading when it reads the
package. Trees are read once and shared by all texts, and a text that does not import the package
must not see that. So every such write is noted under the module that makes it, taken back after each
text, and made again for a text that comes upon the module, or upon one whose reading read it.

The names are astroid 4's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class _Write:
    """An assignment, found in one module, that stands among the attributes of another's class."""

    attributes: dict[str, list[Any]]
    name: str
    node: Any

    @property
    def is_made(self) -> bool:
        return any(node is self.node for node in self.attributes.get(self.name, ()))

    def make(self) -> None:
        if not self.is_made:
            self.attributes.setdefault(self.name, []).append(self.node)

    def undo(self) -> None:
        left = [node for node in self.attributes.get(self.name, ()) if node is not self.node]
        if left:
            self.attributes[self.name] = left
        else:
            self.attributes.pop(self.name, None)


@dataclass
class _Module:
    """What reading a module did."""

    read: set[str] = field(default_factory=set)
    """Modules that it came upon."""
    writes: list[_Write] = field(default_factory=list)


class SharedTrees:
    """Follows astroid from `follow` on, in this process and its forks."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}
        self._reading: list[str] = []
        self._seen: set[str] = set()
        """Modules that this text came upon."""
        self._always: set[str] = set()
        """Modules that every text comes upon."""

    def follow(self) -> None:
        """Hear of every module that astroid looks up, and of every write into another's tree."""
        from astroid.builder import AstroidBuilder
        from astroid.manager import AstroidManager

        look_up, assign = AstroidManager.ast_from_module_name, AstroidBuilder.delayed_assattr

        def watched_look_up(manager: Any, modname: str | None, *rest: Any, **more: Any) -> Any:
            if modname is None or modname in manager.astroid_cache:
                self._come_upon(modname)
                return look_up(manager, modname, *rest, **more)
            self._begin(modname)
            try:
                return look_up(manager, modname, *rest, **more)
            finally:
                self._reading.pop()

        def watched_assign(builder: Any, node: Any) -> None:
            places = [place for place in _foreign_places(node) if not _holds(place, node)]
            assign(builder, node)
            self._note(node, [place for place in places if _holds(place, node)])

        AstroidManager.ast_from_module_name = watched_look_up
        AstroidBuilder.delayed_assattr = watched_assign

    def keep(self) -> None:
        """What was come upon so far is so by every text."""
        self._always = set(self._seen)

    def forget(self) -> None:
        """Take back all writes that the next text need not see."""
        for name in self._seen - self._always:
            for write in self._modules[name].writes:
                write.undo()
        self._seen = set(self._always)

    def _begin(self, name: str) -> None:
        """A module is read, perhaps while another is."""
        self._link(name)
        self._seen.add(name)
        self._modules.setdefault(name, _Module())
        self._reading.append(name)

    def _come_upon(self, name: str | None) -> None:
        """A module that was read before: its writes, and those of all that its reading read."""
        if name is None:
            return
        self._link(name)
        new = [name]
        while new:
            module = self._modules.setdefault(found := new.pop(), _Module())
            if found in self._seen:
                continue
            self._seen.add(found)
            for write in module.writes:
                write.make()
            new += module.read

    def _link(self, name: str) -> None:
        if self._reading:
            self._modules[self._reading[-1]].read.add(name)

    def _note(self, node: Any, places: list[dict[str, list[Any]]]) -> None:
        if places and self._reading:
            writes = [_Write(place, node.attrname, node) for place in places]
            self._modules[self._reading[-1]].writes += writes


def _foreign_places(node: Any) -> Iterator[dict[str, list[Any]]]:
    """Attributes of classes and modules of other modules to which the assignment may be written."""
    from astroid.exceptions import InferenceError

    own = node.root()
    try:
        for inferred in node.expr.infer():
            for found in (inferred, getattr(inferred, "_proxied", None)):
                root = getattr(found, "root", None)
                if root is None or root() is own:
                    continue
                for name in ("instance_attrs", "locals"):
                    place = getattr(found, name, None)
                    if isinstance(place, dict):
                        yield place
    except InferenceError:
        return


def _holds(place: dict[str, list[Any]], node: Any) -> bool:
    return any(found is node for found in place.get(node.attrname, ()))
