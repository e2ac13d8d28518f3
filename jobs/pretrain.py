"""`chexseg-platform pretrain` as a job; see runtime_env.yaml for how to submit it."""

import sys

from chexseg_platform.cli import main

main(["pretrain", *sys.argv[1:]])
