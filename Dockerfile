# The image of a cluster's nodes: docker build -t YOUR-REGISTRY/chexseg-platform:0.1.0 .
# constraints.txt pins every package; the tests pass with these versions.
FROM rayproject/ray:2.60.0-py311-gpu

WORKDIR /home/ray/chexseg-platform
COPY --chown=ray:users pyproject.toml README.md LICENSE constraints.txt ./
COPY --chown=ray:users platform platform
RUN pip install --no-cache-dir --constraint constraints.txt '.[service]' \
    && chexseg-platform --version

ENV RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
WORKDIR /home/ray
