"""Signing in, cookies, CSRF, headers, files, words, and what is shown when something fails."""

from __future__ import annotations

import hashlib
import json
import re
import string
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from services.gateway.studio.app import PAGES
from services.gateway.studio.assets import FOLDER
from services.gateway.studio.text import FILE
from services.infra.auth import Guard
from services.infra.static_keys import StaticKeys
from services.kit.errors import Draining, ModelNotFound, Unauthenticated
from sightline.plurals import fill
from sightline.v1.model_pb2 import Model
from sightline.v1.model_service_pb2 import ListModelsResponse
from tests.support.logs import captured_log, events
from tests.support.studio import browser

HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"  # htmx.org 4.0.1, dist/htmx.min.js
STUDIO = FILE.parent
NONE: dict[str, Any] = {"ListModels": lambda request: ListModelsResponse()}


def cookies(response: httpx2.Response) -> dict[str, str]:
    """What the response sets, by name."""
    return {line.partition("=")[0]: line for line in response.headers.get_list("set-cookie")}


async def test_without_authentication_nobody_signs_in():
    async with browser(NONE) as one:
        response = await one.open("/studio/models")
    assert response.status_code == 200
    assert "Sign out" not in response.text
    assert one.seen[0].metadata.get("authorization") is None


async def test_whoever_has_no_token_is_asked_for_it_and_returns_to_the_page():
    def refuse(request: Any) -> Any:
        raise Unauthenticated(rpc="ListModels", role="viewer", problem="the call has none")

    async with browser({"ListModels": refuse, "GetProject": refuse}) as one:
        asked = await one.open("/studio/models?page=x")
        assert asked.status_code == 303
        assert unquote(asked.headers["location"]) == "/studio/sign-in?next=/studio/models?page=x"
        page = await one.open(asked.headers["location"])
        assert page.status_code == 200
        part = await one("GET", "/studio/models", headers={"hx-request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/studio/sign-in")


async def test_signing_in_keeps_the_token_from_scripts_and_other_sites_and_every_call_carries_it():
    async with browser(NONE, base="https://gateway.test") as one:
        await one.open("/studio/sign-in")
        response = await one.post("/studio/sign-in", token=" slk_good ", project="acme", next="/studio/datasets?page=2")
        assert (response.status_code, response.headers["location"]) == (303, "/studio/datasets?page=2")
        kept = [line for line in response.headers.get_list("set-cookie") if "slk_good" in line or "acme" in line]
        assert len(kept) == 2
        for line in kept:
            assert "HttpOnly" in line
            assert "SameSite=strict" in line
            assert "Secure" in line
            assert "Path=/studio" in line
        page = await one.open("/studio/models")
    assert "Sign out" in page.text
    assert "slk_good" not in page.text
    for call in one.seen:
        assert call.metadata["authorization"] == "Bearer slk_good"
        assert call.metadata["sightline-project"] == "acme"


async def test_cookies_are_not_secure_where_there_is_no_tls_but_behind_a_proxy_that_ends_it():
    async with browser(NONE) as one:
        assert "Secure" not in cookies(await one.open("/studio/sign-in"))["sightline-secret"]
    async with browser(NONE) as one:
        response = await one.open("/studio/sign-in", headers={"x-forwarded-proto": "https"})
        assert "Secure" in cookies(response)["sightline-secret"]


async def test_a_token_that_the_suite_refuses_is_not_kept_and_the_page_says_why():
    def refuse(request: Any) -> Any:
        raise Unauthenticated(rpc="GetProject", role="viewer", problem="the token has expired")

    async with browser({"GetProject": refuse}) as one:
        await one.open("/studio/sign-in")
        response = await one.post("/studio/sign-in", token="slk_bad")
        malformed = await one.post("/studio/sign-in", token="slk bad\r\nx: y")
    assert response.status_code == 401
    assert "the token has expired" in response.text
    assert "slk_bad" not in response.text + str(response.headers)
    assert malformed.status_code == 400
    assert len(one.seen) == 1


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.test/", "//evil.test", "/studio//evil.test/../..\\", "/openapi.json", "/studio@evil", ""],
)
async def test_signing_in_leads_to_pages_of_the_studio_only(elsewhere: str):
    async with browser(NONE) as one:
        await one.open("/studio/sign-in")
        response = await one.post("/studio/sign-in", token="slk_good", next=elsewhere)
    assert response.headers["location"].startswith("/studio")
    assert "evil" not in response.headers["location"].partition("/studio")[0]
    assert not response.headers["location"].startswith("/studio@")


async def test_signing_out_forgets_everything():
    async with browser(NONE) as one:
        await one.open("/studio/sign-in")
        await one.post("/studio/sign-in", token="slk_good")
        await one.open("/studio/models")
        response = await one.post("/studio/sign-out")
        assert not one.client.cookies
    assert response.headers["location"] == "/studio/sign-in"


@pytest.mark.parametrize("path", sorted({path for method, path, _ in PAGES if method == "POST"}))
@pytest.mark.parametrize("kind", ["no token", "wrong token", "other site", "other origin", "malformed origin"])
async def test_no_change_is_made_for_another_sites_page(path: str, kind: str):
    """The stub has no answers: a call that reached it would fail the test."""
    headers = {
        "other site": {"sec-fetch-site": "cross-site"},
        "other origin": {"origin": "https://evil.test"},
        "malformed origin": {"origin": "https://["},
    }
    async with browser(NONE) as one:
        await one.open("/studio/models")
        one.seen.clear()
        csrf = {"no token": "", "wrong token": "0" * 64}.get(kind, one.csrf)
        url = "/studio" + re.sub(r"\{\w+\}", "x", path)
        sent = {"csrf": csrf} if kind != "no token" else {}
        response = await one("POST", url, data=sent, headers=headers.get(kind, {}))
    assert response.status_code == 403
    assert "ForeignRequest" in response.text
    assert not one.seen


async def test_a_csrf_token_is_of_one_browser_only():
    async with browser(NONE) as one, browser(NONE) as other:
        await one.open("/studio/models")
        await other.open("/studio/models")
        assert one.csrf != other.csrf
        response = await one("POST", "/studio/sign-out", data={"csrf": other.csrf})
    assert response.status_code == 403


async def test_the_token_of_a_cookie_does_not_count_outside_the_studio(tmp_path: Path):
    async with browser(NONE) as one:
        await one.open("/studio/sign-in")
        await one.post("/studio/sign-in", token="slk_good")
        one.seen.clear()
        await one("GET", "/computervision/models", headers={"cookie": "sightline-token=slk_good"})
    assert "authorization" not in one.seen[0].metadata


async def test_with_keys_the_gateway_itself_refuses_and_only_signing_in_and_files_are_open(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("")
    async with browser(NONE, guard=Guard(StaticKeys(keys), None)) as one:
        for method, path, _ in PAGES:
            response = await one(method, "/studio" + re.sub(r"\{\w+\}", "x", path))
            refused = response.headers.get("location", response.headers.get("hx-redirect", ""))
            assert refused.startswith("/studio/sign-in") or path in ("/sign-in", "/sign-out"), path
        assert (await one.open("/studio/sign-in")).status_code == 200
        assert (await one("GET", "/studio/static/studio.css")).status_code == 200
        assert (await one("GET", "/computervision/models")).status_code == 401
    assert not one.seen


async def test_every_response_forbids_what_pages_do_not_need():
    async with browser(NONE) as one:
        for path in ("/studio/models", "/studio/sign-in", "/studio/none", "/studio/static/studio.js"):
            response = await one("GET", path)
            policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
            assert policy.pop("default-src") == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert "unsafe" not in str(policy)
            assert response.headers["x-content-type-options"] == "nosniff"
        assert (await one("GET", "/studio/models")).headers["cache-control"] == "no-store"


def test_no_template_has_inline_scripts_or_styles_or_another_host():
    for path in [*STUDIO.glob("templates/*.html")]:
        text = path.read_text()
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:|https?://", text), path.name
        assert "|safe" not in text, path.name
    for path in FOLDER.glob("*.css"):
        assert not re.search(r"url\(|@import", path.read_text())


async def test_files_are_kept_as_long_as_their_content_is_the_same():
    async with browser(NONE) as one:
        page = await one.open("/studio/models")
        for url in re.findall(r'"(/studio/static/[^"]+)"', page.text):
            response = await one("GET", url)
            assert response.status_code == 200
            assert "immutable" in response.headers["cache-control"]
        stale = await one("GET", "/studio/static/studio.css?v=0")
        missing = await one("GET", "/studio/static/..%2fapp.py")
    assert stale.headers["cache-control"] == "no-cache"
    assert stale.headers["content-type"].startswith("text/css")
    assert missing.status_code == 404


def test_htmx_is_the_released_file_and_its_licence_is_beside_it():
    assert hashlib.sha256((FOLDER / "htmx.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (FOLDER / "htmx.LICENSE").read_text()


def test_the_wheel_has_every_file_of_the_studio():
    services = STUDIO.parents[1]
    wheel = tomllib.loads((services / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = [services / one.removeprefix("/") for one in wheel["include"] if one.startswith("/")]
    for path in STUDIO.rglob("*.*"):
        assert path.suffix in (".py", ".pyc") or any(path.is_relative_to(one) for one in included), path


def test_every_word_is_in_the_file_and_none_is_left_over():
    text = json.loads(FILE.read_text())
    sources = [*STUDIO.glob("templates/*.html"), *STUDIO.glob("*.py"), *STUDIO.glob("static/*.js")]
    code = "\n".join(path.read_text() for path in sources)
    called = set(re.findall(r"""\b(?:t|text)\(\s*['"]([\w.]+\w)['"]\s*[,)]""", code))
    assert not called - text.keys()
    groups = set(re.findall(r"""\b(?:named|chip)\(\s*['"]([\w.]+)['"]""", code))
    groups |= set(re.findall(r"""\bt\(['"]([\w.]+)\.['"] \+""", code))
    quoted = set(re.findall(r"""['"]([\w.]+)['"]""", code)) | {
        f"js.{name}" for name in re.findall(r"text\.(\w+)", code)
    }
    quoted |= {f"js.kind_{name}" for name in ("detection", "classification")}
    quoted |= {f"js.split_{name}" for name in ("train", "val", "test", "none")}
    unused = {key for key in text if key not in quoted and key.rpartition(".")[0] not in groups}
    assert unused == set()


def test_no_text_says_1_images():
    for key, template in json.loads(FILE.read_text()).items():
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        assert not re.search(
            r"\b1 (images|categories|annotations|objects)\b", fill(template, dict.fromkeys(fields, 1))
        ), key


def test_no_template_and_no_script_has_words_of_its_own():
    names = {"curl", "Python", "gRPC", "default"}  # which no language translates; the last is a project
    for path in STUDIO.glob("templates/*.html"):
        text = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}|<pre.*?</pre>", " ", path.read_text(), flags=re.DOTALL)
        said = re.findall(r"\s(?:alt|title|placeholder|aria-label|data-done)=\"([^\"]*\w[^\"]*)\"", text)
        said += re.sub(r"<[^>]*>|&\w+;", " ", text).split()
        words = {word for word in said if re.search(r"[^\W\d_]{2}", word) and not re.search("[/=]", word)}  # no urls
        assert not words - names, path.name
    for path in FOLDER.glob("*.js"):
        code = re.sub(r"^\s*(//|/\*\*).*|\s// .*", "", path.read_text(), flags=re.MULTILINE)
        assert path.name == "htmx.min.js" or not re.findall(r"[\"`'][A-Z][a-z]+ [a-z]+[^\"`']*[\"`']", code), path.name


async def test_a_failure_is_shown_with_the_services_words_and_the_id_of_the_request():
    def refuse(request: Any) -> Any:
        raise ModelNotFound(name="models/<script>alert(1)</script>")

    def away(request: Any) -> Any:
        raise Draining(service="trainer")

    async with browser({"GetModel": refuse, "ListModels": away}) as one:
        missing = await one.open("/studio/models/x")
        later = await one.open("/studio/models", headers={"x-request-id": "mine"})
        nowhere = await one.open("/studio/nowhere")
        wrong = await one("PUT", "/studio/models")
    assert missing.status_code == 404
    assert "ModelNotFound" in missing.text
    assert "<script>alert" not in missing.text
    assert "&lt;script&gt;alert" in missing.text
    assert later.status_code == 503
    assert "<code>mine</code>" in later.text
    assert nowhere.status_code == 404
    assert '<html lang="en">' in nowhere.text
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["allow"]


async def test_a_bug_has_a_page_with_an_id_that_is_in_the_log():
    def fail(request: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    with captured_log() as log:
        async with browser({"ListModels": fail}) as one:
            page = await one.open("/studio/models")
            part = await one.open("/studio/models", headers={"hx-request": "true"})
    first, second = events(log, "internal_error")
    assert page.status_code == part.status_code == 500
    assert '<html lang="en">' in page.text
    assert first["error_id"] in page.text
    assert second["error_id"] in part.text
    assert "secret" not in page.text + part.text
    assert "content-security-policy" in page.headers


async def test_a_page_is_of_use_while_the_trainer_does_not_say_who_the_caller_is():
    def away(request: Any) -> Any:
        raise Draining(service="trainer")

    answers = {"GetProject": away, "ListModels": lambda request: ListModelsResponse(models=[Model(name="models/m")])}
    async with browser(answers) as one:
        response = await one.open("/studio/models")
    assert response.status_code == 200
    assert "/studio/models/m" in response.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:50054", 200),
        ("127.0.0.1:50054", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize("path", ["/studio/models", "/openapi.json"])
async def test_a_request_for_another_host_is_refused(path: str, host: str, status: int):
    async with browser(NONE, allowed_hosts="localhost, 127.0.0.1") as one:
        assert (await one.open(path, headers={"host": host})).status_code == status
