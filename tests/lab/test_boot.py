"""Stock Debian kernels boot to a shell on the serial console and power off."""

import pytest

from conftest import FULL
from lab.result import LabResult

BOOTS = [("one_cpu", 1), ("two_cpus", 2), ("four_cpus", 4), ("pvh", 1)]


def check_boot(lab: LabResult, case: str, cpus: int) -> None:
    outcome = lab.case(case)
    assert outcome.ok, f"{outcome.error}\n{lab.report()}"
    release = outcome.data["release"]
    assert release.endswith("cloud-amd64")
    assert outcome.data["uname"] == [0, f"{release}\n"]
    assert outcome.data["cpus"] == cpus
    assert outcome.data["nproc"] == [0, f"{cpus}\n"]
    console = lab.vm_lines(case)
    assert f"lab: guest is up, Linux {release}, {cpus} CPU" in console
    assert any(line.startswith("BusyBox v") for line in console)
    assert any("reboot: Power down" in line for line in console)
    assert not any("Kernel panic" in line for line in console)
    assert outcome.data["exit_status"] == 0


@pytest.mark.lab_run("boot")
@pytest.mark.parametrize(("case", "cpus"), BOOTS)
def test_debian_6_1_boots_to_the_shell_and_powers_off(lab: LabResult, case: str, cpus: int) -> None:
    check_boot(lab, case, cpus)


@pytest.mark.lab_run("boot")
def test_the_scenario_ran_to_its_end(lab: LabResult) -> None:
    assert lab.exit_status == 0, lab.report()


if FULL:

    @pytest.mark.lab_run("boot_6_12")
    @pytest.mark.parametrize(("case", "cpus"), [("one_cpu", 1), ("pvh", 1)])
    def test_debian_6_12_boots_too(lab: LabResult, case: str, cpus: int) -> None:
        check_boot(lab, case, cpus)
