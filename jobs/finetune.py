"""`chexseg-platform finetune` as a job; see runtime_env.yaml for how to submit it."""

import sys

from chexseg_platform.cli import main

main(["finetune", *sys.argv[1:]])
