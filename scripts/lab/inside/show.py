"""Does things where a spectator of the demo sees them: in the guest's shell, and on monitors."""

import json
import shlex

from lab.inside.agent import Context
from lab.inside.vm import Vm
from qmp_client import Command, Message, parse_arguments, parse_script


class Show:
    """One instance on the stage. Where there are several, each has a name, and its lines bear it."""

    def __init__(self, ctx: Context, vm: Vm, name: str = "") -> None:
        self.vm = vm
        self._ctx, self._name = ctx, name
        vm.monitor.on_event = self._event

    def _event(self, event: Message) -> None:
        shown = {key: event[key] for key in ("event", "data") if key in event}
        self.tell("event", self._of_instance(json.dumps(shown)))

    def _of_instance(self, text: str) -> str:
        return f"{self._name}: {text}" if self._name else text

    def tell(self, who: str, text: str) -> None:
        """A line of the show; the demo knows who speaks by `who`."""
        self._ctx.event("show", who=who, text=text)

    def qmp(self, line: str) -> None:
        """A line as one types it behind `scripts/qmp SOCKET`."""
        self.tell("type", f"scripts/qmp {self._name or 'qmp'}.sock {line}")
        for step in parse_script(shlex.split(line)):
            if isinstance(step, Command):
                reply = self.vm.monitor.execute(step.name, parse_arguments(step.words))
                self.tell("reply", self._of_instance(json.dumps(reply)))
            else:
                self.vm.monitor.wait_event(step.pattern)

    def shell(self, command: str) -> str:
        """A command in the guest, and what it prints."""
        self.tell("guest", f"# {command}")
        _, output = self.vm.console.run(command)
        for line in output.splitlines():
            self.tell("guest", line)
        return output
