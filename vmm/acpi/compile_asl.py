"""Compiles ASL and wraps the AML into a C++ header: compile_asl.py IASL IN.asl OUT.h NAME

The compiler's chatter is shown only when it fails; a warning is a failure.
"""
import subprocess
import sys
import tempfile
from pathlib import Path


def compile_asl(iasl, source):
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / 'out.aml'
        result = subprocess.run([iasl, '-we', '-p', target, source], check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            sys.exit(result.stdout)
        return target.read_bytes()


def as_header(data, name):
    rows = (data[i:i + 16] for i in range(0, len(data), 16))
    lines = ['    ' + ' '.join(f'0x{byte:02x},' for byte in row) for row in rows]
    return '\n'.join(['#pragma once', '', '#include <array>', '#include <cstdint>', '',
                      f'inline constexpr std::array<uint8_t, {len(data)}> {name}{{', *lines, '};',
                      ''])


def main():
    iasl, source, target, name = sys.argv[1:]
    Path(target).write_text(as_header(compile_asl(iasl, source), name), encoding='ascii')


main()
