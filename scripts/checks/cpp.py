"""What the linters must know of a C++ file, found by its brackets.

Heuristics for this tree, which clang-format lays out, and no parser.
"""

from __future__ import annotations

import dataclasses
import re

# What braces do not count in: comments, raw strings, strings, characters, the preprocessor's lines.
_NOT_CODE = re.compile(
    r'//(?:[^\n\\]|\\.|\\\n)*'
    r'|/\*.*?\*/'
    r'|R"(?P<raw>[^()\s]*)\(.*?\)(?P=raw)"'
    r'|"(?:[^"\\\n]|\\.|\\\n)*"'
    r"|(?<![0-9A-Fa-f])'(?:[^'\\\n]|\\.)+'"
    r"|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.S | re.M)
# A parameter of a template says `class` too, behind '<' or ','; a function may return a `struct x`.
_CONTAINER = re.compile(
    r"(?:^|[^<,\s])\s*\b(?:namespace|class|struct|union|enum|extern)\b"
    r"(?!.*\)\s*(?:const|noexcept|override|final|&|->.*)*$)", re.S)
_ACCESS = re.compile(r"^\s*(?:public|protected|private)\s*:(?!:)")
_NAMED_LAMBDA = re.compile(r"(\w+)\s*=\s*\[\]")


@dataclasses.dataclass(frozen=True)
class Function:
    name: str
    line: int  # of the signature, from 1
    lines: int


def _blank(match: re.Match[str]) -> str:
    """As many lines; a string stays an operand."""
    text = match.group(0)
    return ('""' if text[0] in "\"'R" else "") + "\n" * text.count("\n")


def _skeleton(text: str) -> str:
    """`text` without what stands inside brackets of any kind but <>; the outermost pairs stay."""
    depth, kept = 0, []
    for char in text:
        depth -= char in ")]}"
        if depth == 0:
            kept.append(char)
        depth += char in "([{"
    return "".join(kept)


def _closing(code: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`, or of the end."""
    depth = 0
    for index in range(start, len(code)):
        depth += (code[index] in "([{") - (code[index] in ")]}")
        if depth == 0:
            return index
    return len(code) - 1


def _initialises_member(head: str) -> bool:
    """Whether a brace behind `Name(...) : a_(1), b_` is b_'s: the body comes later."""
    return bool(re.search(r"\)[^:]*(?<!:):(?!:)", head) and re.search(r"[\w>]\s*$", head))


def _is_function(head: str) -> bool:
    before_parameters = re.sub(r"operator[^\w\s(]+", "", head.split("(")[0])
    if re.search(r"(?<![=!<>])=(?!=)", before_parameters):
        return bool(_NAMED_LAMBDA.search(head))
    return "(" in head


def _name(head: str) -> str:
    found = _NAMED_LAMBDA.search(head) or re.search(r"([~\w:]+|operator\W+)\s*\(", head)
    return found.group(1) if found else "?"


def functions(source: str) -> list[Function]:
    """All functions with a body, in their order; those of a class included.

    Lines count from the signature to the closing brace. A lambda or a local class is part of the
    function around it. What braces initialise (a table) is no function.
    """
    code = _NOT_CODE.sub(_blank, source)
    found: list[Function] = []
    start = index = depth = 0  # where the current declaration starts; its open parentheses
    while index < len(code):
        char = code[index]
        depth += (char == "(") - (char == ")")
        if depth == 0 and char in ";}":
            start = index + 1
        elif depth == 0 and char == "{":
            declaration = _ACCESS.sub("", code[start:index])
            head = _skeleton(declaration)
            if _CONTAINER.search(head):
                start = index + 1
            else:
                first, index = index - len(declaration.lstrip()), _closing(code, index)
                if _is_function(head) and not _initialises_member(head):
                    found.append(Function(_name(head), code.count("\n", 0, first) + 1,
                                          code.count("\n", first, index) + 1))
                    start = index + 1
        index += 1
    return found


def new_with(source: str, name: str) -> list[int]:
    """The lines of raw `new` expressions that call `name` among their arguments."""
    code = _NOT_CODE.sub(_blank, source)
    lines = []
    for found in re.finditer(r"\bnew\s+[\w:]+(?:\s*<[^;{}()]*>)?\s*[({]", code):
        arguments = code[found.end():_closing(code, found.end() - 1)]
        if re.search(rf"\b{name}\(", arguments):
            lines.append(code.count("\n", 0, found.start()) + 1)
    return lines
