"""What a run of a scenario left behind."""

from dataclasses import dataclass, field
from typing import Any

from lab.errors import LabError

Event = dict[str, Any]


@dataclass
class Case:
    """The recorded outcome of one behaviour under test."""

    name: str
    ok: bool
    error: str | None
    data: dict[str, Any]
    seconds: float


@dataclass
class LabResult:
    """Everything a scenario reported. Each event carries `t` (inside) and `host_t` (on arrival).

    Invariants: `exit_status` is None exactly when the scenario never reported its end; `problem`
    then says why. Units: seconds.
    """

    where: str
    why: str
    exit_status: int | None = None
    problem: str | None = None
    events: list[Event] = field(default_factory=list)
    outer_console: str = ""
    seconds: float = 0.0

    @property
    def cases(self) -> dict[str, Case]:
        return {
            e["case"]: Case(e["case"], e["ok"], e["error"], e["data"], e["seconds"])
            for e in self.events
            if e["event"] == "case"
        }

    def case(self, name: str) -> Case:
        """The outcome of a case; LabError (with what the lab knows) when it never finished."""
        found = self.cases.get(name)
        if found is None:
            raise LabError(f"case {name} left no outcome\n{self.report()}")
        return found

    def vm_lines(self, label: str) -> list[str]:
        """The console of one VM, line by line."""
        return [e["text"] for e in self.events if e["event"] == "line" and e["vm"] == label]

    def named(self, event: str) -> list[Event]:
        return [e for e in self.events if e["event"] == event]

    def report(self) -> str:
        """The story for a person who has to find out what went wrong."""
        tail = self.outer_console.splitlines()[-25:]
        lines = [e["vm"] + "| " + e["text"] for e in self.named("line")][-25:]
        errors = [e["vm"] + " stderr: " + e["text"] for e in self.named("stderr")]
        parts = [
            f"ran {self.where} ({self.why}), {self.seconds:.0f} s, "
            f"exit status {self.exit_status}, problem: {self.problem}"
        ]
        parts += ["guest consoles end with:", *lines] if lines else []
        parts += errors
        parts += ["the nested machine's console ends with:", *tail] if tail else []
        return "\n".join(parts)
