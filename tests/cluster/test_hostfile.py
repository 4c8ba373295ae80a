"""Hostfiles, addresses and machines that cannot be used: one line each, before a model is loaded."""

import json
import sys

import pytest

from mlx_diffucoder.cluster import processes
from mlx_diffucoder.cluster.hostfile import read_hosts
from mlx_diffucoder.errors import ClusterError

from ..cli.command import assert_one_line, diffucode
from ..conftest import DATA
from ..evaluation.programs import FUNCTIONS

pytest.importorskip("distributed")


def hostfile(folder, content):
    path = folder / "hosts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def run(cluster, *args, **env):
    given = ("-m", DATA / "dream-b", "--max-tokens", "4", "--limit", "1", "--allow-code-execution")
    return diffucode("eval", FUNCTIONS, *given, "--cluster", cluster, *args, env=env)


def test_both_forms_of_mlx_launch_are_read(tmp_path):
    rows = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "a", "rdma": [None]}, {"ssh": "a", "python": "/p"}]
    plain = read_hosts(hostfile(tmp_path, rows))
    assert [host.name for host in plain] == ["127.0.0.1", "a", "a (2)"]
    assert [host.here for host in plain] == [True, False, False]
    assert [host.python for host in plain] == [sys.executable, sys.executable, "/p"]
    assert [host.envs for host in read_hosts(hostfile(tmp_path, {"hosts": rows, "backend": "ring", "envs": ["A=1"]}))] == [
        ("A=1",)
    ] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mac1\nmac2\n", "is not JSON; a hostfile is [{"),
        ("[" * 100_000, "is not JSON"),
        ([], "names no machines"),
        ({"machines": []}, "names no machines"),
        (["mac1"], 'hosts[0] needs "ssh"'),
        ([{"ssh": "a"}, {"ips": ["1.2.3.4"]}], 'hosts[1] needs "ssh"'),
        ([{"ssh": "-oProxyCommand=x"}], 'hosts[0] needs "ssh"'),
        ([{"ssh": "a\n"}], 'hosts[0] needs "ssh"'),
        ([{"ssh": "a", "ips": "1.2.3.4"}], "hosts[0]: ips must be a list"),
        ([{"ssh": "a", "python": 3}], "hosts[0]: python must be the path"),
        ({"hosts": [{"ssh": "a"}], "envs": ["-i"]}, "envs must be a list"),
        ({"hosts": [{"ssh": "a"}], "envs": {"A": "1"}}, "envs must be a list"),
    ],
)
def test_what_is_no_hostfile_is_one_line(tmp_path, content, said):
    path = hostfile(tmp_path, content)
    with pytest.raises(ClusterError) as error:
        read_hosts(path)
    assert str(error.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/nowhere/hosts.json", "/nowhere/hosts.json"),
        ("tcp://192.168.1.2:8786", "is not encrypted; use tls://"),
        ("tls://192.168.1.2", "an address is tls://HOST:PORT"),
        ("http://127.0.0.1:8787", "an address is tls://HOST:PORT"),
    ],
)
def test_what_names_no_cluster_is_one_line(where, said):
    done = run(where)
    assert_one_line(done, said, code=done.returncode or 1)


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


OTHER = 'echo "Welcome!"; echo \'diffucode-worker {"mlx-diffucoder": "0.0.9"}\'; cat'


@pytest.mark.parametrize(
    ("ssh", "python", "said"),
    [
        ("mac2", None, "mac2: ssh cannot log in there (ssh: mac2: no such host); `ssh mac2 true` must ask nothing"),
        ("127.0.0.1", "/nowhere/python", "127.0.0.1: no worker starts there (env: "),
        ("127.0.0.1", "echo no module >&2; exit 1", "no worker starts there (no module); install"),
        ("127.0.0.1", OTHER, "127.0.0.1: has mlx-diffucoder 0.0.9, and this machine 0.1.0; install the same version"),
        ("127.0.0.1", "echo hello; cat", "127.0.0.1: does not answer in 0.5 seconds"),
    ],
)
def test_a_machine_that_cannot_work_is_named(tmp_path, monkeypatch, ssh, python, said):
    monkeypatch.setattr(processes, "ANSWERS", 0.5 if "hello" in (python or "") else 20)
    script(tmp_path, "ssh", "echo ssh: mac2: no such host >&2; exit 255")
    if python and not python.startswith("/"):
        python = script(tmp_path, "python", python)
    path = hostfile(tmp_path, [{"ssh": ssh, **({"python": python} if python else {})}])
    done = run(path, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert_one_line(done, said)


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
    from mlx_diffucoder.cluster import machines

    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    done = run(hostfile(tmp_path, [{"ssh": "127.0.0.1"}]))
    assert_one_line(done, 'pip install "mlx-diffucoder[cluster]"', code=2)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--trace", "traces"), "--trace writes on the machine"),
        (("--samples", DATA / "dream-b" / "config.json"), "is for answers of a model"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(tmp_path, args, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(hostfile(tmp_path, [{"ssh": "127.0.0.1"}]), *args)
    assert_one_line(done, said, code=2)
    assert not (tmp_path / "traces").exists()
