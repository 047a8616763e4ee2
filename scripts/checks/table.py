"""The one table of what is checked, in which group, at which size.

Groups: `quick` while working (under three minutes on a built tree); `default`, which is CI, runs every
test of every tier at its short size, the sanitizer suites included; `all --part P` runs the full sizes
by hand. A test takes its size from RHEA_TEST_SIZE (short if unset, or full).
"""

from __future__ import annotations

import sys

from . import steps
from .steps import ROOT, Step

PYTHON = "/usr/bin/python3"
# Enough optimisation to run fast and debug information to name lines: sanitizer builds are most of the
# time that a check takes. ccache is to find what another clone has built, though the folder's name is
# in the debug information.
CLANG = {"CC": "ccache clang-19", "CXX": "ccache clang++-19", "CXXFLAGS": "-gline-tables-only",
         "CCACHE_NOHASHDIR": "1"}
SANITIZED = ["--buildtype=plain", "-Doptimization=1", "-Db_lundef=false"]

# name -> (folder, meson options, environment of the build, environment of its tests)
BUILDS = {
    "release": ("build", ["--buildtype=release"], {}, {}),
    "asan": ("build-asan",
             [*SANITIZED, "-Db_sanitize=address,undefined", "-Dfuzz=true"], CLANG,
             {"ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_init_order=1",
              "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}),
    "tsan": ("build-tsan",
             [*SANITIZED, "-Db_sanitize=thread"], CLANG,
             {"TSAN_OPTIONS": "halt_on_error=0:exitcode=66:second_deadlock_stack=1:atexit_sleep_ms=100"}),
}
UNIT_FOLDERS = ["util", "memory", "block", "devices", "migration", "vmm"]
LINTS = ["format", "budgets", "includes", "errors", "commits", "annotations"]
FUZZ_TARGETS = ["options", "qmp", "bzimage", "elf", "blockdev", "virtqueue", "pci", "scsi_cdb",
                "virtio_scsi", "migration", "multifd", "saved_state"]
FULL = {"RHEA_TEST_SIZE": "full"}


def lint(rule: str) -> Step:
    return Step(f"lint-{rule}", [PYTHON, "-m", "scripts.checks.lint", rule], steps.by_status)


def build(name: str) -> Step:
    folder, options, env, _ = BUILDS[name]
    # Everything waits for the first one; beside the others tests run, the lab above all, whose guests
    # do little but tick where they get less than half a core.
    priority = "" if name == "release" else "nice -n 10 "
    script = (f"[ -f {folder}/build.ninja ] || meson setup {folder} {' '.join(options)}; "
              f"exec {priority}ninja -C {folder}")
    return Step(f"build-{name}", ["sh", "-euc", script], steps.by_status, env=env,
                time_limit_s=2400)


def unit(folder: str, name: str, size: dict[str, str]) -> Step:
    tree, _, _, env = BUILDS[name]
    step_name = f"unit-{folder}-{name}"
    report = steps.OUT / f"{step_name}.report"
    return Step(step_name, [f"{tree}/tests/unit/{folder}_test", "-r", "xml", "-o", str(report)],
                steps.catch2, (f"build-{name}",), env | size, time_limit_s=3000)


def kvm_unit(name: str, size: dict[str, str]) -> Step:
    tree, _, _, env = BUILDS[name]
    step_name = f"kvm-unit-{name}"
    report = steps.OUT / f"{step_name}.report"
    return Step(step_name, [f"{tree}/tests/kvm/kvm_test", "-r", "xml", "-o", str(report)],
                steps.catch2, (f"build-{name}",), env | size)


def pytest(tier: str, name: str, size: dict[str, str], time_limit_s: int = 1800) -> Step:
    tree, _, _, env = BUILDS[name]
    step_name = f"{tier}-{name}"
    report = steps.OUT / f"{step_name}.report"
    return Step(step_name,
                [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
                 f"tests/{tier}"],
                steps.pytest, (f"build-{name}",),
                env | size | {"RHEA_BUILD": str(ROOT / tree), "PYTHONDONTWRITEBYTECODE": "1"},
                time_limit_s=time_limit_s)


def models() -> Step:
    log = ROOT / "build" / "meson-logs" / "testlog-models.json"
    return Step("models", ["meson", "test", "-C", "build", "--suite", "models", "--no-rebuild",
                           "--logbase", "testlog-models"],
                steps.meson, ("build-release",), {"MESON_TESTLOG": str(log)})


def fuzz(target: str, seconds: int) -> Step:
    corpus = ROOT / "tests" / "fuzz" / "corpus" / target
    scratch = f"build-asan/fuzz-{target}"
    script = (f"mkdir -p {scratch}; exec build-asan/tests/fuzz/{target}_fuzz "
              f"-max_total_time={seconds} -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "
              f"-artifact_prefix={scratch}/ {scratch} {corpus}")
    return Step(f"fuzz-{target}", ["sh", "-euc", script], steps.by_status, ("build-asan",),
                time_limit_s=seconds + 120)


def compile_check(what: str) -> Step:
    return Step(f"compile-{what}", [PYTHON, "-m", "scripts.checks.compile", what],
                steps.by_status, ("build-release",))


def quick() -> list[Step]:
    return [*map(lint, LINTS), build("release"),
            *(unit(folder, "release", {}) for folder in UNIT_FOLDERS), models(),
            pytest("layering", "release", {}), pytest("annotations", "release", {}),
            pytest("qtest", "release", {}),
            compile_check("tsa")]


def default() -> list[Step]:
    # The lab is one core of emulation for minutes: it starts as soon as there is a binary.
    first = [*map(lint, LINTS), build("release"),
             pytest("lab", "release", {}, time_limit_s=2400)]
    rest = [step for step in quick() if step.name not in {s.name for s in first}]
    sanitized = [build("asan"), build("tsan")]
    for name in ("asan", "tsan"):
        sanitized += [unit(folder, name, {}) for folder in UNIT_FOLDERS]
        sanitized += [kvm_unit(name, {}), pytest("qtest", name, {})]
    return [*first, *rest, compile_check("headers"), kvm_unit("release", {}),
            pytest("kvm", "release", {}), *sanitized, pytest("kvm", "asan", {}),
            *(fuzz(target, 5) for target in FUZZ_TARGETS)]


def stress() -> list[Step]:
    chosen = [build(name) for name in BUILDS]
    for name in BUILDS:
        chosen += [unit(folder, name, FULL) for folder in UNIT_FOLDERS]
        chosen += [kvm_unit(name, FULL)]
    return [*chosen, models(), pytest("qtest", "release", FULL),
            pytest("kvm", "release", FULL, time_limit_s=5400)]


PARTS = {
    "stress": stress,
    "lab": lambda: [build("release"), pytest("lab", "release", FULL, time_limit_s=5400)],
    "fuzz": lambda: [build("asan"), *(fuzz(target, 60) for target in FUZZ_TARGETS)],
}


def select(group: str, part: str | None, only: list[str] | None) -> list[Step]:
    if group == "all":
        chosen = [step for name in ([part] if part else PARTS) for step in PARTS[name]()]
        chosen = list({step.name: step for step in chosen}.values())
    else:
        chosen = quick() if group == "quick" else default()
    if not only:
        return chosen
    by_name = {step.name: step for step in chosen}
    unknown = [name for name in only if name not in by_name]
    if unknown:
        sys.exit(f"check: no step {', '.join(unknown)} in this group; see --list")
    wanted = set(only)
    for name in list(wanted):
        wanted |= set(by_name[name].after)
    return [step for step in chosen if step.name in wanted]
