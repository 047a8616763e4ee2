"""The guest's life after booting: reboot, stop and cont, power button, RAM above 4 GiB."""

import re

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

STOP_SECONDS = 10.0
# The brackets keep the terminal's echo of the command from looking like a complaint.
COMPLAINTS = "'sof[t] lockup|rcu.*stall|clocksource.*(unstable|skew)|hung task'"


def run(ctx: Context) -> None:
    _reboot(ctx)
    _no_reboot(ctx)
    _stop_and_power_button(ctx)
    _big_ram(ctx)


def _reboot(ctx: Context) -> None:
    with ctx.case("reboot") as record, ctx.vm("reboot", linux(ctx), qmp=True) as vm:
        vm.monitor.negotiate()
        expect_banner(vm.console)
        vm.console.login()
        vm.console.send("reboot -f\n")
        record["event"] = vm.monitor.wait_event("RESET").get("data")
        record["second_release"], _ = expect_banner(vm.console)
        vm.console.login()
        record["banners"] = len(re.findall(r"^lab: guest is up", vm.console.text, re.MULTILINE))
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()


def _no_reboot(ctx: Context) -> None:
    append = [ctx.params["exit_0_script"], "lab.end=reboot"]
    options = linux(ctx, "-no-reboot", append=append)
    with ctx.case("no_reboot") as record, ctx.vm("no_reboot", options) as vm:
        expect_banner(vm.console)
        vm.console.expect(r"^lab: exit status 0")
        record["exit_status"] = vm.wait_exit()
        record["banners"] = len(re.findall(r"^lab: guest is up", vm.console.text, re.MULTILINE))


def _stop_and_power_button(ctx: Context) -> None:
    options = linux(ctx, initrd="initrd_button", cpus=2)
    with ctx.vm("stop", options, qmp=True) as vm:
        with ctx.case("stop_cont") as record:
            vm.monitor.negotiate()
            expect_banner(vm.console)
            vm.console.login()
            before, begin = _monotonic(vm), ctx.now()
            vm.monitor.execute("stop")
            vm.monitor.wait_event("STOP")
            record["status_stopped"] = vm.monitor.execute("query-status")
            text_at_stop = len(vm.console.text)
            ctx.pump.run_for(STOP_SECONDS)  # the wait is the subject, not a synchronisation
            record["printed_while_stopped"] = vm.console.text[text_at_stop:]
            vm.monitor.execute("cont")
            vm.monitor.wait_event("RESUME")
            record["status_running"] = vm.monitor.execute("query-status")
            after, end = _monotonic(vm), ctx.now()
            record["guest_seconds"], record["host_seconds"] = after - before, end - begin
            record["log_lines"] = _number(vm, "dmesg | wc -l", r"(\d+)")
            record["complaints"] = vm.console.run(f"dmesg | grep -iE {COMPLAINTS}")[1]
        with ctx.case("power_button") as record:
            vm.monitor.execute("system_powerdown")
            record["event"] = vm.monitor.wait_event("POWERDOWN")["event"]
            vm.console.expect(r"lab: power button")
            record["shutdown"] = vm.monitor.wait_event("SHUTDOWN").get("data")
            record["exit_status"] = vm.wait_exit()


def _monotonic(vm: Vm) -> float:
    """The guest's CLOCK_MONOTONIC (/proc/uptime would count the boot-time clock)."""
    return _number(vm, "grep '^now at' /proc/timer_list", r"now at (\d+) nsecs") / 1e9


def _free_pages_above_4g(vm: Vm) -> int:
    return _number(vm, "grep -A1 'zone *Normal' /proc/zoneinfo", r"pages free +(\d+)")


def _number(vm: Vm, command: str, pattern: str) -> int:
    _, text = vm.console.run(command)
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"{command} printed {text!r}")
    return int(found.group(1))


def _big_ram(ctx: Context) -> None:
    options = linux(ctx, memory=f"{ctx.params['big_ram_mib']}M")
    with ctx.case("big_ram") as record, ctx.vm("big_ram", options) as vm:
        expect_banner(vm.console)
        vm.console.login()
        record["iomem"] = vm.console.run("grep 'System RAM' /proc/iomem")[1]
        record["meminfo"] = vm.console.run("cat /proc/meminfo")[1]
        # Linux takes page cache from the highest zone first: the file below lies above 4 GiB.
        record["normal_free_before"] = _free_pages_above_4g(vm)
        record["fill"] = vm.console.run(
            "mkdir /big; mount -t tmpfs big /big; for i in "
            f"$(seq {ctx.params['fill_copies']}); do cat /bin/busybox; done > /big/a; "
            "md5sum < /big/a",
            timeout=120,
        )
        record["normal_free_after"] = _free_pages_above_4g(vm)
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()
