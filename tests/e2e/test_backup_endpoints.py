"""A backup endpoint serves only while no primary is ready."""
from __future__ import annotations

from e2e.backends import StartActor, answering
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import ask


def test_the_backup_serves_while_the_primaries_are_down(edge: StartEdge, actor: StartActor) -> None:
    one, two, backup = actor(answering("one")), actor(answering("two")), actor(answering("backup"))
    port = free_port()
    edge(web(port, f"{{address: '127.0.0.1:{backup.port}', backup: true}}", one.port, two.port,
             service="eject: {failures: 1, for: 200ms}"))
    assert {ask(port).text for _ in range(10)} == {"one", "two"}
    assert backup.connections == 0
    one.stop()
    assert {ask(port).text for _ in range(10)} == {"two"}
    two.stop()
    assert {ask(port).text for _ in range(10)} == {"backup"}
    actor(answering("one again"), one.port)
    eventually(lambda: ask(port).text == "one again", "the primary serves again")
    served = {ask(port).text for _ in range(10)}
    assert served == {"one again"}
