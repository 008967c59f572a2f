"""What a reload changes, in words."""
from __future__ import annotations

from edgeproxy.config.delta import delta
from edgeproxy.config.load import load_text
from edgeproxy.config.model import Config


def config(routes: str = "", services: str = "", listeners: str = "", rest: str = "") -> Config:
    return load_text(f"""
listeners: {{web: {{bind: ":80", protocol: http}}{listeners}}}
routes: [{{service: app}}{routes}]
services: {{app: {{endpoints: ["10.0.0.1:80", "10.0.0.2:80"]}}{services}}}
{rest}
""", env={})


def test_nothing() -> None:
    same = delta(config(), config())
    assert not same
    assert str(same) == "nothing changed"
    assert same.lines() == []


def test_everything() -> None:
    old = config(", {service: app, path: /old}, {service: app, path: /x}",
                 ", gone: {}, kept: {balance: random, endpoints: ['10.0.0.3:80']}",
                 ", old: {bind: ':81', protocol: http}")
    new = config(", {service: app, path: /new}, {service: kept, path: /x, timeouts: {total: 1s}}",
                 ", kept: {pool: {idle: 1}, endpoints: [{address: '10.0.0.3:80', weight: 2}, '10.0.0.4:80']}, more: {}",
                 ", new: {bind: ':82', protocol: http}", "access_log: {format: off}")
    change = delta(old, new)
    assert change.lines() == [
        "+ listener new", "- listener old",
        "+ route */new", "~ route */x: service, timeouts", "- route */old",
        "+ service more", "~ service kept: balance, pool", "- service gone",
        "+ endpoint kept 10.0.0.4:80", "~ endpoint kept 10.0.0.3:80: weight",
        "~ access_log"]
    assert change
    assert str(change) == "; ".join(change.lines())
    assert change.services.added == ("more",)
    assert change.services.changed == (("kept", ("balance", "pool")),)
    assert change.endpoints.removed == ()


def test_a_listener_changes() -> None:
    change = delta(config(), load_text("""
listeners: {web: {bind: [":80", ":81"], protocol: http, timeouts: {idle: 1s}}}
routes: [{service: app}]
services: {app: {endpoints: ["10.0.0.2:80"]}}
shutdown: {drain: 1s}
"""))
    assert str(change) == "~ listener web: bind, timeouts; - endpoint app 10.0.0.1:80; ~ shutdown"


def test_the_order_of_routes_is_a_change() -> None:
    one, two = ", {service: app, path: {regex: x}}, {service: app, path: {regex: y}}", ", {service: app, path: {regex: y}}, {service: app, path: {regex: x}}"
    assert str(delta(config(one), config(two))) == "~ order of the routes"


def test_many_changes_are_counted() -> None:
    many = "".join(f", {{service: app, path: /{n}}}" for n in range(1000))
    assert str(delta(config(), config(many, ", more: {}"))) == "routes 1000 added; service 1 added"
