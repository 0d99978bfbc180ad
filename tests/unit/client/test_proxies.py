"""Which proxy is between a caller and a service, as gRPC reads the environment."""

import pytest

from sightline.client.transport.channel import options_for
from sightline.client.transport.proxies import advice, variable_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "address", "variable"),
    [
        ({}, "host.example:1", ""),
        ({"http_proxy": PROXY}, "host.example:1", "http_proxy"),
        ({"http_proxy": PROXY, "https_proxy": PROXY}, "host.example:1", "https_proxy"),
        ({"http_proxy": PROXY, "grpc_proxy": PROXY, "https_proxy": PROXY}, "dns:///host.example:1", "grpc_proxy"),
        ({"http_proxy": PROXY, "grpc_proxy": ""}, "host.example:1", ""),
        ({"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}, "host.example:1", ""),
        ({"http_proxy": PROXY}, "localhost:1", ""),
        ({"http_proxy": PROXY}, "127.0.0.9:1", ""),
        ({"http_proxy": PROXY}, "[::1]:1", ""),
        ({"http_proxy": PROXY}, "unix:/run/x", ""),
        ({"http_proxy": PROXY, "no_proxy": "other, Example"}, "host.example:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "*.example"}, "host.example:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "*.other"}, "host.example:1", "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "*"}, "host.example:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "host.example:443"}, "host.example:1", ""),
        ({"http_proxy": PROXY, "no_proxy": " , "}, "host.example:1", "http_proxy"),
        ({"http_proxy": PROXY, "NO_PROXY": ".example"}, "host.example:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "fd00::/8"}, "[fd00::1]:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, "10.1.2.3:1", ""),
        ({"http_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, "11.1.2.3:1", "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "host.example", "no_grpc_proxy": ""}, "host.example:1", "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "", "NO_PROXY": "host.example"}, "host.example:1", "http_proxy"),
    ],
)
def test_the_variable_is_the_one_that_our_channels_use(environment, address, variable):
    assert variable_for(address, environment) == variable


def test_the_advice_names_the_variable_the_host_and_the_fix_but_no_password():
    text = advice("host.example:1", {"https_proxy": "http://me:sec/ret@proxy.example:3128"})
    assert "https_proxy sends calls to host.example through the proxy proxy.example:3128" in text
    assert "add host.example to no_proxy" in text
    assert "sec" not in text
    assert "to no_grpc_proxy" in advice("host.example:1", {"https_proxy": PROXY, "no_grpc_proxy": "x"})
    assert advice("localhost:1", {"https_proxy": PROXY}) == ""


def test_only_channels_to_this_machine_bypass_the_proxy():
    assert ("grpc.enable_http_proxy", 0) in options_for("127.0.0.1:1")
    assert "grpc.enable_http_proxy" not in dict(options_for("host.example:1"))


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_channels_to_excepted_hosts_bypass_the_proxy_however_they_are_written(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "*.example")
    assert ("grpc.enable_http_proxy", 0) in options_for("host.example:1")
    assert "grpc.enable_http_proxy" not in dict(options_for("host.other:1"))
