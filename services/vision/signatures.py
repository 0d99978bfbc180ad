"""What becomes of bundles with and without a signature, and how that is counted. `signing` does it."""

from enum import StrEnum

from services.kit.telemetry import Metric, MetricKind


class SignatureRule(StrEnum):
    """What becomes of bundles without a signature, where public keys are set. A wrong signature is always refused."""

    REQUIRE = "require"
    ACCEPT = "accept"  # with a warning
    OFF = "off"  # signatures are not looked at, as without keys


class SignatureResult(StrEnum):
    """What was made of a bundle's signature."""

    VALID = "valid"
    UNSIGNED = "unsigned"  # and accepted
    REFUSED = "refused"


BUNDLE_SIGNATURES = Metric(  # Is something else than the installation's trainers writing models?
    "sightline_bundle_signatures_total",
    MetricKind.COUNTER,
    "Bundles whose signature was checked before use: valid, unsigned (and accepted) or refused.",
    ("result",),
    values=(tuple(SignatureResult),),
)
