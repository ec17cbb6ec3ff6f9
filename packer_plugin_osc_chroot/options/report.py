"""What Prepare has to say: every error and warning, each with the path of the value it is about."""

import dataclasses


@dataclasses.dataclass
class Report:
    """Collects; a path is an option's name and what leads on from it: `tags.Name`, `mounts[1][2]`."""

    errors: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    _failed: set[str] = dataclasses.field(default_factory=set)

    def error(self, path: str, problem: str) -> None:
        self.errors.append(f"{path}: {problem}")
        self._failed.add(path)

    def warn(self, path: str, problem: str) -> None:
        self.warnings.append(f"{path}: {problem}")

    def has_failed(self, path: str) -> bool:
        """Whether the value there, or anything inside it, has an error."""
        return any(
            failed == path or failed.startswith((f"{path}.", f"{path}[")) for failed in self._failed
        )
