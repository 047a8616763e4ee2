"""What scenarios of the lab measure: an event for each sample, of one side, with values by name."""

from collections.abc import Callable

from lab.result import Event, LabResult

SIDES = ("rhea", "qemu")
# By case, by side, in the order in which they came.
Samples = dict[str, dict[str, list[float]]]


def tick(event: Event) -> None:
    """A dot on the screen for each."""
    if event["event"] == "sample":
        print(".", end="", flush=True)


def collect(result: LabResult, case: Callable[[Event, str], str]) -> Samples:
    """`case` names what a value of that name in an event belongs to."""
    samples: Samples = {}
    for event in result.named("sample"):
        for name, value in event["values"].items():
            samples.setdefault(case(event, name), {}).setdefault(event["side"], []).append(value)
    return samples
