import json
import subprocess
import sys

from llmagentos.core.errors import ConfigError, NotFoundError
from llmagentos.local import output

_NOISY = """
import os, subprocess, sys
from llmagentos.local import output
line = output.Line()
print("python"); os.write(1, b"C\\n"); subprocess.run(["echo", "worker"])
line.write({"a": float("nan"), "b": "\u4f60", "c": [1.5, float("inf")]})
"""


def test_nothing_but_the_line_reaches_stdout():
    done = subprocess.run([sys.executable, "-c", _NOISY], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {"a": None, "b": "你", "c": [1.5, None]}
    assert set(done.stderr.split()) >= {"python", "C", "worker"}


def test_errors_as_objects_and_exit_codes():
    assert output.error_object(NotFoundError("no version 3.", hint="List them.")) == {
        "error": {"code": "not_found", "message": "no version 3.", "hint": "List them."}
    }
    assert output.error_object(KeyError("x"))["error"]["code"] == "internal"
    assert output.exit_code(ConfigError("x")) == 2
    assert output.exit_code(ValueError("x")) == 1


def test_what_ends_a_command_says_so_and_gives_its_code(capsys):
    assert [output.ended(SystemExit(code), None) for code in (3, None, "words")] == [3, 1, 1]
    assert capsys.readouterr().err == ""
    assert output.ended(ConfigError("no such file."), None) == 2
    assert capsys.readouterr().err == "llmagentos: no such file.\n"


def test_the_line_is_said_once():
    """What ends a command behind its line is told on stderr alone."""
    code = "from llmagentos.local import output as o; line = o.Line(); line.write({'started': True}); o.ended(OSError('x'), line)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == '{"started": true}\n'
    assert "OSError: x" in done.stderr
