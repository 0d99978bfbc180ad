"""Signing in with a token, and out."""

import re

import grpc
from starlette.responses import RedirectResponse, Response

from services.gateway.auth import AUTHORIZATION, PROJECT
from services.gateway.errors import problem_of
from services.gateway.studio.cookies import (
    PREFIX,
    PROJECT_COOKIE,
    SECRET_COOKIE,
    TOKEN_COOKIE,
    Cookies,
    forget,
    is_token,
    keep,
    new_secret,
)
from services.gateway.studio.visit import Visit
from services.gateway.upstream import REQUEST_ID, Session
from services.kit.names import is_project
from sightline.v1.project_service_pb2 import GetProjectRequest

_OWN_PATH = re.compile(re.escape(PREFIX) + r"(/[\w.~%/-]*)?(\?[\w.~%&=+-]*)?", re.ASCII)


async def show(visit: Visit) -> Response:
    """The form for the token."""
    problem = visit.site.text("sign_in.ended") if visit.query("ended") else ""
    return _form(visit, 200, problem, visit.query("next"))


async def sign_in(visit: Visit) -> Response:
    """Keeps the token if the suite takes it."""
    form = await visit.form()
    token, project, following = (form.get(name, "").strip() for name in ("token", "project", "next"))
    if not is_token(token) or (project and not is_project(project)):
        return _form(visit, 400, visit.site.text("sign_in.malformed"), following)
    metadata = {AUTHORIZATION: f"Bearer {token}", REQUEST_ID: dict(visit.session.metadata)[REQUEST_ID]}
    metadata |= {PROJECT: project} if project else {}
    session = Session(visit.session.services, tuple(metadata.items()))
    try:
        await session.call(session.services.projects.GetProject, GetProjectRequest())
    except grpc.aio.AioRpcError as error:
        problem = problem_of(error)
        return _form(visit, problem.status, problem.message, following)
    response = RedirectResponse(following if _OWN_PATH.fullmatch(following) else PREFIX, 303)
    forget(response)
    keep(response, TOKEN_COOKIE, token, secure=visit.secure)
    keep(response, SECRET_COOKIE, new_secret(), secure=visit.secure)
    if project:
        keep(response, PROJECT_COOKIE, project, secure=visit.secure)
    return response


async def sign_out(_visit: Visit) -> Response:
    """Forgets the token."""
    response = RedirectResponse(f"{PREFIX}/sign-in", 303)
    forget(response)
    return response


def _form(visit: Visit, status: int, problem: str, following: str) -> Response:
    visit.cookies = Cookies("" if status == 200 else visit.cookies.token, "", visit.cookies.secret)
    return visit.bare_page("sign_in.html", status, problem=problem, following=following)
