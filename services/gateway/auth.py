"""Where a request carries its token and its project, and how they travel on to the services."""

from collections.abc import Mapping

from services.gateway.upstream import Metadata

AUTHORIZATION, PROJECT = "authorization", "sightline-project"
# In the headers of the retired services, keys; here, tokens.
KEYS = ("ocp-apim-subscription-key", "prediction-key", "training-key")


def metadata_of(headers: Mapping[str, str]) -> Metadata:
    """The token and project of a request, as metadata of an rpc; `headers` finds names in any case.

    `Authorization: Bearer` wins over the headers of keys, of which the first in KEYS counts.
    """
    found: list[tuple[str, str]] = []
    bearer = headers.get(AUTHORIZATION, "")
    if bearer[:7].lower() == "bearer ":
        found.append((AUTHORIZATION, bearer))
    elif key := next((value for name in KEYS if (value := headers.get(name, "").strip())), ""):
        found.append((AUTHORIZATION, f"Bearer {key}"))
    if project := headers.get(PROJECT, ""):
        found.append((PROJECT, project))
    return tuple(found)
