"""Files and directories: several together, what cannot be read, relative paths, whether something changed."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeproxy.config.load import ConfigError, load, load_text, read

LISTENERS = 'listeners: {web: {bind: ":80", protocol: http}}\n'
SERVICES = 'services: {app: {endpoints: ["10.0.0.1:80"]}}\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | bytes], Path]:
    """Writes a file into the current directory, which is a new one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str | bytes) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path
    return write


Write = Callable[[str, str | bytes], Path]


def told(*paths: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(paths)
    return "\n".join(problem.headline() for problem in error.value.problems)


def test_several_files_are_one_configuration(here: Write) -> None:
    here("a.yaml", LISTENERS + "routes: [{service: app}]\naccess_log: {format: off}")
    here("b.yaml", SERVICES + "routes: [{service: app, path: /b}]\nshutdown: {drain: 5s}")
    config = load(["a.yaml", Path("b.yaml")])
    assert [route.path.value for route in config.routes] == ["/", "/b"]
    assert (list(config.services), config.access_log.format, config.shutdown.drain) == (["app"], "off", 5.0)


def test_a_directory_is_its_yaml_files_in_order(here: Write) -> None:
    here("conf.d/20.yaml", "routes: [{service: app, path: /2}]")
    here("conf.d/10.yaml", LISTENERS + SERVICES + "routes: [{service: app, path: /1}]")
    here("conf.d/30.yaml", "# nothing today\n")
    here("conf.d/.hidden.yaml", "nonsense: [")
    here("conf.d/notes.txt", "nonsense: [")
    loaded = read(["conf.d"])
    assert [route.path.value for route in loaded.config.routes] == ["/1", "/2"]
    assert loaded.sources.files == ("conf.d/10.yaml", "conf.d/20.yaml", "conf.d/30.yaml")


def test_what_is_given_twice_is_told_with_both_places(here: Write) -> None:
    here("a.yaml", LISTENERS + SERVICES + "shutdown: {}\nroutes: [{service: app, name: one}]")
    here("b.yaml", 'listeners:\n  web: {bind: ":81", protocol: http}\n' + SERVICES
         + "shutdown: {}\nroutes:\n- {service: app}\n- {name: one, service: app, path: /a}")
    assert told("a.yaml", "b.yaml") == """\
b.yaml:2:3: the listener "web" is given twice, first in a.yaml:1:13
b.yaml:3:12: the service "app" is given twice, first in a.yaml:2:12
b.yaml:4:1: "shutdown" is given twice, first in a.yaml:3:1
b.yaml:6:3: the same match as the route in a.yaml:4:10; join the two, or give one a further condition
b.yaml:7:10: the route "one" is given twice, first in a.yaml:4:10"""


def test_references_reach_into_other_files(here: Write) -> None:
    here("a.yaml", LISTENERS + "routes: [{service: ap, listeners: [wep]}]")
    here("b.yaml", SERVICES)
    assert told("a.yaml", "b.yaml") == """\
a.yaml:2:20: no service is named "ap", did you mean "app"?
a.yaml:2:36: no listener is named "wep", did you mean "web"?"""


def test_a_file_that_cannot_be_read_is_not_the_fault_of_the_others(here: Write) -> None:
    here("a.yaml", LISTENERS + "routes: [{service: app}]\nodd: 1")
    here("b.yaml", SERVICES + "routes: [")
    assert told("a.yaml", "b.yaml", "c.yaml") == """\
a.yaml:3:1: unknown key "odd"; known here: listeners, routes, services, resolver, admin, access_log, shutdown
b.yaml:2:10: expected a value here
c.yaml: no such file or directory"""


def test_what_cannot_be_read(here: Write) -> None:
    os.mkdir("empty")
    here("other/x.yml", LISTENERS)
    here("latin.yaml", b"# gr\xfc\xdfe\n" + LISTENERS.encode())
    here("utf16.yaml", LISTENERS.encode("utf-16"))
    here("picture.yaml", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\x00\x00\x01\x00\x08\x06")
    os.symlink("loop.yaml", "loop.yaml")
    assert told("empty", "other", "none.yaml", "latin.yaml", "latin.yaml/x", "utf16.yaml", "picture.yaml", "loop.yaml",
                "a\0b", "x" * 300) == (
        "empty: no *.yaml in this directory\n"
        "none.yaml: no such file or directory\n"
        "other: no *.yaml in this directory; rename x.yml to x.yaml\n"
        "latin.yaml:1:5: the byte 0xFC is not UTF-8; save the file as UTF-8\n"
        "latin.yaml/x: a part of this path is not a directory\n"
        "utf16.yaml: this text is UTF-16; save it as UTF-8\n"
        "picture.yaml: this looks like a binary file; a YAML text is expected\n"
        "loop.yaml: symbolic links that lead in a circle\n"
        "a\\x00b: this is not the name of a file\n"
        f"…{'x' * 160}: the name is too long")
    assert told() == "no configuration file was named"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(here: Write) -> None:
    here("secret.yaml", LISTENERS).chmod(0)
    assert told("secret.yaml") == "secret.yaml: permission denied: this user may not read it"


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")
def test_an_endless_file() -> None:
    assert told("/dev/zero") == "/dev/zero: a configuration file has at most 16 MiB"


def test_only_empty_files(here: Write) -> None:
    here("a.yaml", "")
    here("b.yaml", "# nothing\n---\n")
    assert told("a.yaml",
                "b.yaml") == "a.yaml: this file is empty; the smallest useful one has listeners, routes and services"


def test_listeners_missing_in_all_files(here: Write) -> None:
    here("a.yaml", "")
    here("b.yaml", SERVICES)
    assert told("a.yaml", "b.yaml") == 'b.yaml:1:1: "listeners" is missing: nothing would be listened on'


def test_relative_paths_are_relative_to_the_file(here: Write, tmp_path: Path) -> None:
    here("sub/a.yaml", 'listeners: {web: {bind: "unix:e.sock", protocol: http}}\naccess_log: {path: logs/access.log}\n'
         'services: {app: {endpoints: ["unix:../app.sock", "unix:/run/b.sock", {address: "unix:c.sock", weight: 2}]}}')
    config = load(["sub/a.yaml"])
    assert config.listeners["web"].bind[0].path == f"{tmp_path}/sub/e.sock"
    assert [endpoint.path for endpoint in config.services["app"].endpoints] == [
        f"{tmp_path}/sub/../app.sock", "/run/b.sock", f"{tmp_path}/sub/c.sock"]
    assert config.access_log.path == f"{tmp_path}/sub/logs/access.log"
    assert load_text("listeners: {web: {bind: 'unix:e.sock', protocol: http}}").listeners["web"].bind[0].path == "e.sock"


def test_a_socket_path_that_is_too_long_only_when_whole(here: Write) -> None:
    deep = "/".join(["d" * 30] * 4)
    here(f"{deep}/a.yaml", "listeners: {web: {bind: 'unix:e.sock', protocol: http}}")
    assert told(f"{deep}/a.yaml").endswith(":1:25: the path of a unix socket has at most 107 bytes")


def test_a_byte_order_mark_and_windows_line_ends(here: Write) -> None:
    here("a.yaml", b"\xef\xbb\xbf" + LISTENERS.replace("\n", "\r\n").encode() + b"oops: 1\r\n")
    assert told("a.yaml").startswith("a.yaml:2:1: unknown key")
    here("b.yaml", b"\xef\xbb\xbfoops: 1\r\n")
    with pytest.raises(ConfigError, match=r"b.yaml:1:1: unknown key .*\n  oops: 1\n  \^"):
        load(["b.yaml"])


def test_sources_know_whether_something_changed(here: Write) -> None:
    here("conf.d/a.yaml", LISTENERS)
    here("b.yaml", SERVICES)
    sources = read(["conf.d", "b.yaml"]).sources
    assert (sources.named, sources.files) == (("conf.d", "b.yaml"), ("conf.d/a.yaml", "b.yaml"))
    assert not sources.changed()
    here("conf.d/a.yaml", LISTENERS)  # written anew, but the same
    assert not sources.changed()
    here("conf.d/c.yaml", "# one more\n")
    assert sources.changed()
    os.unlink("conf.d/c.yaml")
    assert not sources.changed()
    here("b.yaml", SERVICES + "\n")
    assert sources.changed()
    os.unlink("b.yaml")
    assert sources.changed()


def test_a_file_named_twice_counts_once(here: Write) -> None:
    here("a.yaml", LISTENERS)
    assert read(["a.yaml", "a.yaml"]).sources.files == ("a.yaml",)
