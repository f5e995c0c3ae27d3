"""The peak memory that a worker reports, against memory taken on purpose."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

MIB = 1 << 20

# Prints what is reported before and after taking and giving back `size` MiB, by itself or by a child that still runs.
PROGRAM = """
import subprocess, sys
from pipelines.memory import peak_memory
size, child = int(sys.argv[1]), sys.argv[2] == "child"
print(*peak_memory())
take = f"b = bytearray({size} << 20); b[::4096] = b[::4096].replace(bytes(1), bytes([1])); del b; print()"
if child:
    program = take + "; import sys; sys.stdout.flush(); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
else:
    exec(take.replace("; print()", ""))
print(*peak_memory())
if child:
    process.communicate()
    print(*peak_memory())
"""


def reports(size: int, whose: str) -> list[tuple[str, int]]:
    """What the program prints: name and bytes."""
    command = [sys.executable, "-c", PROGRAM, str(size), whose]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(name, int(held)) for name, held in (line.split() for line in done.stdout.splitlines())]


def test_memory_that_was_given_back_counts() -> None:
    (_, before), (_, after) = reports(300, "itself")
    assert 290 * MIB <= after - before <= 330 * MIB


def test_what_the_parent_held_does_not() -> None:
    """A large process starts the workers: the tests' own is one."""
    ballast = bytearray(b"x") * (300 * MIB)
    (_, before), _ = reports(1, "itself")
    assert before < len(ballast)


@pytest.mark.skipif(sys.platform != "linux", reason="children are counted on Linux alone")
def test_a_running_child_counts_at_its_own_peak_and_an_ended_one_no_more() -> None:
    (_, before), (_, during), (_, after) = reports(300, "child")
    assert 290 * MIB <= during - before <= 360 * MIB  # with the child's own interpreter
    assert after < before + 30 * MIB


def test_processes_are_told_apart_across_machines() -> None:
    from pipelines.memory import peak_memory

    name, held = peak_memory()
    assert name == f"{socket.gethostname()}/{os.getpid()}"
    assert held > 10 * MIB
