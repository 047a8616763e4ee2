"""Runs steps side by side, as many as the machine has cores, in dependency order.

A build takes all cores by itself; beside it runs what waits most of its time, a lab say.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

from .steps import OUT, ROOT, Counts, Step

TAIL_LINES = 60


class Runner:
    """Runs a list of steps. Results are printed as they come; a failed step fails what is after it."""

    def __init__(self, steps: list[Step], cores: int) -> None:
        self._waiting = list(steps)
        self._lanes_free = cores
        self._done: dict[str, bool] = {}
        self._names = {step.name for step in steps}
        self._changed = threading.Condition()
        self.total = Counts()

    def run(self) -> Counts:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        threads = []
        with self._changed:
            while self._waiting or len(self._done) < len(self._names):
                step = self._next_ready()
                if step is None:
                    self._changed.wait()
                    continue
                self._lanes_free -= 1
                thread = threading.Thread(target=self._run_step, args=(step,))
                threads.append(thread)
                thread.start()
        for thread in threads:
            thread.join()
        return self.total

    def _next_ready(self) -> Step | None:
        for step in list(self._waiting):
            needs = [name for name in step.after if name in self._names]
            if any(self._done.get(name) is False for name in needs):
                self._waiting.remove(step)
                self._finish(step, False, Counts(failed=1), 0.0, "what it stands on failed")
                return self._next_ready()
            if self._lanes_free > 0 and all(self._done.get(name) for name in needs):
                self._waiting.remove(step)
                return step
        return None

    def _run_step(self, step: Step) -> None:
        start = time.monotonic()
        status, note = self._execute(step)
        counts = step.read(step, status)
        if note and counts.failed == 0:
            counts.failed = 1
        with self._changed:
            self._lanes_free += 1
            self._finish(step, counts.failed == 0, counts, time.monotonic() - start, note)
            self._changed.notify_all()

    def _execute(self, step: Step) -> tuple[int, str]:
        env = os.environ | step.env
        with open(step.log, "wb") as log:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
            try:
                return process.wait(timeout=step.time_limit_s), ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return 1, f"stopped after {step.time_limit_s} s"

    def _finish(self, step: Step, good: bool, counts: Counts, seconds: float, note: str) -> None:
        self._done[step.name] = good
        self.total.add(counts)
        mark = "ok  " if good else "FAIL"
        print(f"{mark} {step.name:<28} {counts.passed:5} passed {counts.failed:3} failed "
              f"{counts.skipped:3} skipped  {seconds:6.1f} s  {note}", flush=True)
        for reason in counts.skips:
            print(f"       skipped: {' '.join(reason.split())}", flush=True)
        if not good and step.log.exists():
            lines = step.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            print("\n".join("     | " + line for line in lines), flush=True)
            print(f"     whole log: {step.log.relative_to(ROOT)}", flush=True)


def print_total(total: Counts) -> int:
    """The last line, and the exit status to match."""
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    sys.stdout.flush()
    return 1 if total.failed or not total.passed else 0
