"""What nobody but the two nodes may know is nowhere to be read: no log, status, process list or answer has it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pydrbd.core.handshake import NetOptions
from tests.admin.test_newcomer import both_up
from tests.admin.test_process import pid_of

SECRET = "nobody-may-read-me"
OTHER = "nor-may-anybody-read-me"


def with_secret(node, secret: str) -> None:
    lines = [line for line in node.config.read_text().splitlines() if "shared-secret" not in line]
    at = lines.index("resource r0 {") + 1
    lines.insert(at, f'net {{ cram-hmac-alg sha256; shared-secret "{secret}"; verify-alg crc32c; }}')
    node.config.write_text("\n".join(lines) + "\n")


def test_a_secret_is_in_no_log_status_or_process_list(node):
    """Of two nodes that meet, part over another secret, are adjusted, and are asked for all that they tell."""
    with_secret(node, SECRET)
    told = []

    def tell(verb, *words, run=None):
        result = (run or node)(verb, *words)
        told.append(f"{verb}: {result.out}{result.err}")
        return result

    beta_run = node.directory / "run-b"
    with both_up(node, beta_run) as beta:
        assert tell("wait-connect", "-t", "20", "r0").code == 0
        proc = Path(f"/proc/{pid_of(node)}")
        told += [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
        with_secret(node, OTHER)
        assert "shared-secret changed" in tell("adjust", "r0").out
        assert tell("disconnect", "r0").code == 0
        assert tell("connect", "r0").code == 0
        tell("wait-connect", "-t", "20", "r0").complains(10, "authentication failed")
        for verb, *words in (
            ("show", "r0"), ("status", "r0"), ("status", "--json", "r0"), ("status", "--verbose", "r0"),
            ("events2", "--now", "all"), ("metrics", "--once"), ("sh-status", "r0"), ("doctor", "r0"),
        ):  # fmt: skip
            tell(verb, *words)
        tell("status", "r0", run=beta)
        tell("net-options", f"--shared-secret={SECRET}", "r0")
    logs = [path.read_text() for run in (node.run_dir, beta_run) for path in run.glob("*.log*")]
    assert len(logs) == 2 and all("authenticat" in text for text in logs)
    for text in (*told, *logs):
        assert SECRET not in text and OTHER not in text, text


def test_show_says_that_there_is_a_secret(node):
    """And not which; `dump` reads the file with the rights of whoever asks, and shows what it has."""
    with_secret(node, SECRET)
    with both_up(node, node.directory / "run-b"):
        assert 'shared-secret    "(not shown)";' in node("show", "r0").out
    assert SECRET in node("dump", "r0").out


def test_a_secret_is_refused_on_a_command_line(place, process):
    """Everybody on the machine could read it there while the command runs; nothing is sent."""
    refused = place("net-options", "--shared-secret=x", "r0")
    refused.complains(64, "can be read by every user", "pydrbd adjust r0")
    assert "options" not in json.dumps(process.asked)


def test_up_takes_no_code_from_the_current_directory(node, monkeypatch):
    """It may be /tmp, where anybody can leave a pydrbd or a trio of their own."""
    trap = node.directory / "trap"
    trap.mkdir()
    for name in ("pydrbd", "trio", "logging"):
        (trap / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(trap)
    assert node("create-md", "r0").code == 0
    assert node("up", "r0").code == 0
    assert "role:Secondary" in node("status", "r0").out


def test_no_text_of_a_nodes_options_has_the_secret():
    """An assertion's message, or a debugger's print, may end up in a log."""
    options = NetOptions(cram_hmac_alg="sha1", shared_secret=SECRET)
    assert SECRET not in repr(options) and SECRET not in repr(dataclasses.replace(options, protocol=options.protocol))
