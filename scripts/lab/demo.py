"""The second half of scripts/demo: everything after the build."""

import argparse
import re
import subprocess
import sys
import time

from lab import guest, host, kernel, migrate_show, runner, unplug_show, vmm
from lab.errors import LabError
from lab.inside import machine
from lab.paths import SCRIPTS
from lab.result import Event, LabResult
from lab.terminal import Interrupted, raw_terminal, saved_terminal, signals_raise, size_words

SCENARIOS = SCRIPTS / "lab" / "scenarios"
LAB_MEMORY_MIB = 2048  # beside the guest's memory

BATCH_SCRIPT = """set -e
run() { echo "+ $*"; "$@"; }
run uname -a
run grep -m1 'model name' /proc/cpuinfo
run free
run ls /sys/bus/pci/devices
"""
UNPLUG_MODULES = ("virtio_pci", "virtio_blk")
# How a line of the show begins, by who says it.
SPEAKERS = {"type": "$     ", "reply": "reply ", "event": "event ", "guest": "guest|"}
# What the batch's console must contain, by what it shows.
BATCH_CHECKS = {
    "uname -a": r"^Linux \S+ {release} ",
    "the CPU model": r"^model name\s*: \S",
    "free": r"^Mem: +[1-9]\d+ ",
    "the PCI host bridge": r"^0000:00:00\.0",
    "the script's end": r"^lab: exit status 0$",
}


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("show", nargs="?", choices=["unplug", "migrate"])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of unplug")
    parser.add_argument("--channels", type=int, default=2, metavar="N", help="of migrate")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--kernel", default="6.1", choices=sorted(kernel.METAPACKAGES))
    parser.add_argument("--timeout", type=float, default=240, help="for all but the shell, in seconds")
    parser.add_argument("--vmm", default="rhea", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    if not 1 <= options.channels <= 255:
        parser.error("--channels: from 1 to 255")
    return options


class Demo:
    """One run of the demo: what to boot, where, and how."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.vmm = vmm.find(options.vmm)
        self.choice = host.choose()
        say("getting Debian's kernel (from the cache, or one download of about 30 MB)")
        self.kernel = kernel.fetch(options.kernel, update=options.update)
        say(f"kernel: {self.kernel.package}")
        script = BATCH_SCRIPT if options.batch and not options.show else None
        modules = UNPLUG_MODULES if options.show == "unplug" else guest.POWER_BUTTON_MODULES
        self.initrd = guest.initramfs(self.kernel, modules=modules, script=script)
        say(
            f"guest: {options.cpus} CPU, {options.memory} MiB, busybox; VMM: {self.vmm.binary}"
        )
        say(f"running {self.choice}")
        self.files = {"bzimage": self.kernel.bzimage, "initrd": self.initrd}
        self.start = time.monotonic()

    def progress(self, text: str) -> None:
        # The terminal may be in raw mode: a line needs its carriage return.
        print(f"demo: [{time.monotonic() - self.start:5.1f} s] {text}\r", flush=True)

    def batch(self) -> int:
        params = {
            "cpus": self.options.cpus,
            "memory": str(self.options.memory),
            "timeout": self.options.timeout,
        }
        result = self._run("batch", params, self._show_batch, None)
        problems = self._batch_problems(result)
        if not problems:
            say(f"the guest ran its commands and powered off ({result.seconds:.1f} s)")
            return 0
        return self._failed(result, problems)

    @staticmethod
    def _failed(result: LabResult, problems: list[str]) -> int:
        for problem in problems:
            print(f"demo: FAILED: {problem}", file=sys.stderr)
        print(result.report(), file=sys.stderr)
        return 1

    def _batch_problems(self, result: LabResult) -> list[str]:
        if result.exit_status != 0:
            return [result.problem or "the scenario failed"]
        outcome = result.case("batch")
        if not outcome.ok:
            return [outcome.error or "the guest did not finish"]
        console = "\n".join(result.vm_lines("guest"))
        release = re.escape(self.kernel.release)
        problems = [
            f"no output of {what}"
            for what, pattern in BATCH_CHECKS.items()
            if not re.search(pattern.replace("{release}", release), console, re.MULTILINE)
        ]
        if outcome.data["exit_status"] != 0:
            problems.append(f"the VMM's exit status is {outcome.data['exit_status']}")
        return problems

    def _show_batch(self, event: Event) -> None:
        if event["event"] == "line":
            print(f"guest| {event['text']}", flush=True)
        elif event["event"] == "stderr":
            print(event["text"], file=sys.stderr, flush=True)
        else:
            self._show_step(event)

    def _show_step(self, event: Event) -> None:
        if event["event"] == "begin" and self.choice.where == "lab":
            self.progress("the nested machine is up")
        elif event["event"] in ("vm", "boot"):
            self.progress("the guest boots")

    def unplug(self) -> int:
        params = {
            "cpus": self.options.cpus,
            "memory": str(self.options.memory),
            "rounds": self.options.rounds,
            "timeout": self.options.timeout,
        }
        result = self._run("unplug", params, self._show_unplug, None)
        problems = self._unplug_problems(result)
        if not problems:
            rounds = f"{self.options.rounds} time" + "s" * (self.options.rounds > 1)
            say(f"the disk came and went {rounds}, under I/O ({result.seconds:.1f} s)")
            return 0
        return self._failed(result, problems)

    @staticmethod
    def _unplug_problems(result: LabResult) -> list[str]:
        if result.exit_status != 0:
            return [result.problem or "the scenario failed"]
        outcome = result.case("unplug")
        if not outcome.ok:
            return [outcome.error or "the show did not end"]
        return unplug_show.problems(outcome.data)

    def _show_unplug(self, event: Event) -> None:
        if event["event"] == "show":
            print(f"{SPEAKERS[event['who']]} {event['text']}", flush=True)
        elif event["event"] != "line":
            self._show_batch(event)

    def migrate(self) -> int:
        params = {
            "cpus": self.options.cpus,
            "memory": str(self.options.memory),
            "channels": self.options.channels,
            "timeout": self.options.timeout,
        }
        result = self._run("migrate", params, self._show_migrate, None)
        problems = self._migrate_problems(result)
        if problems:
            return self._failed(result, problems)
        for line in migrate_show.figures(result):
            say(f"  {line}")
        counted = len(migrate_show.ticks(result.case("migrate").data["console"]))
        say(f"the guest counted to {counted} over both instances ({result.seconds:.1f} s)")
        return 0

    @staticmethod
    def _migrate_problems(result: LabResult) -> list[str]:
        if result.exit_status != 0:
            return [result.problem or "the scenario failed"]
        outcome = result.case("migrate")
        if not outcome.ok:
            return [outcome.error or "the show did not end"]
        return migrate_show.problems(outcome.data)

    def _show_migrate(self, event: Event) -> None:
        if event["event"] == "line":
            print(f"{event['vm']:<6}| {event['text']}", flush=True)
        elif event["event"] == "vm" and event["vm"] == "second":
            self.progress("the second instance starts, and waits for a machine")
        else:
            self._show_unplug(event)

    def interactive(self) -> int:
        say("the guest's shell follows; end with 'poweroff -f', or Ctrl-A X")
        if self.choice.where == "direct":
            with saved_terminal():
                return subprocess.call(
                    [
                        str(self.vmm.binary),
                        *self._options(str(self.kernel.bzimage), str(self.initrd)),
                    ]
                )
        options = self._options("/lab/files/bzimage", "/lab/files/initrd")
        terminal = runner.Terminal(sys.stdin.fileno(), sys.stdout.fileno())
        with raw_terminal():
            result = self._run("interactive", {"options": options}, self._show_step, terminal)
        if result.exit_status != 0:
            print(f"demo: {result.problem}\n{result.report()}", file=sys.stderr)
            return 1
        say("the guest has ended")
        return 0

    def _options(self, bzimage: str, initrd: str) -> list[str]:
        append = " ".join([guest.CMDLINE, *size_words()])
        base = [*machine.BASE[:-1], "mon:stdio"]
        return [
            *base,
            "-m",
            str(self.options.memory),
            "-smp",
            str(self.options.cpus),
            "-kernel",
            bzimage,
            "-initrd",
            initrd,
            "-append",
            append,
        ]

    def _run(
        self,
        scenario: str,
        params: dict[str, object],
        on_event: runner.EventHandler,
        terminal: runner.Terminal | None,
    ) -> LabResult:
        instances = 2 if scenario == "migrate" else 1
        limit = float("inf") if scenario == "interactive" else self.options.timeout
        if self.choice.where == "lab":
            self.progress("starting the nested machine (about 6 s)")
        return runner.run(
            SCENARIOS / f"{scenario}.py",
            vmms={"vmm": self.vmm},
            files=self.files,
            params=params,
            timeout=limit,
            on_event=on_event,
            terminal=terminal,
            memory_mib=LAB_MEMORY_MIB + instances * self.options.memory,
            choice=self.choice,
        )


def main() -> int:
    signals_raise()
    options = parse(sys.argv[1:])
    if not options.show and not options.batch and not sys.stdin.isatty():
        print("demo: an interactive shell needs a terminal on stdin; try --batch", file=sys.stderr)
        return 2
    try:
        demo = Demo(options)
        if options.show:
            return demo.unplug() if options.show == "unplug" else demo.migrate()
        return demo.batch() if options.batch else demo.interactive()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Interrupted) as reason:
        print(f"demo: interrupted {reason}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
