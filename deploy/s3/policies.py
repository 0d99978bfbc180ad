"""Prints what each process may do in the store: a policy for its user there.

`make manifests` writes a file for each, for stores that attach policies to users (AWS, MinIO). A store that only has
policies of buckets (Ceph, Versity) gets one for all of them:

    python -m deploy.s3.policies --bucket sightline --principal 'arn:aws:iam:::user/{}'

`python -m services.infra.store_users` gives them to the store itself.
"""

from __future__ import annotations

import argparse
import sys

from services.infra.store_policies import BUCKET, PROCESSES, bucket_policy, policy, text


def main() -> None:
    """Prints the policy of a process, or that of a bucket."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("process", nargs="?", choices=PROCESSES, help="whose policy; without it, a bucket's")
    parser.add_argument("--bucket", default=BUCKET)
    parser.add_argument("--open", nargs="*", default=[], metavar="PREFIX", help="of SIGHTLINE_OPEN_PREFIXES")
    parser.add_argument(
        "--open-output", nargs="*", default=[], metavar="PREFIX", help="of SIGHTLINE_OPEN_OUTPUT_PREFIXES"
    )
    parser.add_argument("--principal", default="arn:aws:iam:::user/{}", help="how the store names the user {}")
    options = parser.parse_args()
    if options.process:
        made = policy(options.process, options.bucket, options.open, options.open_output)
    else:
        names = {process: options.principal.format(process) for process in PROCESSES}
        made = bucket_policy(options.bucket, names, options.open, options.open_output)
    sys.stdout.write(text(made))


if __name__ == "__main__":
    main()
