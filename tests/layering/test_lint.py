"""The linters refuse what they are for: seen to fail, not believed to."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from scripts.checks import cpp, lint  # noqa: E402


def found(source: str) -> list[tuple[str, int, int]]:
    return [(f.name, f.line, f.lines) for f in cpp.functions(source)]


def long_function(lines: int, head: str = "int f()") -> str:
    return "\n".join(["namespace rhea {", head + " {", *["  g();"] * (lines - 2), "}", "}"]) + "\n"


@pytest.mark.parametrize("head", [
    "int f()",
    "template <class A, class B>\nvoid f(A a, B b)",
    "Result<void> Some::f(int n) const REQUIRES(bql)",
    "auto f(int n) const noexcept -> std::vector<int>",
    "Some& Some::operator=(Some&& other) noexcept",
    "Some::Some(int n) : a_(n), b_{n}, c_{{1, 2}}",
    "Some::Some() : f_{[] { return 1; }}",
    'TEST_CASE("f: a {brace} in a string", "[f]")',
    "constexpr auto f = [](int n)",
])
def test_a_function_over_budget_is_refused(head: str) -> None:
    extra = head.count("\n")
    fits, too_long = (long_function(lint.FUNCTION_LINES + n - extra, head) for n in (0, 1))
    assert lint.functions_over_budget("some.cc", fits) == []
    [problem] = lint.functions_over_budget("some.cc", too_long)
    assert problem.startswith("some.cc:2: ") and problem.endswith("has 61 lines, the budget is 60")


def test_lambdas_and_local_classes_count_into_their_function() -> None:
    inner = ["  const auto g = [] {", *["    h();"] * 30, "  };",
             "  struct Local {", "    void h() {", *["      i();"] * 30, "    }", "  };"]
    source = "\n".join(["void f() {", *inner, "}"])
    assert found(source) == [("f", 1, 68)]
    assert lint.functions_over_budget("some.cc", source)


def test_a_table_is_no_function() -> None:
    rows = ["  Row{1, make(2)},"] * 100
    for head in ("constexpr std::array kRows{", "const Row rows[size(3)] = {",
                 "enum class Big : uint8_t {"):
        assert lint.functions_over_budget("some.cc", "\n".join([head, *rows, "};"])) == []


def test_every_function_of_a_class_is_found() -> None:
    source = '''
class CAPABILITY("role") Some final : public Base<int> {
 public:
  Some() = default;
  explicit Some(int n) : n_(n) {}
  ~Some();
  int get() const { return n_; }  // } not here
  void set(char c) {
    if (c == '{' || c == '"') return;
    log(R"({ neither here)");
  }

 private:
#define BRACE {
  struct Part {
    bool operator==(const Part&) const { return true; }
  };
  std::function<void()> on_end_ = [] {};
  uint64_t n_{1'000};
};
int after() { return 0; }
'''
    assert found(source) == [("Some", 5, 1), ("get", 7, 1), ("set", 8, 4), ("operator==", 16, 1),
                             ("on_end_", 18, 1), ("after", 21, 1)]


@pytest.mark.parametrize("source, lines", [
    ("auto a = std::unique_ptr<T>(\n    new T(TRY(make())));", [2]),
    ("T* a = new rhea::T<int>{1,\n  f(TRY(make()))};", [1]),
    ("auto made = TRY(make());\nreturn std::unique_ptr<T>(new T(std::move(made)));", []),
    ("auto a = std::make_unique<T>(TRY(make()));", []),
    ("// new T(TRY(make()))\nstd::string s = \"new T(TRY(make()))\";", []),
])
def test_try_inside_a_raw_new_is_refused(source: str, lines: list[int]) -> None:
    assert [int(p.split(":")[1]) for p in lint.leaks_by_try("some.cc", source)] == lines


@pytest.mark.parametrize("source, lines", [
    ("void f() NO_THREAD_SAFETY_ANALYSIS {\n}", [1]),
    ("int a;  // of b\n\nvoid f() NO_THREAD_SAFETY_ANALYSIS;", [3]),
    ("int a;  // of b\nvoid f() NO_THREAD_SAFETY_ANALYSIS;", [2]),
    ("// a\n\nvoid f() NO_THREAD_SAFETY_ANALYSIS;", [3]),
    (" public:\n  A(int b,\n    int c) NO_THREAD_SAFETY_ANALYSIS : d_(b) {}", [3]),
    ("// why\nvoid f() NO_THREAD_SAFETY_ANALYSIS;\nvoid g() NO_THREAD_SAFETY_ANALYSIS;", [3]),
    ("// why\nvoid f() NO_THREAD_SAFETY_ANALYSIS {\n}", []),
    ("void f() NO_THREAD_SAFETY_ANALYSIS {  // why\n}", []),
    ("/// what\n// why\ntemplate <class A>\nvoid f(int b,\n       A c) NO_THREAD_SAFETY_ANALYSIS;", []),
    ("#define NO_THREAD_SAFETY_ANALYSIS RHEA_TSA(no_thread_safety_analysis)", []),
    ("// NO_THREAD_SAFETY_ANALYSIS is for locks", []),
])
def test_an_exemption_without_its_reason_is_refused(source: str, lines: list[int]) -> None:
    assert lint.unexplained_exemptions(source) == lines
