"""Checks the keys that sign and verify bundles: that they can be used, and fit one another."""

import asyncio
from pathlib import Path

from services.infra.findings import Report
from sightline.client.signing_keys import fingerprint, private_key, public_keys

MAKE = "make a pair with `sightline keys signing`, or correct the variable"


async def check_keys(
    report: Report, signing_key: str, signing_file: Path | None, bundle_key: Path | None, rule: str
) -> None:
    """`signing_file` is where the private key is from, if from a file."""
    trusted = await asyncio.to_thread(_trusted, report, bundle_key)
    signs = ""
    if signing_key:
        try:
            signs = fingerprint(private_key(signing_key).public_key())
        except ValueError as error:
            report.fault(f"SIGHTLINE_SIGNING_KEY: {error}", MAKE)
    if trusted is None:
        return
    if not trusted:
        report.ok("SIGHTLINE_BUNDLE_KEY is not set: bundles are used whether they are signed or not")
    elif rule == "off":
        report.warn("SIGHTLINE_BUNDLE_SIGNATURES is off: signatures are not checked", "set it to `require`")
    elif rule == "accept":
        remedy = "set it to `require` once all models are signed: see `bundle_unsigned` in the logs"
        report.warn("SIGHTLINE_BUNDLE_SIGNATURES is accept: bundles without a signature are used", remedy)
    else:
        report.ok(f"only bundles that were signed are used; trusted: {', '.join(trusted)}")
    if signs:
        _compare(report, signs, trusted)
        await asyncio.to_thread(_private, report, signing_file)


def _trusted(report: Report, file: Path | None) -> list[str] | None:
    """The fingerprints of the public keys; None if they cannot be used."""
    try:
        return [fingerprint(key) for key in public_keys(file.read_bytes())] if file else []
    except (OSError, ValueError) as error:
        report.fault(f"SIGHTLINE_BUNDLE_KEY cannot be used: {error}", MAKE)
        return None


def _compare(report: Report, signs: str, trusted: list[str]) -> None:
    if trusted and signs not in trusted:
        report.fault(
            f"SIGHTLINE_BUNDLE_KEY lacks the public key {signs}, whose private key SIGHTLINE_SIGNING_KEY is: predictors"
            " refuse what is trained here",
            "append that public key to the file, wherever there is one",
        )
    else:
        report.ok(f"bundles are signed here, with {signs}")


def _private(report: Report, file: Path | None) -> None:
    if file and file.stat().st_mode & 0o007:
        report.warn(f"any user of this machine can read the signing key {file}", f"chmod o-rwx {file}")
